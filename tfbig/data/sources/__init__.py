"""The Sources, one module for each kind of data."""
