"""Hooks of estimator code, one class a file; public as `tfbig.estimator.<Name>`."""
