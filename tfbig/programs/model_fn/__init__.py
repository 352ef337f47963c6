"""Programs of estimator-style model functions."""
