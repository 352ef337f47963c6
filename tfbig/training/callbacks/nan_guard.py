"""NaNGuard: stops a run at the first NaN or infinite loss, and says what to check."""

import logging
import os
import re
import traceback
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfbig.errors import TrainingDiverged
from tfbig.training.callbacks.callback import LoopCallback

log = logging.getLogger("tfbig")

_OP = re.compile(r'in output \d+ of (?:eagerly-executing|graph) op "([^"]+)"')
_NODE = re.compile(r"\{\{node ([^}]+)/CheckNumericsV2\}\}")
_DTYPE = re.compile(r"dtype: <dtype: '([^']+)'>")
_SHAPE = re.compile(r"shape: (\([^)]*\))")
_LAYER = re.compile(r"Exception encountered when calling ([\w.]+\(\))")
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in ')
_LIBRARIES = tuple(
    os.path.dirname(os.path.abspath(module.__file__)) + os.sep for module in (tf, keras)
)


class NaNGuard(LoopCallback):
    """Stops training with an error at the first step whose loss is NaN or infinite.

    The error message names that step, the input batch if it contains the NaN already, and what to
    try. A run that continued with NaN weights would waste time: all later checkpoints are useless.

    Example:

    ```python
    guard = tfbig.callbacks.NaNGuard(find_op=True)
    tfbig.train_distributed(model_fn, input_fn, max_steps=2000, callbacks=[guard])
    # tfbig.errors.TrainingDiverged: the loss is NaN or infinite, for the first time at step 37;
    # the first op with a NaN or infinite output is Log (float32, shape (64,)), model.py line 12; …
    ```

    Args:
        find_op: bool, whether to run the step again, without XLA and with the output of every op
            checked, to name the first op whose output is not finite. It costs nothing before that.

    Attributes:
        locate_op: a function that the loop sets: `locate_op() -> str | None` runs the step again
            with `locate_first_bad_op`.

    Raises:
        TrainingDiverged: from `on_nonfinite`, always.
    """

    def __init__(self, find_op: bool = False):
        super().__init__()
        self.find_op = bool(find_op)
        self.locate_op: Callable[[], str | None] | None = None

    def on_nonfinite(self, step: int, describe: Callable[[], str | None] | None = None) -> None:
        """Called by the loop after the first loss that is not finite.

        Args:
            step: the global step of that loss, counted from 1.
            describe: returns a sentence about the batch of that step if its values explain the
                loss, such as "features['x'] has NaN in example 3", else None.

        Raises:
            TrainingDiverged: always.
        """
        bad_input = _diagnose(describe, "describing the input batch")
        parts = [f"the loss is NaN or infinite, for the first time at step {step}"]
        if bad_input:
            parts.insert(0, bad_input.strip().rstrip("."))
        if self.find_op:
            op = _diagnose(self.locate_op, "looking for the first op with a NaN")
            parts.append(
                f"the first op with a NaN or infinite output is {op}"
                if op
                else "no op had a NaN or infinite output when the step was run again"
            )
        if bad_input:
            advice = "repair or leave out such examples in input_fn, and check the input"
        else:
            advice = (
                "try a lower learning rate, or clipping (global_clipnorm=1.0 on the optimizer), "
                "and check the input"
            )
        if not self.find_op:
            advice += "; NaNGuard(find_op=True) names the first op with a NaN"
        parts.append(advice)
        raise TrainingDiverged(" ".join("; ".join(parts).split()) + ".")


def _diagnose(fn: Callable[[], str | None] | None, task: str) -> str | None:
    """Returns the result of a diagnosis; if it fails, it must not hide the original error."""
    if fn is None:
        return None
    try:
        return fn()
    except Exception as error:
        log.warning("%s failed: %s", task, " ".join(str(error).split())[:300])
        return None


def locate_first_bad_op(fn: Callable, *args: Any) -> str | None:
    """Runs `fn` with the output of every op checked; names the first NaN or infinite one.

    tf.functions inside `fn` run op by op, without XLA, in program order. Code that needs a graph
    (TF1 code, tf.gradients) runs as a graph instead. Ops with intentionally infinite outputs, such
    as a mask of -inf, are named too. The function uses tf.debugging.enable_check_numerics, and
    disables it afterwards.

    Example:

    ```python
    def step(x):
        return tf.reduce_sum(tf.math.log(x))

    tfbig.callbacks.locate_first_bad_op(step, tf.constant([1.0, -1.0]))
    # 'Log (float32, shape (2,)), model.py line 2'
    ```

    Args:
        fn: a function that runs TensorFlow ops; its result is ignored, its side effects remain.
        *args: arguments of `fn`; a NaN in them is found at the first op that uses it.

    Returns:
        The op's type, its name if that differs, the dtype and shape of its output, and the line of
        the user's code that created it; None if all outputs were finite or `fn` failed for another
        reason.
    """
    eagerly = tf.config.functions_run_eagerly()
    tf.debugging.enable_check_numerics()
    try:
        tf.config.run_functions_eagerly(True)
        try:
            fn(*args)
            return None
        except Exception as error:
            found = _describe_op(error)
            if found:
                return found
        tf.config.run_functions_eagerly(False)
        try:
            # A new trace, so that the graph contains the checks; without XLA, which has no kernel
            # for them.
            tf.function(fn, jit_compile=False)(*args)
            return None
        except Exception as error:
            found = _describe_op(error)
            if not found:
                reason = " ".join(str(error).split())[:300]
                log.warning("looking for the first op with a NaN failed: %s", reason)
            return found
    finally:
        tf.config.run_functions_eagerly(eagerly)
        tf.debugging.disable_check_numerics()


def _describe_op(error: Exception) -> str | None:
    """Describes the op that a numerics check names in its error; None for another error."""
    message = str(error)
    found = _OP.search(message)
    if not found:
        return None
    op_type = found.group(1)
    node, layer = _NODE.search(message), _LAYER.search(message)
    dtype, shape = _DTYPE.search(message), _SHAPE.search(message)
    facts = [f"named {node.group(1)}"] if node and node.group(1) != op_type else []
    facts += [dtype.group(1)] if dtype else []
    facts += [f"shape {shape.group(1)}"] if shape else []
    text = f"{op_type} ({', '.join(facts)})" if facts else op_type
    if layer:
        text += f" in {layer.group(1)}"
    line = _user_line(error)
    return f"{text}, {line}" if line else text


def _user_line(error: Exception) -> str | None:
    """The innermost line in the traceback outside of TensorFlow, Keras and tfbig."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + os.sep
    frames = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    # A graph fails far from the line that created the op; only the message contains that line.
    frames += _FRAME.findall(str(error))
    for filename, line in reversed(frames):
        path = os.path.abspath(filename)
        generated = filename.startswith("<") or "__autograph_generated_file" in path
        if not generated and not path.startswith((*_LIBRARIES, package)):
            return f"{os.path.basename(path)} line {line}"
    return None
