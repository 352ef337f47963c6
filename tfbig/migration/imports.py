"""The import statements of a file: those to change, and those to add."""

import libcst as cst
from libcst.helpers import get_full_name_for_node

from tfbig.migration.findings import Edit, Finding
from tfbig.migration.renames import Name, decide
from tfbig.migration.source import Source, Span

_FOREIGN = {
    "tf_slim": "slim needs TF1's layers: write tfbig.compat.v1.layers, or keras.applications",
    "tensorflow_estimator": "write from tfbig.compat.v1 import estimator",
    "tensorflow_addons": "write what Keras 3 has in its place: keras.optimizers, keras.layers",
}


def import_findings(
    source: Source,
    statements: list[tuple[cst.SimpleStatementLine, cst.Import | cst.ImportFrom]],
    in_v1: set[str],
) -> list[Finding]:
    """What is to change in the imports.

    Args:
        source: the file.
        statements: lines, and the imports in them.
        in_v1: full names, such as "tensorflow.losses", that have to be those of tf.compat.v1.
    """
    found = []
    for line, statement in statements:
        if isinstance(statement, cst.Import):
            found += _plain(source, statement)
        elif statement.module is not None and not statement.relative:
            found += _from(source, line, statement, in_v1)
    return found


def _plain(source: Source, statement: cst.Import) -> list[Finding]:
    found = []
    for alias in statement.names:
        full = get_full_name_for_node(alias.name)
        line, column = source.place(alias)
        told = _FOREIGN.get(full.split(".")[0])
        name = Name.of(full)
        if name is not None and name.parts and not name.ours:
            told = decide(name)
            if not isinstance(told, str) and told is not None:
                if told.in_v1 or told.used != len(name.parts) or alias.asname is None:
                    told = f"write import {told.new} as {name.parts[-1]}"
                else:
                    edit = Edit(source.span(alias.name), told.new)
                    new = f"import {told.new} as {alias.evaluated_alias}"
                    found.append(Finding(line, column, f"import {full}", new, (edit,)))
                    continue
        if told:
            found.append(Finding(line, column, f"import {full}", told))
    return found


def _from(source, line, statement: cst.ImportFrom, in_v1: set[str]) -> list[Finding]:
    module = get_full_name_for_node(statement.module)
    row, column = source.place(statement)
    told = _FOREIGN.get(module.split(".")[0])
    if told:
        return [Finding(row, column, f"from {module} import …", told)]
    if Name.of(module) is None:
        return []
    if isinstance(statement.names, cst.ImportStar):
        text = "names that come from * are not looked at; write import tensorflow as tf"
        return [Finding(row, column, f"from {module} import *", text)]
    found, places = [], []
    for alias in statement.names:
        target = _target(module, alias.name.value, in_v1)
        if isinstance(target, str):
            at = source.place(alias)
            found.append(Finding(*at, f"from {module} import {alias.name.value}", target))
            target = (module, alias.name.value)
        places.append(target)
    if all(
        place == (module, a.name.value) for place, a in zip(places, statement.names, strict=True)
    ):
        return found
    span = source.span(statement)
    text = source.text[span.start : span.end]
    same_names = all(p[1] == a.name.value for p, a in zip(places, statement.names, strict=True))
    if same_names and len({p[0] for p in places}) == 1:
        new = places[0][0]
        edits = (Edit(source.span(statement.module), new),)
        instead = f"from {new} import …"
    else:
        instead = _split(source, line, statement, places)
        edits = () if "#" in text or len(line.body) > 1 else (Edit(span, instead),)
    what = " ".join(text.split())
    found.append(Finding(row, column, what, "; ".join(instead.split("\n")), edits))
    return found


def _target(module: str, name: str, in_v1: set[str]) -> tuple[str, str] | str:
    """The module and name that an imported name has now, or advice."""
    full = f"{module}.{name}"
    found = Name.of(full)
    decision = decide(found)
    if isinstance(decision, str):
        return decision
    if full in in_v1 or (decision is not None and decision.in_v1):
        path = decision.new if decision is not None else ".".join(found.parts)
        return tuple(f"tensorflow.compat.v1.{path}".rsplit(".", 1))
    if decision is None:
        return module, name
    rest = found.parts[decision.used :]
    new = ".".join([decision.new, *rest])
    if found.parts[0] == "estimator" and new.count(".") == 1:
        new = new.replace("tfbig.", "tfbig.compat.v1.estimator.")
    return tuple(new.rsplit(".", 1))


def _split(source, line, statement, places) -> str:
    """One statement for each of the modules, under one another."""
    indent = " " * (source.place(line)[1] - 1)
    groups: dict[str, list[str]] = {}
    for (module, name), alias in zip(places, statement.names, strict=True):
        kept = alias.evaluated_alias or alias.name.value
        groups.setdefault(module, []).append(name if kept == name else f"{name} as {kept}")
    lines = [f"from {module} import {', '.join(names)}" for module, names in groups.items()]
    return f"{source.tree.default_newline}{indent}".join(lines)


def added_imports(source: Source, needed: set[str]) -> list[Finding]:
    """Imports of modules that the new code needs, before that of TensorFlow, which tfbig quiets."""
    there = set()
    place = None
    for statement in source.tree.body:
        names = _imported_modules(statement)
        there |= names
        if any(name.split(".")[0] == "tensorflow" for name in names) and place is None:
            place = statement
    lacking = sorted(needed - there)
    if not lacking:
        return []
    newline = source.tree.default_newline
    text = "".join(f"import {name}{newline}" for name in lacking)
    head = _last_of_the_head(source.tree)
    if place is not None:
        line = source.place(place)[0]
        at = source.line_start(line)
    elif head is not None:
        line, at = source.place(head)[0] + 1, source.line_end(source.span(head).end - 1)
        if at == len(source.text) and not source.text.endswith(("\n", "\r")):
            text = newline + text.removesuffix(newline)
    else:
        line, at = 1, 0
    what = "; ".join(f"import {name}" for name in lacking)
    return [Finding(line, 1, "the imports", f"add {what}", (Edit(Span(at, at), text),))]


def _imported_modules(statement: cst.CSTNode) -> set[str]:
    """What a statement at the top imports, also inside of `try`, but not inside of functions."""
    collector = _Modules()
    statement.visit(collector)
    return collector.names


class _Modules(cst.CSTVisitor):
    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:
        return False

    def visit_ClassDef(self, node: cst.ClassDef) -> bool:
        return False

    def visit_Import(self, node: cst.Import) -> None:
        for alias in node.names:
            name = get_full_name_for_node(alias.name)
            plain = alias.asname is None or name.startswith("tensorflow")
            self.names |= {name} if plain else set()

    def visit_ImportFrom(self, node: cst.ImportFrom) -> None:
        if node.module is not None and not node.relative:
            name = get_full_name_for_node(node.module)
            self.names |= {name} if name.startswith("tensorflow") else set()


def _last_of_the_head(tree: cst.Module) -> cst.CSTNode | None:
    """The last of the docstring and the imports that a file begins with."""
    last = None
    for index, statement in enumerate(tree.body):
        match statement:
            case cst.SimpleStatementLine(body=[cst.Import() | cst.ImportFrom(), *_]):
                last = statement
            case cst.SimpleStatementLine(body=[cst.Expr(value=cst.SimpleString())]) if index == 0:
                last = statement
            case _:
                break
    return last
