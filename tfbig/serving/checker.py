"""Whether a SavedModel works where its model has not been made: asked of another process."""

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
from tfbig.serving.tensors import read_arrays, write_arrays

_SECONDS = 600.0  # for one SavedModel, the start of the process included
_EXACT, _HALF = 1e-3, 5e-2  # of the largest output: another device, or half precision
_OPERATIONS = ("tensorflow_text",)  # modules that give TensorFlow operations of their own


class Call(NamedTuple):
    """A call of a SavedModel, and what it has to return.

    Attributes:
        signature: by its name, with named inputs; None: its endpoint `serve`.
        inputs: by name arrays, or the arguments of `serve` as structures of arrays.
        outputs: by name arrays, or a list of the arrays in what `serve` returns.
        random: they differ from call to call, so that only their kinds can be compared.
    """

    signature: str | None
    inputs: Any
    outputs: dict[str, np.ndarray] | list[np.ndarray]
    random: bool = False


class Checker:
    """One process for all exports of this one, started before the first; TensorFlow takes long.

    It sees no GPU. It ends with this process, however that ends, or when it is idle for long.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._owner, self._log = 0, None

    def start(self) -> None:
        """Starts the process unless it runs; it gets ready while the SavedModel is written."""
        with self._lock:
            self._start()

    def ask(self, request: dict) -> dict:
        """Returns the process's answer.

        Raises:
            OSError: there is no such process, it died, or it did not answer in time.
        """
        with self._lock:
            for again in (True, False):
                self._start()
                try:
                    os.write(self._process.stdin.fileno(), json.dumps(request).encode() + b"\n")
                    return json.loads(self._line())
                except (BrokenPipeError, EOFError) as error:
                    code = self._end()
                    if not (again and code == 0):  # else it has just ended because it was idle
                        raise OSError(f"the process that loads it ended with {code}") from error
        raise AssertionError

    def end(self) -> None:
        """Ends the process, if it is this one's."""
        with self._lock:
            if self._process is not None and self._owner == os.getpid():
                self._end()

    @property
    def pid(self) -> int | None:
        """The process's number while it runs."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if running and self._owner == os.getpid() else None

    def _start(self) -> None:
        if self._owner != os.getpid():
            self._process = None  # of the process that this one was forked from
        if self._process is not None and self._process.poll() is None:
            return
        environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
        environment |= {
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tfbig.serving.check"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment,
        )
        if self._owner == 0:
            atexit.register(self.end)
        self._owner = os.getpid()

    def _line(self) -> bytes:
        held, until = b"", time.monotonic() + _SECONDS
        stream = self._process.stdout.fileno()
        while not held.endswith(b"\n"):
            if not select.select([stream], [], [], max(0.0, until - time.monotonic()))[0]:
                self._process.kill()
                self._end()
                raise OSError(f"the process that loads it did not answer within {_SECONDS:g} s")
            data = os.read(stream, 2**16)
            if not data:
                raise EOFError
            held += data
        return held

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
    """Has another process load a SavedModel and make calls, and compares what they return.

    Args:
        folder: of the SavedModel.
        calls: none: it is only loaded.
        half: some layer computes in float16 or bfloat16.

    Raises:
        UserError: it cannot be loaded or called, or returns something else; in a few words.
    """
    with tempfile.TemporaryDirectory(prefix="tfbig-check-") as scratch:
        told = []
        for number, call in enumerate(calls):
            paths = [os.path.join(scratch, f"{number}-{kind}.npz") for kind in ("in", "out")]
            if call.signature is None:
                arrays: list = []
                structure: Any = _unpacked(tuple(call.inputs), arrays)
            else:
                structure, arrays = list(call.inputs), list(call.inputs.values())
            write_arrays(paths[0], arrays)
            told.append(dict(zip(("inputs", "outputs"), paths, strict=True)))
            told[-1] |= {"signature": call.signature, "structure": structure}
        modules = [name for name in _OPERATIONS if name in sys.modules]
        request = {"folder": os.path.abspath(folder), "calls": told, "modules": modules}
        try:
            answer = CHECKER.ask(request)
        except OSError as error:
            raise UserError(str(error)) from error
        if "error" in answer:
            raise UserError(answer["error"])
        for call, names, one in zip(calls, answer["outputs"], told, strict=True):
            _compare(call, names, read_arrays(one["outputs"]), _HALF if half else _EXACT)


def _unpacked(structure: Any, arrays: list) -> Any:
    """A structure as JSON has it, with numbers in the place of arrays, which are appended."""
    if isinstance(structure, dict):
        return {"dict": [[key, _unpacked(structure[key], arrays)] for key in structure]}
    if isinstance(structure, (list, tuple)):
        kind = "tuple" if isinstance(structure, tuple) else "list"
        return {kind: [_unpacked(part, arrays) for part in structure]}
    arrays.append(structure)
    return len(arrays) - 1


def _compare(call: Call, names: list | None, found: list, tolerance: float) -> None:
    where = f"the signature {call.signature!r}" if call.signature else "it"
    if isinstance(call.outputs, dict):
        wanted = sorted(call.outputs)
        if names != wanted:
            raise UserError(f"{where} has the outputs {names}, the model {wanted}")
        expected = [call.outputs[name] for name in wanted]
    else:
        expected = list(call.outputs)
        if len(found) != len(expected):
            raise UserError(f"{where} returns {len(found)} outputs, the model {len(expected)}")
        names = names or [str(number) for number in range(len(expected))]
    for name, one, other in zip(names, found, expected, strict=True):
        said = _difference(one, np.asarray(other), tolerance, call.random)
        if said:
            raise UserError(f"{where} returns another output {name!r} than the model: {said}")


def _difference(found: np.ndarray, wanted: np.ndarray, tolerance: float, random: bool) -> str:
    if wanted.dtype.kind in "SU":
        wanted = wanted.astype(object)
    if (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
        shown = [f"{array.dtype.name}{list(array.shape)}" for array in (found, wanted)]
        return f"{shown[0]} and not {shown[1]}"
    if random or not found.size:
        return ""
    if wanted.dtype == object:
        words = [[w.encode() if isinstance(w, str) else w for w in a.ravel()]
                 for a in (found, wanted)]  # fmt: skip
        return "" if words[0] == words[1] else "other strings"
    if wanted.dtype.kind in "biu":
        return "" if np.array_equal(found, wanted) else "other values"
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
