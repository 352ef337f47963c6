"""What to compute: one interface over Keras models and model functions."""
