"""Which cluster this process belongs to: one module for each kind of cluster."""
