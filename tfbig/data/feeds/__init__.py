"""What the training loop reads: global batches, stacked, with their position in the data."""
