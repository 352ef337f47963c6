"""`python -m tfbig` is the command `tfbig`."""

from tfbig.cli.main import run

if __name__ == "__main__":
    run()
