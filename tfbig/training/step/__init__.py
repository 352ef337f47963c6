"""The step: compute sums, then update."""
