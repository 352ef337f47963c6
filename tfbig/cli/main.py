"""The command `tfbig`: dispatches to the module of a verb."""

import importlib
import signal
import sys

import tfbig

_VERBS = {
    "train": "train a model from a config file",
    "finetune": "adapt a saved model by a recipe, or a function, from a config file",
    "evaluate": "evaluate a saved model on the held-out data of a config",
    "launch": "run a command as the tasks of a cluster on this machine",
    "migrate": "list what must change in a TF1 or tf.estimator script, and change part of it",
}
_NOT_BUILT = ("predict", "export", "plan")
_HELP_WORDS = ("-h", "--h", "-help", "--help", "help")


def run() -> None:
    """Runs the command and ends the process with its exit code; the entry point of `tfbig`.

    Exit codes: 0 for success, 1 for an error, 2 for bad flags, 130 and 143 for SIGINT and SIGTERM.
    """
    # Training handles both signals itself; these handlers work before and after it.
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    sys.exit(main(sys.argv))


def _stop(number: int, frame) -> None:
    del frame
    print(f"stopped by {signal.Signals(number).name}", file=sys.stderr)
    sys.exit(128 + number)


def main(argv: list[str]) -> int:
    """Runs one command and returns its exit code.

    Example: `main(["tfbig", "train", "--config=configs/digits_mlp.py"])`.

    Args:
        argv: the command line, including "tfbig".

    Returns:
        The exit code.
    """
    words = argv[1:]
    if not words:
        print(_usage(), file=sys.stderr)
        return 2
    verb = words[0]
    if verb in _HELP_WORDS:
        print(_usage())
        return 0
    if verb in ("--version", "-version"):
        print(f"tfbig {tfbig.__version__}")
        return 0
    if verb in _NOT_BUILT:
        return _usage_error(f"tfbig {verb} is not built yet; the verbs are: {', '.join(_VERBS)}")
    if verb not in _VERBS:
        return _usage_error(f"unknown verb {verb!r}; the verbs are: {', '.join(_VERBS)}")
    return importlib.import_module(f"tfbig.cli.{verb}").main(argv)


def _usage() -> str:
    lines = ["usage: tfbig <verb> [flags]", ""]
    lines += [f"  tfbig {verb:<10} {text}" for verb, text in _VERBS.items()]
    lines += ["", "tfbig <verb> --help lists the flags of a verb, tfbig --version the version."]
    return "\n".join(lines)


def _usage_error(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
