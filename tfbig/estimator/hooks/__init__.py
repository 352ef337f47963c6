"""Hooks of tf.estimator, one class per file; public as `tfbig.estimator.<Name>`."""
