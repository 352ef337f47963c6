"""The command `tfbig`: one module per verb."""
