"""The command `tfbig`: the first word names the verb, each verb has a module of its own."""

import importlib
import signal
import sys

import tfbig

_VERBS = {
    "train": "train a model from a config file",
    "finetune": "adapt a saved model by a recipe, or a function, from a config file",
    "evaluate": "tell how good a saved model is on a config's held-out data",
    "launch": "run a command as the tasks of a cluster on this machine",
    "migrate": "say what must change in a script of TF1 or tf.estimator, and change part of it",
}
_NOT_BUILT = ("predict", "export", "plan")
_HELP_WORDS = ("-h", "--h", "-help", "--help", "help")


def run() -> None:
    """The entry point of the command; ends the process with the verb's exit code.

    Exit codes: 0 done, 1 an error, 2 bad flags, 130 and 143 stopped by SIGINT and SIGTERM.
    """
    # Training handles both signals itself; this is for the time before it and after.
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
        argv: the words of the command line, "tfbig" included.
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
        return _refuse(f"tfbig {verb} is not built yet; the verbs are: {', '.join(_VERBS)}")
    if verb not in _VERBS:
        return _refuse(f"unknown verb {verb!r}; the verbs are: {', '.join(_VERBS)}")
    return importlib.import_module(f"tfbig.cli.{verb}").main(argv)


def _usage() -> str:
    lines = ["usage: tfbig <verb> [flags]", ""]
    lines += [f"  tfbig {verb:<10} {text}" for verb, text in _VERBS.items()]
    lines += ["", "tfbig <verb> --help lists the flags of a verb, tfbig --version the version."]
    return "\n".join(lines)


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
