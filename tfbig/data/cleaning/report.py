"""How many examples each step of a Cleaning touched."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepCount:
    """What one step did in one pass over data.

    Attributes:
        step: its name and arguments.
        touched: examples that it dropped or changed; None: it is not for these data.
        examples: how many it was given.
        verb: what it did to them.
    """

    step: str
    touched: int | None
    examples: int
    verb: str

    def __str__(self) -> str:
        if self.touched is None:
            return f"{self.step}: not for evaluation data"
        return f"{self.step}: {self.touched} of {self.examples} examples {self.verb}"


@dataclass
class Pass:
    """One `fit` or `apply`.

    Attributes:
        kind: "fit" or "apply".
        examples: how many the source had, without those that could not be read.
        kept: how many are left, repeats counted.
        steps: one StepCount a step.
    """

    kind: str
    examples: int
    kept: int
    steps: list[StepCount]

    def __str__(self) -> str:
        head = f"{self.kind}: {self.examples} examples, {self.kept} afterwards"
        return "\n".join([head, *(f"  {step}" for step in self.steps)])


@dataclass
class Report:
    """What a Cleaning did, one line a step; `print` shows it.

    Attributes:
        passes: the fit, then each apply.
    """

    passes: list[Pass] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join(map(str, self.passes)) or "not fitted yet"
