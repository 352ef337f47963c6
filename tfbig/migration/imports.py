"""The changes of a file's import statements, and the imports to add."""

import libcst as cst
from libcst.helpers import get_full_name_for_node

from tfbig.migration.names import Name, Rename
from tfbig.migration.renames import decide
from tfbig.migration.source import Edit, Finding, SourceFile, Span

_FOREIGN = {
    "tf_slim": "slim needs TF1's layers: write tfbig.compat.v1.layers, or keras.applications",
    "tensorflow_estimator": "write from tfbig.compat.v1 import estimator",
    "tensorflow_addons": "write the replacement in Keras 3: keras.optimizers, keras.layers",
}


def import_findings(
    source: SourceFile,
    statements: list[tuple[cst.SimpleStatementLine, cst.Import | cst.ImportFrom]],
    in_v1: set[str],
    tf1: bool,
) -> list[Finding]:
    """Finds the changes of the imports.

    Args:
        source: the file.
        statements: lines, and the imports in them.
        in_v1: full names, such as "tensorflow.losses", that must be imported from tf.compat.v1.
        tf1: whether the file is written for TensorFlow 1.
    """
    found = []
    for line, statement in statements:
        if isinstance(statement, cst.Import):
            found += _plain(source, statement, tf1)
        elif statement.module is not None and not statement.relative:
            found += _from(source, line, statement, in_v1, tf1)
    return found


def tensorflow_alias(
    statements: list[tuple[cst.SimpleStatementLine, cst.Import | cst.ImportFrom]],
) -> str | None:
    """What `import tensorflow` is called in the file, such as "tf"; None: there is none."""
    for _, statement in statements:
        for alias in statement.names if isinstance(statement, cst.Import) else ():
            if get_full_name_for_node(alias.name) == "tensorflow":
                return alias.evaluated_alias or "tensorflow"
    return None


def _plain(source: SourceFile, statement: cst.Import, tf1: bool) -> list[Finding]:
    found = []
    for alias in statement.names:
        full = get_full_name_for_node(alias.name)
        line, column = source.position(alias)
        advice = _FOREIGN.get(full.split(".")[0])
        name = Name.of(full)
        if name is not None and name.parts and not name.ours:
            advice = decide(name, tf1)
            if not isinstance(advice, str) and advice is not None:
                if (
                    advice.in_v1
                    or advice.in_tf
                    or advice.used != len(name.parts)
                    or alias.asname is None
                ):
                    advice = f"write import {advice.under('tensorflow')} as {name.parts[-1]}"
                else:
                    edit = Edit(source.span(alias.name), advice.new)
                    new = f"import {advice.new} as {alias.evaluated_alias}"
                    found.append(Finding(line, column, f"import {full}", new, (edit,)))
                    continue
        if advice:
            found.append(Finding(line, column, f"import {full}", advice))
    return found


def _from(source, line, statement: cst.ImportFrom, in_v1: set[str], tf1: bool) -> list[Finding]:
    module = get_full_name_for_node(statement.module)
    row, column = source.position(statement)
    advice = _FOREIGN.get(module.split(".")[0])
    if advice:
        return [Finding(row, column, f"from {module} import …", advice)]
    if Name.of(module) is None:
        return []
    if isinstance(statement.names, cst.ImportStar):
        text = "names that are imported by * are not migrated; write import tensorflow as tf"
        return [Finding(row, column, f"from {module} import *", text)]
    found, targets = [], []
    for alias in statement.names:
        target = _target(module, alias.name.value, in_v1, tf1)
        if isinstance(target, str):
            at = source.position(alias)
            found.append(Finding(*at, f"from {module} import {alias.name.value}", target))
            target = (module, alias.name.value)
        targets.append(target)
    if all(
        target == (module, a.name.value) for target, a in zip(targets, statement.names, strict=True)
    ):
        return found
    span = source.span(statement)
    text = source.text[span.start : span.end]
    same_names = all(p[1] == a.name.value for p, a in zip(targets, statement.names, strict=True))
    if same_names and len({p[0] for p in targets}) == 1:
        new = targets[0][0]
        edits = (Edit(source.span(statement.module), new),)
        instead = f"from {new} import …"
    else:
        instead = _split(source, line, statement, targets)
        edits = () if "#" in text or len(line.body) > 1 else (Edit(span, instead),)
    what = " ".join(text.split())
    found.append(Finding(row, column, what, "; ".join(instead.split("\n")), edits))
    return found


def _target(module: str, name: str, in_v1: set[str], tf1: bool) -> tuple[str, str] | str:
    """The new module and name of an imported name, or advice."""
    full = f"{module}.{name}"
    found = Name.of(full)
    decision = decide(found, tf1)
    if isinstance(decision, str):
        said = found.parts[0] != "contrib" or decision.startswith("leave it out")
        return decision if said else f"leave it out; {decision}"
    if isinstance(decision, Rename) and not decision.any_call:
        return f"leave it out; write {decision.under('tf')}"
    if decision is not None and decision.in_tf:
        return tuple(f"tensorflow.{decision.new}".rsplit(".", 1))
    if full in in_v1 or (decision is not None and decision.in_v1):
        path = decision.new if decision is not None else ".".join(found.parts)
        return tuple(f"tensorflow.compat.v1.{path}".rsplit(".", 1))
    if decision is None:
        return module, name
    rest = found.parts[decision.used :]
    new = ".".join([decision.new, *rest])
    if found.parts[0] == "estimator" and len(found.parts) == 2:
        # One import stays one: each of these modules has all names of tf.estimator.
        place = "tfbig.compat.v1.estimator" if tf1 or found.v1 else "tfbig.estimator"
        return place, name
    return tuple(new.rsplit(".", 1))


def _split(source, line, statement, targets) -> str:
    """One import statement per module, on separate lines."""
    indent = " " * (source.position(line)[1] - 1)
    groups: dict[str, list[str]] = {}
    for (module, name), alias in zip(targets, statement.names, strict=True):
        kept = alias.evaluated_alias or alias.name.value
        groups.setdefault(module, []).append(name if kept == name else f"{name} as {kept}")
    lines = [f"from {module} import {', '.join(names)}" for module, names in groups.items()]
    return f"{source.tree.default_newline}{indent}".join(lines)


def added_imports(source: SourceFile, needed: set[str]) -> list[Finding]:
    """The imports that the new code needs, before that of TensorFlow."""
    there = set()
    tensorflow_import = None
    for statement in source.tree.body:
        names = _imported_modules(statement)
        there |= names
        if any(name.split(".")[0] == "tensorflow" for name in names) and tensorflow_import is None:
            tensorflow_import = statement
    lacking = sorted(needed - there)
    if not lacking:
        return []
    newline = source.tree.default_newline
    text = "".join(f"import {name}{newline}" for name in lacking)
    # tfbig comes before TensorFlow, because it configures TensorFlow's log.
    head = _last_of_the_head(source.tree)
    if tensorflow_import is not None:
        line = source.position(tensorflow_import)[0]
        at = source.line_start(line)
    elif head is not None:
        line, at = source.position(head)[0] + 1, source.line_end(source.span(head).end - 1)
        if at == len(source.text) and not source.text.endswith(("\n", "\r")):
            text = newline + text.removesuffix(newline)
    else:
        line, at = 1, 0
    what = "; ".join(f"import {name}" for name in lacking)
    return [Finding(line, 1, "the imports", f"add {what}", (Edit(Span(at, at), text),))]


def _imported_modules(statement: cst.CSTNode) -> set[str]:
    """The modules that a top-level statement imports, including in `try`, but not in functions."""
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
    """The last statement of the docstring and imports at the start of a file."""
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
