"""The command `tfbig`: one module for each verb."""
