"""Imports TensorFlow without the lines that it writes on every start and nobody can act on."""

import contextlib
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


def import_tensorflow() -> None:
    """Imports TensorFlow, if it is not there yet, and finds its devices.

    What is written to standard error meanwhile is kept back, and shown at the end but for the
    known chatter. Devices are found here because that is when the rest of it is written.
    """
    if "tensorflow" in sys.modules:
        return
    with _filtered_stderr():
        import tensorflow as tf

        tf.config.list_physical_devices()


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
