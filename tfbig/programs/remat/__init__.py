"""Recomputation of activations in the backward pass."""
