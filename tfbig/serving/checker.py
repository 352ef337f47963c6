"""Checks a SavedModel in another process, where the code of the model is not loaded."""

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tfbig.errors import UserError
from tfbig.serving.arrays import read_arrays, write_arrays

_TIMEOUT_SECONDS = 600.0  # for one SavedModel, including the start of the process
# Relative to the largest output; devices differ by rounding, and half precision by more.
_TOLERANCE, _HALF_TOLERANCE = 1e-3, 5e-2
_OPERATIONS = ("tensorflow_text",)  # modules that register TensorFlow operations


class Call(NamedTuple):
    """A call of a SavedModel, and the outputs of the model for the same inputs.

    Attributes:
        signature: the name of the signature; None for the endpoint `serve`.
        inputs: arrays by name, or the arguments of `serve` as structures of arrays.
        outputs: arrays by name, or a list of the arrays that `serve` returns.
        random: whether the outputs differ between calls, so that only dtypes and shapes can be
            compared.
    """

    signature: str | None
    inputs: Any
    outputs: dict[str, np.ndarray] | list[np.ndarray]
    random: bool = False


class Checker:
    """The process that loads SavedModels; it serves all exports of this process.

    It is started early, because importing TensorFlow takes seconds. It uses no GPU. It exits when
    this process exits for any reason, or when it has been idle for a while.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._owner, self._log = 0, None

    def start(self) -> None:
        """Starts the process if it is not running, so that it is ready when it is needed."""
        with self._lock:
            self._start()

    def send(self, request: dict) -> dict:
        """Sends a request to the process and returns its answer.

        Raises:
            OSError: the process could not be started, died, or did not answer in time.
        """
        with self._lock:
            for may_retry in (True, False):
                self._start()
                try:
                    os.write(self._process.stdin.fileno(), json.dumps(request).encode() + b"\n")
                    return json.loads(self._read_line())
                except (BrokenPipeError, EOFError) as error:
                    code = self._end()
                    if not (may_retry and code == 0):  # 0: it has just exited because it was idle
                        raise OSError(f"the process that loads it ended with {code}") from error
        raise AssertionError

    def end(self) -> None:
        """Ends the process, unless it was started before this process was forked."""
        with self._lock:
            if self._process is not None and self._owner == os.getpid():
                self._end()

    @property
    def pid(self) -> int | None:
        """The id of the process while it is running; None otherwise."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if running and self._owner == os.getpid() else None

    def _start(self) -> None:
        if self._owner != os.getpid():
            self._process = None  # it belongs to the process from which this one was forked
        if self._process is not None and self._process.poll() is None:
            return
        environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
        environment |= {
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tfbig.serving.check_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment,
        )
        if self._owner == 0:
            atexit.register(self.end)
        self._owner = os.getpid()

    def _read_line(self) -> bytes:
        line, until = b"", time.monotonic() + _TIMEOUT_SECONDS
        stream = self._process.stdout.fileno()
        while not line.endswith(b"\n"):
            if not select.select([stream], [], [], max(0.0, until - time.monotonic()))[0]:
                self._process.kill()
                self._end()
                raise OSError(
                    f"the process that loads it did not answer within {_TIMEOUT_SECONDS:g} s"
                )
            data = os.read(stream, 2**16)
            if not data:
                raise EOFError
            line += data
        return line

    def _end(self) -> int:
        process, self._process = self._process, None
        with contextlib.suppress(OSError):
            os.write(process.stdin.fileno(), b"\n")  # a forked child may hold the pipe open
            process.stdin.close()
        try:
            code = process.wait(5)
        except subprocess.TimeoutExpired:  # it hangs in TensorFlow
            process.kill()
            code = process.wait()
        process.stdout.close()
        return code


CHECKER = Checker()


def check_saved_model(folder: str, calls: Sequence[Call], half: bool = False) -> None:
    """Loads and calls a SavedModel in another process, and compares the outputs.

    Args:
        folder: the folder of the SavedModel.
        calls: the calls to make; without calls, the SavedModel is only loaded.
        half: whether a layer computes in float16 or bfloat16, which needs a larger tolerance.

    Raises:
        UserError: the SavedModel cannot be loaded or called, or its outputs differ. The message
            is a short reason.
    """
    with tempfile.TemporaryDirectory(prefix="tfbig-check-") as scratch:
        requests = []
        for number, call in enumerate(calls):
            paths = [os.path.join(scratch, f"{number}-{kind}.npz") for kind in ("in", "out")]
            if call.signature is None:
                arrays: list = []
                structure: Any = _encode(tuple(call.inputs), arrays)
            else:
                structure, arrays = list(call.inputs), list(call.inputs.values())
            write_arrays(paths[0], arrays)
            requests.append(dict(zip(("inputs", "outputs"), paths, strict=True)))
            requests[-1] |= {"signature": call.signature, "structure": structure}
        modules = [name for name in _OPERATIONS if name in sys.modules]
        request = {"folder": os.path.abspath(folder), "calls": requests, "modules": modules}
        try:
            answer = CHECKER.send(request)
        except OSError as error:
            raise UserError(str(error)) from error
        if "error" in answer:
            raise UserError(answer["error"])
        for call, names, sent in zip(calls, answer["outputs"], requests, strict=True):
            _compare(
                call, names, read_arrays(sent["outputs"]), _HALF_TOLERANCE if half else _TOLERANCE
            )


def _encode(structure: Any, arrays: list) -> Any:
    """Encodes a structure for JSON with indices instead of arrays, and appends the arrays."""
    if isinstance(structure, dict):
        return {"dict": [[key, _encode(structure[key], arrays)] for key in structure]}
    if isinstance(structure, (list, tuple)):
        kind = "tuple" if isinstance(structure, tuple) else "list"
        return {kind: [_encode(part, arrays) for part in structure]}
    arrays.append(structure)
    return len(arrays) - 1


def _compare(call: Call, names: list | None, outputs: list, tolerance: float) -> None:
    where = f"the signature {call.signature!r}" if call.signature else "it"
    if isinstance(call.outputs, dict):
        expected_names = sorted(call.outputs)
        if names != expected_names:
            raise UserError(f"{where} has the outputs {names}, the model {expected_names}")
        expected = [call.outputs[name] for name in expected_names]
    else:
        expected = list(call.outputs)
        if len(outputs) != len(expected):
            raise UserError(f"{where} returns {len(outputs)} outputs, the model {len(expected)}")
        names = names or [str(number) for number in range(len(expected))]
    for name, output, wanted in zip(names, outputs, expected, strict=True):
        difference = _difference(output, np.asarray(wanted), tolerance, call.random)
        if difference:
            raise UserError(f"{where} returns another output {name!r} than the model: {difference}")


def _difference(found: np.ndarray, wanted: np.ndarray, tolerance: float, random: bool) -> str:
    if wanted.dtype.kind in "SU":
        wanted = wanted.astype(object)
    if (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
        shown = [f"{array.dtype.name}{list(array.shape)}" for array in (found, wanted)]
        return f"{shown[0]} instead of {shown[1]}"
    if random or not found.size:
        return ""
    if wanted.dtype == object:
        words = [[w.encode() if isinstance(w, str) else w for w in a.ravel()]
                 for a in (found, wanted)]  # fmt: skip
        return "" if words[0] == words[1] else "the strings differ"
    if wanted.dtype.kind in "biu":
        return "" if np.array_equal(found, wanted) else "the values differ"
    kind = np.complex128 if wanted.dtype.kind == "c" else np.float64  # bfloat16 has kind V
    found, wanted = found.astype(kind), wanted.astype(kind)
    finite = np.isfinite(wanted)
    scale = np.abs(wanted[finite]).max(initial=0.0)
    same = np.isclose(found, wanted, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
    if same.all():
        return ""
    with np.errstate(invalid="ignore"):
        most = np.nanmax(np.abs(found - wanted)[~same], initial=0.0)
    return f"{(~same).sum()} of {same.size} values differ, by up to {most:.3g}"
