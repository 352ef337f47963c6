"""Changes of the arguments of calls: RunConfig, TPUEstimator, functions with another order."""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import libcst as cst

from tfbig.migration.names import Name, Rename
from tfbig.migration.source import Edit, SourceFile, Span
from tfbig.run_config import NOT_HONOURED

# The order of tf.estimator.RunConfig.
_RUN_CONFIG = (
    *("model_dir", "tf_random_seed", "save_summary_steps", "save_checkpoints_steps"),
    *("save_checkpoints_secs", "session_config", "keep_checkpoint_max"),
    *("keep_checkpoint_every_n_hours", "log_step_count_steps", "train_distribute", "device_fn"),
    *("protocol", "eval_distribute", "experimental_distribute"),
    *("experimental_max_worker_delay_secs", "session_creation_timeout_secs"),
    "checkpoint_save_graph_def",
)
_TPU_ONLY = ("tpu_config", "evaluation_master", "master", "cluster")
_TPU_RUN_CONFIGS = (("estimator", "tpu", "RunConfig"), ("contrib", "tpu", "RunConfig"))
# These say how a run is distributed: without them, somebody has to write strategy= elsewhere.
_DISTRIBUTION = ("train_distribute", "eval_distribute", "experimental_distribute", "tpu_config")
_PROTOS = ("ConfigProto", "GPUOptions", "GraphOptions", "OptimizerOptions")
_ATOMS = (cst.Attribute, cst.Call, cst.Float, cst.Integer, cst.Name)
_USE_TPU = "write use_tpu=False: TPUs are not built yet, and it trains on the CPU or GPU"
_HOST_CALL = (
    "leave host_call out: write tf.compat.v1.summary.scalar(name, tensor) in model_fn; "
    "RunConfig(save_summary_steps=) says how often it is written"
)


class Change(NamedTuple):
    """A change of an argument.

    Attributes:
        node: the argument, or the call.
        instead: the new code, or advice.
        edits: the edits; empty for a manual change.
        removed: whether the argument, with all names in it, is removed.
    """

    node: cst.CSTNode
    instead: str
    edits: tuple[Edit, ...] = ()
    removed: bool = False


def argument_changes(
    source: SourceFile, call: cst.Call, name: Name, protos: Collection[int]
) -> Iterator[Change]:
    """Yields the changes of the arguments of a call.

    Args:
        source: the file.
        call: a call of a name of TensorFlow or tfbig.
        name: that name.
        protos: ids of the calls of tf.ConfigProto and the like, which have no effect.
    """
    if name.parts == ("estimator", "RunConfig") or name.parts in _TPU_RUN_CONFIGS:
        yield from _run_config(source, call, name, protos)
    elif name.parts[-1] == "TPUEstimator":
        yield from _tpu_estimator(call)
    elif name.parts[-1] == "TPUEstimatorSpec":
        for argument in call.args:
            if _keyword(argument) == "host_call" and not _is(argument.value, "None"):
                yield Change(argument, _HOST_CALL)


def is_proto(name: Name) -> bool:
    """Whether a name is that of a message with options of a session."""
    return name.parts[-1] in _PROTOS


def _run_config(
    source: SourceFile, call: cst.Call, name: Name, protos: Collection[int]
) -> Iterator[Change]:
    is_tpu = name.parts in _TPU_RUN_CONFIGS
    order = () if is_tpu or name.ours else _RUN_CONFIG
    named: dict[int, str | None] = {}
    for index, argument in enumerate(call.args):
        keyword = _keyword(argument)
        if keyword is None and not argument.star and index < len(order):
            keyword = order[index]
        named[index] = keyword
    refused = set(NOT_HONOURED) - set(_TPU_ONLY if is_tpu else ())
    removed = [
        index
        for index, argument in enumerate(call.args)
        if named[index] in refused
        and (named[index] not in _DISTRIBUTION or _is(argument.value, "None"))
        and _has_no_effect(argument.value, protos)
    ]
    cuts = _cuts(source, call, removed)
    if any("#" in source.text[span.start : span.end] for span in cuts.values()):
        removed, cuts = [], {}
    for index, argument in enumerate(call.args):
        keyword = named[index]
        if keyword in refused:
            edits = (Edit(cuts[index], ""),) if index in cuts else ()
            text = f"leave it out; use {NOT_HONOURED[keyword]}"
            yield Change(argument, text, edits, index in removed)
        elif keyword is not None and argument.keyword is None:
            start = source.span(argument).start
            edit = Edit(Span(start, start), f"{keyword}=")
            yield Change(argument, f"pass {keyword} by name", (edit,))


def _cuts(source: SourceFile, call: cst.Call, removed: Sequence[int]) -> dict[int, Span]:
    """The text of arguments to remove, with a comma."""
    spans = [source.span(argument) for argument in call.args]
    cuts = {}
    for index in removed:
        after = next((i for i in range(index + 1, len(spans)) if i not in removed), None)
        before = next((i for i in range(index - 1, -1, -1) if i not in removed), None)
        if after is not None:
            cuts[index] = Span(spans[index].start, spans[index + 1].start)
        elif before is not None:
            cuts[index] = Span(spans[index - 1].end, spans[index].end)
        else:
            start = spans[index - 1].end if index else spans[index].start
            comma = call.args[index].comma
            end = spans[index].end
            if isinstance(comma, cst.Comma) and index == len(spans) - 1:
                end = source.span(comma).end
            cuts[index] = Span(start, end)
    return cuts


def _has_no_effect(value: cst.BaseExpression, protos: Collection[int]) -> bool:
    found = _Effects(protos)
    value.visit(found)
    return not found.any


class _Effects(cst.CSTVisitor):
    """Finds whether an expression does more than compute a value."""

    def __init__(self, protos: Collection[int]):
        super().__init__()
        self._protos = protos
        self.any = False

    def visit_Call(self, node: cst.Call) -> None:
        self.any = self.any or id(node) not in self._protos

    def visit_NamedExpr(self, node: cst.NamedExpr) -> None:
        self.any = True

    def visit_Await(self, node: cst.Await) -> None:
        self.any = True

    def visit_Yield(self, node: cst.Yield) -> None:
        self.any = True


def _tpu_estimator(call: cst.Call) -> Iterator[Change]:
    if any(argument.star for argument in call.args):
        return
    positional = [a for a in call.args if a.keyword is None]
    use = next((a for a in call.args if _keyword(a) == "use_tpu"), None)
    use = positional[4] if use is None and len(positional) > 4 else use
    if use is None:
        yield Change(call.func, f"its use_tpu is True; {_USE_TPU}")
    elif _is(use.value, "True"):
        yield Change(use, _USE_TPU)


def call_edits(source: SourceFile, call: cst.Call | None, rename: Rename) -> list[Edit] | None:
    """The edits of the arguments of a call for a new function; None: they do not fit.

    Example: `call_edits(source, call, Rename(1, "f", positional=("x",)))` for `f(1)` inserts `x=`.
    """
    if rename.any_call:
        return []
    if call is None or any(a.star for a in call.args):
        return None
    edits, names, new_names = [], [], dict(rename.renamed)
    for index, argument in enumerate(call.args):
        keyword = _keyword(argument)
        if keyword is None and index >= len(rename.positional):
            return None
        names.append(keyword or rename.positional[index])
        new = new_names.get(names[-1], names[-1])
        start, end = source.span(argument)
        before, after = rename.first.split("{}") if index == 0 and rename.first else ("", "")
        if (before or after) and not isinstance(argument.value, _ATOMS):
            before, after = f"{before}(", f"){after}"
        at = start if argument.keyword is None else source.span(argument.equal).end
        if argument.keyword is None or new != keyword or before:
            edits.append(Edit(Span(start, at), f"{new}={before}"))
        if after:
            edits.append(Edit(Span(end, end), after))
    if rename.accepts is not None and not set(names) <= set(rename.accepts):
        return None
    return edits if set(rename.needs) <= set(names) else None


def _keyword(argument: cst.Arg) -> str | None:
    return argument.keyword.value if argument.keyword else None


def _is(value: cst.BaseExpression, name: str) -> bool:
    return isinstance(value, cst.Name) and value.value == name
