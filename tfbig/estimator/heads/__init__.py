"""Heads: from logits to the loss, the predictions and the metrics of an EstimatorSpec."""
