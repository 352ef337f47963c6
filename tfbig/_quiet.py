"""Imports TensorFlow without the lines that it writes on every start and nobody can act on."""

import contextlib
import importlib.abc
import importlib.util
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator

# Written by TensorFlow's C++ runtime before its log level is read, so TF_CPP_MIN_LOG_LEVEL does
# not reach them. Only these are dropped, on a machine without GPUs and elsewhere alike.
_CHATTER = re.compile(
    rb"All log messages before absl::InitializeLog\(\) is called"
    rb"|port\.cc:\d+\] oneDNN custom operations are on"
    rb"|cudart_stub\.cc:\d+\] Could not find cuda drivers"
    rb"|cuda_platform\.cc:\d+\] failed call to cuInit: INTERNAL: CUDA error: Failed call to "
    rb"cuInit: UNKNOWN ERROR \(303\)"
    rb"|cpu_feature_guard\.cc:\d+\] This TensorFlow binary is optimized"
    rb"|^To enable the following instructions: "
)


def when_tensorflow_is_imported() -> None:
    """Makes the first import of TensorFlow a quiet one, whoever asks for it: Keras, say.

    What is written to standard error meanwhile is kept back, and shown at the end but for the
    known chatter. Nothing is changed if TensorFlow is there already.
    """
    if "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, _QuietFinder())


class _QuietFinder(importlib.abc.MetaPathFinder):
    """Finds TensorFlow, once, by the finders that would have found it."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _QuietLoader(spec.loader)
        return spec


class _QuietLoader(importlib.abc.Loader):
    """Runs a module's own loader, filtering standard error."""

    def __init__(self, loader):
        self._loader = loader

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module) -> None:
        module.__spec__.loader = module.__loader__ = self._loader  # as if this had not been here
        with _filtered_stderr():
            self._loader.exec_module(module)
            module.config.list_physical_devices()  # this is when the rest of it is written
        # Its INFO lines tell of every variable that is read under a strategy.
        module.get_logger().setLevel(logging.WARNING)
        module.get_logger().addFilter(_is_news)
        logging.getLogger("absl").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """False for what is logged each time that tf.train.Checkpoint saves, of one device or many.

    And for the 16 lines of settings that the chief of a cluster with ps logs as it connects.
    """
    message = record.getMessage()
    return not (
        message.startswith(("Sharding callback duration", "default session config:"))
        or "MultiDeviceSaver.save" in message
    )


@contextlib.contextmanager
def _filtered_stderr() -> Iterator[None]:
    """Filters what any code, C++ too, writes to file descriptor 2 inside the block."""
    try:
        real = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    with tempfile.TemporaryFile() as kept:
        sys.stderr.flush()
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            kept.seek(0)
            shown = b"".join(line for line in kept if not _CHATTER.search(line))
            if shown:
                os.write(2, shown)
