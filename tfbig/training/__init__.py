"""When to compute what: the step, the loop, checkpoints, evaluation and callbacks."""
