"""The loop: when to train, log, evaluate, save and stop."""
