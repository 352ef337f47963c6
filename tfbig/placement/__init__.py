"""Where work runs and where parameters live."""
