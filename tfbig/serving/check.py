"""The program that loads SavedModels in a process that has made none of them.

`python -m tfbig.serving.check` gets a line of JSON on standard input for each SavedModel, calls
what it is told, and answers with a line on standard output. It ends at an empty line, with its
input, with its parent, and when it has had nothing to do for a while.
"""

import gc
import json
import os
import queue
import re
import select
import signal
import threading
from typing import Any

from tfbig.serving.tensors import read_arrays, write_arrays

_IDLE_SECONDS = 300.0


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # its parent gets them too, and may yet export
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what others print is no answer
    requests: queue.Queue = queue.Queue()
    threading.Thread(target=_read, args=(requests, os.getppid()), daemon=True).start()
    import tensorflow as tf

    while True:
        try:
            request = requests.get(timeout=_IDLE_SECONDS)
        except queue.Empty:
            return
        try:
            answer: dict = {"outputs": _outputs(tf, request)}
        except Exception as error:  # whatever a broken SavedModel makes TensorFlow raise
            answer = {"error": _sentence(error)}
        print(json.dumps(answer), file=answers, flush=True)
        gc.collect()


def _read(requests: queue.Queue, parent: int) -> None:
    """Puts each line of the input to the queue; ends the process with its input or its parent.

    The input alone would not do: another child of the parent may hold its other end.
    """
    held = b""
    while True:
        if os.getppid() != parent:
            os._exit(0)
        if not select.select([0], [], [], 1.0)[0]:
            continue
        data = os.read(0, 2**16)
        if not data:
            os._exit(0)
        *lines, held = (held + data).split(b"\n")
        for line in lines:
            if not line:
                os._exit(0)
            requests.put(json.loads(line))


def _outputs(tf: Any, request: dict) -> list:
    """Loads a SavedModel and makes the calls; the outputs' names, or None for a structure."""
    for module in request["modules"]:
        __import__(module)  # for its operations
    loaded = tf.saved_model.load(request["folder"])
    names: list = []
    for call in request["calls"]:
        tensors = [
            tf.constant(array.tolist() if array.dtype == object else array, shape=array.shape,
                        dtype=tf.string if array.dtype == object else None)
            for array in read_arrays(call["inputs"])
        ]  # fmt: skip
        if call["signature"] is None:
            found = loaded.serve(*_packed(call["structure"], tensors))
            flat = tf.nest.flatten(found, expand_composites=True)
            names.append(None)
        else:
            if call["signature"] not in loaded.signatures:
                raise ValueError(f"it has no signature {call['signature']!r}")
            signature = loaded.signatures[call["signature"]]
            names_there = list(signature.structured_input_signature[1])
            arguments = _in_order(call["structure"], names_there)
            found = signature(**dict(zip(arguments, tensors, strict=True)))
            flat = [found[name] for name in sorted(found)]
            names.append(sorted(found))
        write_arrays(call["outputs"], [tensor.numpy() for tensor in flat])
    return names


def _packed(structure: Any, tensors: list) -> Any:
    """A structure with tensors in the place of their numbers; JSON knows no tuples."""
    if isinstance(structure, int):
        return tensors[structure]
    ((kind, parts),) = structure.items()
    if kind == "dict":
        return {key: _packed(part, tensors) for key, part in parts}
    return {"list": list, "tuple": tuple}[kind](_packed(part, tensors) for part in parts)


def _in_order(names: list[str], there: list[str]) -> list[str]:
    """A signature's own names for inputs; TensorFlow puts "_" for what is no letter or digit."""
    if len(names) == len(there) == 1:
        return there
    plain = {re.sub(r"\W", "_", name).lower(): name for name in there}
    found = [plain.get(re.sub(r"\W", "_", name).lower(), name) for name in names]
    if sorted(found) != sorted(there):
        raise ValueError(f"it takes {sorted(there)}, the model {sorted(names)}")
    return found


def _sentence(error: Exception) -> str:
    """What TensorFlow says, without where in its graph that was."""
    text = str(error).split("[[{{node")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    found = lines[-1] if "defined at (most recent call last)" in text else lines[0]
    return found.split(" [Op:")[0].rstrip(". ")[:300]


if __name__ == "__main__":
    main()
