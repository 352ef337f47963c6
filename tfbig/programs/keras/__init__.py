"""Programs of Keras models."""
