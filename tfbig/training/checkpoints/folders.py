"""The names of checkpoints in a model_dir: <model_dir>/checkpoints/ckpt-00000400."""

import os
import re


def folder_of(model_dir: str, step: int) -> str:
    """Where the checkpoint of a step is, if there is one."""
    return os.path.join(model_dir, "checkpoints", f"ckpt-{step:08d}")


def steps_in(model_dir: str) -> list[int]:
    """The steps of the checkpoints that are there, oldest first."""
    directory = os.path.join(model_dir, "checkpoints")
    names = os.listdir(directory) if os.path.isdir(directory) else []
    found = (re.fullmatch(r"ckpt-(\d+)", name) for name in names)
    return sorted(int(match[1]) for match in found if match)
