"""Optimizer state in slices, each at the replica that owns it (ZeRO stage 1)."""
