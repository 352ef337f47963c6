"""One callback a file; public as `tfbig.callbacks`."""
