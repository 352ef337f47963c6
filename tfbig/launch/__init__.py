"""Starts the tasks of a cluster and supervises them."""
