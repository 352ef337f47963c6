"""Evaluation metrics that give the same result however the data is split into batches."""
