"""Migrates one file: finds the necessary changes, and applies the automatic ones."""

import dataclasses

import libcst as cst

from tfbig.migration.finder import Finder, Use, is_other_call, is_tf1
from tfbig.migration.imports import added_imports, import_findings
from tfbig.migration.renames import Rename, decide
from tfbig.migration.source import Edit, Finding, SourceFile, edited


@dataclasses.dataclass(frozen=True)
class Migration:
    """The result of migrating a file.

    Args:
        path: path of the file.
        mechanical: automatic changes, which `text` includes.
        by_hand: changes to make by hand.
        kept: names of TensorFlow that do not change.
        text: the file with the automatic changes.
    """

    path: str
    mechanical: list[Finding]
    by_hand: list[Finding]
    kept: list[str]
    text: str


def migrate(source: SourceFile) -> Migration:
    """Migrates a file of TF1 or tf.estimator.

    Example: `print(migrate(SourceFile.read("train.py")).text)`.
    """
    finder = Finder(source)
    source.tree.visit(finder)
    tf1 = is_tf1(finder.uses)
    findings, renamed, in_v1, kept = list(finder.findings), [], set(), set()
    for use in finder.uses:
        decision = decide(use.name)
        if decision is None and tf1 and is_other_call(use):
            decision = Rename(len(use.name.parts), ".".join(use.name.parts), in_v1=True)
        if isinstance(decision, str):
            findings.append(_finding(source, use, decision))
        elif decision is None and not use.name.ours:
            kept.add(".".join(("tf.compat.v1" if use.name.v1 else "tf", *use.name.parts)))
        elif decision is None:
            continue
        elif use.given:
            # The import changes, and the imported name stays.
            if decision.in_v1:
                in_v1.add(".".join(("tensorflow", *use.name.parts[: use.given])))
        elif not (decision.in_v1 and use.either):
            renamed.append(_renamed(source, use, decision))
    texts = [e.text for f in renamed for e in f.edits]
    needed = {
        module
        for module in ("absl.app", "absl.flags", "tfbig")
        if any(f"{text}.".startswith(f"{module}.") for text in texts)
    }
    findings += renamed
    findings += import_findings(source, finder.imports, in_v1)
    findings += added_imports(source, needed)
    findings.sort(key=lambda f: (f.line, f.column))
    mechanical = [f for f in findings if f.mechanical]
    return Migration(
        source.path,
        mechanical,
        [f for f in findings if not f.mechanical],
        sorted(kept),
        edited(source.text, [e for f in mechanical for e in f.edits]),
    )


def _renamed(source: SourceFile, use: Use, rename: Rename) -> Finding:
    root = source.tree.code_for_node(use.chain[0])
    new = rename.new
    if rename.in_v1:
        is_v1 = use.skipped == 1 and use.name.v1  # `import tensorflow.compat.v1 as tf`
        new = f"{root}.{new}" if is_v1 else f"{root}.compat.v1.{new}"
    node, span = use.chain[-1], source.span(use.chain[use.skipped + rename.used - 1])
    if new == "absl.app.run" and use.call is not None and not use.call.args:
        # Without an argument, TensorFlow's run calls the script's main, while absl's needs it.
        if not _has_main(source.tree):
            new = f"{root}.compat.v1.app.run"
        else:
            node, span, new = use.call, source.span(use.call), "absl.app.run(main)"
    # Code with a comment inside is not changed automatically.
    edits = () if "#" in source.text[span.start : span.end] else (Edit(span, new),)
    line, column = source.position(node)
    names = use.chain[: use.skipped + rename.used]
    what = ".".join((each.value if each is names[0] else each.attr.value) for each in names)
    return Finding(line, column, what, new, edits)


def _finding(source: SourceFile, use: Use, instead: str) -> Finding:
    line, column = source.position(use.chain[-1])
    what = " ".join(source.tree.code_for_node(use.chain[-1]).split())
    return Finding(line, column, what, instead)


def _has_main(tree: cst.Module) -> bool:
    return any(isinstance(s, cst.FunctionDef) and s.name.value == "main" for s in tree.body)
