"""The number of examples that each step of a Cleaning changed or dropped."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepCount:
    """The effect of one step in one pass over data.

    Attributes:
        step: name and arguments of the step.
        touched: number of examples that it dropped or changed; None: it skips evaluation data.
        examples: number of examples before the step.
        verb: what it did to them, such as "dropped".
    """

    step: str
    touched: int | None
    examples: int
    verb: str

    def __str__(self) -> str:
        if self.touched is None:
            return f"{self.step}: not applied to evaluation data"
        return f"{self.step}: {self.touched} of {self.examples} examples {self.verb}"


@dataclass
class Pass:
    """One `fit` or `apply`.

    Attributes:
        kind: "fit" or "apply".
        examples: number of examples of the source, without bad records.
        kept: number of examples afterwards, including repeats.
        steps: one StepCount per step.
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
    """The effect of a Cleaning; `print` shows one line per step.

    Attributes:
        passes: the fit, then each apply.
    """

    passes: list[Pass] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join(map(str, self.passes)) or "not fitted yet"
