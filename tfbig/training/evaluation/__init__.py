"""Evaluation and prediction by the same loop."""
