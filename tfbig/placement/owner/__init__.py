"""Optimizer state in slices, one for each replica, which owns it (ZeRO stage 1)."""
