"""Writes and reads arrays as `.npz` files without pickles, including strings and bfloat16."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def write_arrays(path: str, arrays: Sequence[Any]) -> None:
    """Writes arrays in order; arrays of strings may have dtype object, S or U."""
    content: dict[str, np.ndarray] = {}
    for number, value in enumerate(arrays):
        array = np.asarray(value)
        name = array.dtype.name
        if array.dtype.kind in "OSU":
            words = [w.encode() if isinstance(w, str) else bytes(w) for w in array.ravel().tolist()]
            content[f"{number}_ends"] = np.cumsum([len(word) for word in words], dtype=np.int64)
            data, name = b"".join(words), "string"
        else:
            data = array.tobytes()
        content[f"{number}_data"] = np.frombuffer(data, np.uint8)
        content[f"{number}_shape"] = np.array(array.shape, np.int64)
        content[f"{number}_dtype"] = np.array(name)
    with open(path, "wb") as file:
        np.savez(file, allow_pickle=False, **content)


def read_arrays(path: str) -> list[np.ndarray]:
    """Reads the arrays that `write_arrays` wrote; strings become bytes, with dtype object."""
    arrays = []
    with np.load(path, allow_pickle=False) as file:
        for number in range(sum(name.endswith("_shape") for name in file.files)):
            data, shape = file[f"{number}_data"].tobytes(), file[f"{number}_shape"]
            name = str(file[f"{number}_dtype"])
            if name == "string":
                ends = [int(end) for end in file[f"{number}_ends"]]
                words = np.empty(len(ends), object)
                words[:] = [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]
                arrays.append(words.reshape(shape))
            else:
                arrays.append(np.frombuffer(data, np.dtype(name)).reshape(shape))
    return arrays
