"""The metadata of a checkpoint: its format, and the variables that it has."""

import json
import os

from tfbig.errors import CheckpointError
from tfbig.programs.keras.renumbering import format_1_names

FIRST_FORMAT = 1  # all numbers in names were counted anew, even those that users chose
NAMED_FORMAT = 2  # variables under their own names
FORMAT = 3  # of Keras models


def as_written(metadata: dict, variables: dict) -> dict:
    """Variables by the names that they have in a checkpoint."""
    if metadata["format"] != FIRST_FORMAT:
        return variables
    return dict(zip(format_1_names(variables), variables.values(), strict=True))


def counts_all_numbers(folder: str) -> bool:
    """Whether a checkpoint's names are of format 1; see `programs.renumbering`."""
    return read_metadata(folder)["format"] == FIRST_FORMAT


def kinds_of(variables: dict) -> dict[str, list]:
    """The [shape, dtype] of each variable, by name."""
    return {n: [list(v.shape), v.dtype.name] for n, v in variables.items()}


def read_metadata(path: str) -> dict:
    """Reads the metadata of the checkpoint in a folder.

    Raises:
        OSError, ValueError: there are none, or they are damaged.
        CheckpointError: a newer tfbig has written them.
    """
    with open(os.path.join(path, "metadata.json")) as file:
        metadata = json.load(file)
    if not isinstance(metadata, dict) or "variables" not in metadata:
        raise ValueError("metadata.json is not a tfbig checkpoint's")
    if metadata["format"] > FORMAT:
        raise CheckpointError(
            f"{path} was written by a newer tfbig (format {metadata['format']}, "
            f"this one reads {FORMAT}); install that, or give another model_dir."
        )
    return metadata
