"""The canned estimators: a network on feature columns, an optimizer and a head."""
