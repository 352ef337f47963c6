"""Imports TensorFlow without the irrelevant lines that it writes to stderr on every start."""

import contextlib
import importlib.abc
import importlib.util
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator

# TensorFlow's C++ runtime writes these before it reads TF_CPP_MIN_LOG_LEVEL. Only these lines are
# dropped, on machines with and without GPUs.
_NOISE = re.compile(
    rb"All log messages before absl::InitializeLog\(\) is called"
    rb"|port\.cc:\d+\] oneDNN custom operations are on"
    rb"|cudart_stub\.cc:\d+\] Could not find cuda drivers"
    rb"|cuda_platform\.cc:\d+\] failed call to cuInit: INTERNAL: CUDA error: Failed call to "
    rb"cuInit: UNKNOWN ERROR \(303\)"
    rb"|cpu_feature_guard\.cc:\d+\] This TensorFlow binary is optimized"
    rb"|^To enable the following instructions: "
)


def when_tensorflow_is_imported() -> None:
    """Filters stderr during the first import of TensorFlow, by any module, such as Keras.

    The output to stderr is buffered during the import and written afterwards without the known
    irrelevant lines. Nothing happens if TensorFlow has been imported already.
    """
    if "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, _QuietFinder())


class _QuietFinder(importlib.abc.MetaPathFinder):
    """Finds TensorFlow once, with the regular finders, and wraps its loader."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _QuietLoader(spec.loader)
        return spec


class _QuietLoader(importlib.abc.Loader):
    """Runs the module's regular loader while stderr is filtered."""

    def __init__(self, loader):
        self._loader = loader

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module) -> None:
        module.__spec__.loader = module.__loader__ = self._loader  # leaves no trace of this loader
        with _filtered_stderr():
            self._loader.exec_module(module)
            module.config.list_physical_devices()  # this writes the remaining lines
        # Its INFO lines report every variable that is read under a strategy.
        module.get_logger().setLevel(logging.WARNING)
        module.get_logger().addFilter(_is_relevant)
        logging.getLogger("absl").addFilter(_is_relevant)


def _is_relevant(record: logging.LogRecord) -> bool:
    """Returns False for lines that tf.train.Checkpoint logs at every save.

    It also returns False for the 16 lines of settings that the chief of a cluster with parameter
    servers logs when it connects.
    """
    message = record.getMessage()
    return not (
        message.startswith(("Sharding callback duration", "default session config:"))
        or "MultiDeviceSaver.save" in message
    )


@contextlib.contextmanager
def _filtered_stderr() -> Iterator[None]:
    """Filters all output to file descriptor 2 inside the block, including that of C++ code."""
    try:
        real = os.dup(2)
    except OSError:  # stderr is closed
        yield
        return
    with tempfile.TemporaryFile() as buffer:
        sys.stderr.flush()
        os.dup2(buffer.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            buffer.seek(0)
            shown = b"".join(line for line in buffer if not _NOISE.search(line))
            if shown:
                os.write(2, shown)
