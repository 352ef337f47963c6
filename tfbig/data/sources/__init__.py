"""Sources of examples, one kind of data in a file."""
