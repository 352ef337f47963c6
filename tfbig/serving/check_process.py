"""The program that loads SavedModels in a separate process and calls them.

`python -m tfbig.serving.check_process` reads one line of JSON per SavedModel from standard input,
makes the requested calls, and writes a line with the result to standard output. It exits on an
empty line, at the end of the input, when its parent exits, and when it has been idle for a while.
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

from tfbig.serving.arrays import read_arrays, write_arrays

_IDLE_SECONDS = 300.0


def main() -> None:
    """Answers requests until the input ends or no request arrives for a while."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # the parent receives them too and may still export
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # other output must not mix with the answers
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
        except Exception as error:  # a broken SavedModel may raise anything
            answer = {"error": _short_message(error)}
        print(json.dumps(answer), file=answers, flush=True)
        gc.collect()


def _read(requests: queue.Queue, parent: int) -> None:
    """Puts the lines of the input into a queue; exits at the end of the input or of the parent.

    The end of the input is not enough, because another child of the parent may hold the pipe open.
    """
    buffered = b""
    while True:
        if os.getppid() != parent:
            os._exit(0)
        if not select.select([0], [], [], 1.0)[0]:
            continue
        data = os.read(0, 2**16)
        if not data:
            os._exit(0)
        *lines, buffered = (buffered + data).split(b"\n")
        for line in lines:
            if not line:
                os._exit(0)
            requests.put(json.loads(line))


def _outputs(tf: Any, request: dict) -> list:
    """Loads a SavedModel and makes the calls; returns the output names of each call, or None."""
    for module in request["modules"]:
        __import__(module)  # registers its operations
    loaded = tf.saved_model.load(request["folder"])
    names: list = []
    for call in request["calls"]:
        tensors = [
            tf.constant(array.tolist() if array.dtype == object else array, shape=array.shape,
                        dtype=tf.string if array.dtype == object else None)
            for array in read_arrays(call["inputs"])
        ]  # fmt: skip
        if call["signature"] is None:
            result = loaded.serve(*_pack(call["structure"], tensors))
            flat = tf.nest.flatten(result, expand_composites=True)
            names.append(None)
        else:
            if call["signature"] not in loaded.signatures:
                raise ValueError(f"it has no signature {call['signature']!r}")
            signature = loaded.signatures[call["signature"]]
            input_names = list(signature.structured_input_signature[1])
            arguments = _match_names(call["structure"], input_names)
            result = signature(**dict(zip(arguments, tensors, strict=True)))
            flat = [result[name] for name in sorted(result)]
            names.append(sorted(result))
        write_arrays(call["outputs"], [tensor.numpy() for tensor in flat])
    return names


def _pack(structure: Any, tensors: list) -> Any:
    """Replaces indices in a structure by tensors; JSON has no tuples, so they are encoded."""
    if isinstance(structure, int):
        return tensors[structure]
    ((kind, parts),) = structure.items()
    if kind == "dict":
        return {key: _pack(part, tensors) for key, part in parts}
    return {"list": list, "tuple": tuple}[kind](_pack(part, tensors) for part in parts)


def _match_names(names: list[str], input_names: list[str]) -> list[str]:
    """Finds the signature's names for inputs; TensorFlow replaces special characters by "_"."""
    if len(names) == len(input_names) == 1:
        return input_names
    plain = {re.sub(r"\W", "_", name).lower(): name for name in input_names}
    matched = [plain.get(re.sub(r"\W", "_", name).lower(), name) for name in names]
    if sorted(matched) != sorted(input_names):
        raise ValueError(f"it takes {sorted(input_names)}, the model {sorted(names)}")
    return matched


def _short_message(error: Exception) -> str:
    """Returns the message of TensorFlow without the location in the graph."""
    text = str(error).split("[[{{node")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    line = lines[-1] if "defined at (most recent call last)" in text else lines[0]
    return line.split(" [Op:")[0].rstrip(". ")[:300]


if __name__ == "__main__":
    main()
