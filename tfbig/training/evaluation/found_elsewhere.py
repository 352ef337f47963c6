"""The results of an evaluator task, in a file of the model_dir, for the chief to read."""

import json
import os


class Evaluations:
    """The evaluations of a run, one line of JSON for each: the step and the metrics.

    Args:
        model_dir: has the file, evaluations.jsonl.

    Attributes:
        returned: how many of them `read_new` has returned.
    """

    def __init__(self, model_dir: str):
        self._path = os.path.join(model_dir, "evaluations.jsonl")
        self.returned = 0

    def add(self, step: int, metrics: dict[str, float]) -> None:
        """Appends an evaluation; it is on the disk when this returns."""
        with open(self._path, "a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[tuple[int, dict[str, float]]]:
        """All evaluations in their order, except a line that is being written."""
        try:
            with open(self._path) as file:
                lines = [line for line in file if line.endswith("\n")]
        except FileNotFoundError:
            return []
        found = [json.loads(line) for line in lines]
        return [(entry.pop("step"), entry) for entry in found]

    def read_new(self) -> list[tuple[int, dict[str, float]]]:
        """The evaluations since the last call."""
        new = self.read()[self.returned :]
        self.returned += len(new)
        return new
