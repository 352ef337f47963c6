"""Replicas with a copy of every variable."""
