"""Metrics that are exact over any split of the data, for evaluation."""
