"""What an evaluator has found, in a file of the model_dir, for the chief to read."""

import json
import os


class Evaluations:
    """The evaluations of a run, one line of JSON for each: the step and the metrics.

    Args:
        model_dir: has the file, evaluations.jsonl.

    Attributes:
        told: how many of them `news` has returned.
    """

    def __init__(self, model_dir: str):
        self._path = os.path.join(model_dir, "evaluations.jsonl")
        self.told = 0

    def add(self, step: int, metrics: dict[str, float]) -> None:
        """Adds one; it is on the disk when this returns."""
        with open(self._path, "a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[tuple[int, dict[str, float]]]:
        """All of them, in their order; a line that is being written is left out."""
        try:
            with open(self._path) as file:
                lines = [line for line in file if line.endswith("\n")]
        except FileNotFoundError:
            return []
        found = [json.loads(line) for line in lines]
        return [(entry.pop("step"), entry) for entry in found]

    def news(self) -> list[tuple[int, dict[str, float]]]:
        """Those that have come since the last call."""
        new = self.read()[self.told :]
        self.told += len(new)
        return new
