"""Finds in a syntax tree the names of TensorFlow, and the patterns that need manual changes."""

import dataclasses
from collections.abc import Callable
from typing import Any

import libcst as cst
from typing_extensions import override

from tfbig.migration import iterators, tensorflow_names
from tfbig.migration.by_hand import ITERATOR, PARTITIONER, SESSION_HOOK, is_left_out
from tfbig.migration.calls import argument_changes, is_proto
from tfbig.migration.names import Name
from tfbig.migration.renames import decide
from tfbig.migration.source import Edit, Finding, SourceFile, Span

_RECEIVERS = ("ServingInputReceiver", "TensorServingInputReceiver")
_RAW = "build_raw_serving_input_receiver_fn"


@dataclasses.dataclass(frozen=True)
class Use:
    """A name of TensorFlow in an expression.

    Args:
        chain: the nodes of `tf`, `tf.train`, `tf.train.Saver`.
        name: the name.
        given: number of the name's parts that the first node includes: 0 for `tf`.
        either: whether the module is imported both as tf and as tf.compat.v1.
        call: the call of the name, if it is called.
        where: as for `decide`.
    """

    chain: list[cst.BaseExpression]
    name: Name
    given: int
    either: bool
    call: cst.Call | None
    where: str = ""

    @property
    def skipped(self) -> int:
        """The number of nodes before the name's own parts: three for `tf.compat.v1`."""
        return len(self.chain) - (len(self.name.parts) - self.given)


class Finder(cst.CSTVisitor):
    """Collects the `uses` of TensorFlow, the `imports` and other `findings` of a file.

    Example: `finder = Finder(source); source.tree.visit(finder)`.
    """

    def __init__(self, source: SourceFile):
        super().__init__()
        self._source = source
        self._calls: dict[int, cst.Call] = {}
        self._left_out: set[int] = set()
        self._where: dict[int, str] = {}
        self._protos: set[int] = set()
        self.uses: list[Use] = []
        self.imports: list[tuple[cst.SimpleStatementLine, cst.Import | cst.ImportFrom]] = []
        self.findings: list[Finding] = []
        # Whether a Dataset or a shape is used as only TensorFlow 1 allows.
        self.old_methods = False

    @override
    def visit_Module(self, node: cst.Module) -> None:
        node.visit(_Protos(self._use, self._protos))
        self._leave_out(node.body)

    @override
    def visit_IndentedBlock(self, node: cst.IndentedBlock) -> None:
        self._leave_out(node.body)
        for found in iterators.find_returned(self._source, node.body, self._parts):
            self._left_out.add(id(found.function))
            for line in found.gone:
                self._skip(line)
            instead = "return the Dataset itself" if found.edits else ITERATOR
            self._add(found.first, instead, *found.edits)
            self.old_methods = True

    def _skip(self, node: cst.CSTNode) -> None:
        """Names in a part that is removed, or that one finding describes, are not found."""
        node.visit(_Attributes(self._left_out.add))

    def _parts(self, node: cst.CSTNode) -> tuple[str, ...]:
        """The parts of the name of TensorFlow that an expression is, or ()."""
        use = self._use(node) if isinstance(node, cst.Name | cst.Attribute) else None
        return use.name.parts if use else ()

    @override
    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        self._find_receiver(node.body)

    @override
    def visit_Lambda(self, node: cst.Lambda) -> None:
        self._find_receiver(node.body)

    def _find_receiver(self, body: cst.CSTNode) -> None:
        """Remembers the names in a function that makes a ServingInputReceiver."""
        calls = _Calls()
        body.visit(calls)
        if any(name in _RECEIVERS for name in calls.names):
            body.visit(_Attributes(lambda each: self._where.setdefault(each, "receiver")))

    def _leave_out(self, body) -> None:
        """Removes lines such as `tf.disable_v2_behavior()`, unless the block would be empty."""
        if len(body) < 2:
            return
        for line in body:
            match line:
                case cst.SimpleStatementLine(
                    body=[cst.Expr(value=cst.Call(func=cst.Attribute() as function, args=[]))],
                    trailing_whitespace=cst.TrailingWhitespace(comment=None),
                ):
                    use = self._use(function)
                    if use and is_left_out(use.name.parts):
                        self._left_out.add(id(function))
                        span = self._source.span(line)
                        start = span.start - self._source.position(line)[1] + 1
                        whole = Span(start, self._source.line_end(span.start))
                        self._add(line, "leave it out", Edit(whole, ""))

    @override
    def visit_SimpleStatementLine(self, node: cst.SimpleStatementLine) -> None:
        for small in node.body:
            if isinstance(small, cst.Import | cst.ImportFrom):
                self.imports.append((node, small))

    @override
    def visit_Import(self, node: cst.Import) -> bool:
        return False

    @override
    def visit_ImportFrom(self, node: cst.ImportFrom) -> bool:
        return False

    @override
    def visit_Call(self, node: cst.Call) -> None:
        self._calls[id(node.func)] = node
        use = self._use(node.func)
        if use is not None and id(node.func) not in self._left_out:
            self._look_at_arguments(node, use.name)
        if _last(node.func) == _RAW:
            for argument in node.args:
                argument.visit(_Attributes(lambda each: self._where.__setitem__(each, "raw")))

    def _look_at_arguments(self, node: cst.Call, name: Name) -> None:
        if name.parts[-1] in ("get_variable", "variable_scope"):
            for argument in node.args:
                if argument.keyword and argument.keyword.value == "partitioner":
                    self._add(argument, PARTITIONER)
        for change in argument_changes(self._source, node, name, self._protos):
            if change.removed:
                self._skip(change.node)
            self._add(change.node, change.instead, *change.edits)

    def _edit_without_comments(self, span: Span) -> list[Edit]:
        return [] if "#" in self._source.text[span.start : span.end] else [Edit(span, "")]

    @override
    def visit_Attribute(self, node: cst.Attribute) -> bool:
        use = self._use(node)
        if use is not None:
            if id(node) not in self._left_out:
                self.uses.append(use)
            return False
        match node:
            case cst.Attribute(attr=cst.Name(name)) if name in iterators.METHODS:
                self.old_methods = True
                if id(node) not in self._left_out:
                    self._add(node, ITERATOR)
            case cst.Attribute(
                value=cst.Subscript(
                    value=cst.Attribute(attr=cst.Name("shape"))
                    | cst.Call(func=cst.Attribute(attr=cst.Name("get_shape")), args=[])
                ) as size,
                attr=cst.Name("value"),
            ):  # a dimension is an int in TensorFlow 2, without .value
                span = Span(self._source.span(size).end, self._source.span(node).end)
                self.old_methods = True
                self._add(node, "leave .value out", *self._edit_without_comments(span))
        return True

    @override
    def visit_ClassDef(self, node: cst.ClassDef) -> None:
        for base in node.bases:
            use = self._use(base.value)
            names = use.name.parts if use else ()
            if names in (("train", "SessionRunHook"), ("estimator", "SessionRunHook")):
                found = _SessionUse()
                node.body.visit(found)
                if found.node is not None:
                    self._add(found.node, SESSION_HOOK)

    def _add(self, node: cst.CSTNode, instead: str, *edits: Edit) -> None:
        text = " ".join(self._source.tree.code_for_node(node).split()).rstrip(" ,")
        line, column = self._source.position(node)
        self.findings.append(Finding(line, column, text, instead, edits))

    def _use(self, node: cst.BaseExpression) -> Use | None:
        """The Use of TensorFlow for a dotted name, or None."""
        chain = [node]
        while isinstance(chain[0], cst.Attribute):
            chain.insert(0, chain[0].value)
        root = chain[0]
        full = self._source.imported_as(root) if isinstance(root, cst.Name) else None
        if not full:
            return None
        rest = [each.attr.value for each in chain[1:]]
        # `import tensorflow.compat.v1` binds only `tensorflow`.
        heads = {root.value if each.startswith(f"{root.value}.") else each for each in full}
        names = {Name.of(".".join([head, *rest])) for head in heads}
        if None in names or len({name.parts for name in names}) > 1:
            return None
        given = {len(Name.of(head).parts) if Name.of(head) else 0 for head in heads}
        name = max(names, key=lambda each: each.v1)
        if len(given) > 1 or not name.parts:
            return None
        where = self._where.get(id(node), "")
        return Use(chain, name, given.pop(), len(names) > 1, self._calls.get(id(node)), where)


def _last(function: cst.BaseExpression) -> str:
    """The last part of a dotted name."""
    match function:
        case cst.Name(name) | cst.Attribute(attr=cst.Name(name)):
            return name
    return ""


class _Attributes(cst.CSTVisitor):
    """Passes the ids of all dotted names to a function."""

    def __init__(self, function: Callable[[int], Any]):
        super().__init__()
        self._function = function

    def visit_Attribute(self, node: cst.Attribute) -> None:
        self._function(id(node))


class _Calls(cst.CSTVisitor):
    """Collects the names of the called functions, but not those in inner functions."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:
        return False

    def visit_Lambda(self, node: cst.Lambda) -> bool:
        return False

    def visit_Call(self, node: cst.Call) -> None:
        self.names.append(_last(node.func))


class _Protos(cst.CSTVisitor):
    """Collects the ids of the calls of tf.ConfigProto and the like."""

    def __init__(self, use: Callable[[cst.CSTNode], Any], found: set[int]):
        super().__init__()
        self._use = use
        self._found = found

    def visit_Call(self, node: cst.Call) -> None:
        use = self._use(node.func) if isinstance(node.func, cst.Name | cst.Attribute) else None
        if use is not None and is_proto(use.name):
            self._found.add(id(node))


class _SessionUse(cst.CSTVisitor):
    """Finds the first use of the session in a hook."""

    def __init__(self):
        super().__init__()
        self.node: cst.CSTNode | None = None

    def visit_Attribute(self, node: cst.Attribute) -> None:
        if node.attr.value == "session":
            self.node = self.node or node

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        if node.name.value == "after_create_session":
            self.node = self.node or node.name


def is_tf1(finder: Finder) -> bool:
    """Whether a file is written for TF1: it uses what only TF1 has, without compat.v1."""
    return finder.old_methods or any(
        not use.name.v1
        and use.name.parts[0] != "estimator"
        and not tensorflow_names.exists(use.name.parts, v1=False)
        for use in finder.uses
    )


def is_other_call(use: Use) -> bool:
    """Whether a call had another meaning in TF1."""
    if use.name.v1 or use.call is None or decide(use.name) is not None:
        return False
    if use.name.parts[0] in ("Variable", "data", "keras") or any(a.star for a in use.call.args):
        return False
    keywords = [a.keyword.value for a in use.call.args if a.keyword]
    return tensorflow_names.differs(use.name.parts, len(use.call.args) - len(keywords), keywords)
