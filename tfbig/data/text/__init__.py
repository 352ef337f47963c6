"""Text documents and files of tokens."""
