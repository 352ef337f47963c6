"""tfbig's callbacks, one a file, public as `tfbig.callbacks`; and what runs all callbacks."""
