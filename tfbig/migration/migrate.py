"""Migrates one file: finds the necessary changes, and applies the automatic ones."""

import dataclasses

from tfbig.migration.calls import call_edits
from tfbig.migration.finder import Finder, Use, is_other_call, is_tf1
from tfbig.migration.imports import added_imports, import_findings, tensorflow_alias
from tfbig.migration.names import Name, Rename
from tfbig.migration.renames import decide
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
    tf1 = is_tf1(finder)
    root = tensorflow_alias(finder.imports)
    findings, renamed, in_v1, kept = list(finder.findings), [], set(), set()
    for use in finder.uses:
        decision = decide(use.name, tf1, use.where)
        if decision is None and tf1 and is_other_call(use):
            decision = Rename(len(use.name.parts), ".".join(use.name.parts), in_v1=True)
        if isinstance(decision, str):
            findings.append(_finding(source, use, decision))
        elif decision is None and not use.name.ours:
            kept.add(".".join(("tf.compat.v1" if use.name.v1 else "tf", *use.name.parts)))
        elif decision is None:
            continue
        elif use.given and _follows_import(use, decision, tf1):
            # The import changes, and the imported name stays.
            if decision.in_v1:
                in_v1.add(".".join(("tensorflow", *use.name.parts[: use.given])))
        elif not (decision.in_v1 and use.either):
            renamed.append(_renamed(source, use, decision, root))
    texts = [e.text for f in renamed for e in f.edits]
    needed = {
        module
        for module in ("absl.flags", "tfbig")
        if any(f"{text}.".startswith(f"{module}.") for text in texts)
    }
    findings += renamed
    findings += import_findings(source, finder.imports, in_v1, tf1)
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


def _follows_import(use: Use, decision: Rename, tf1: bool) -> bool:
    """Whether an imported name is the new one as soon as its import is changed."""
    parts = use.name.parts
    if parts[0] != "contrib":
        return True
    of_import = decide(Name(parts[: use.given], use.name.v1), tf1)
    if not isinstance(of_import, Rename) or not decision.any_call:
        return False
    rest = ".".join(("", *parts[of_import.used : decision.used]))
    where = (of_import.in_v1, of_import.in_tf) == (decision.in_v1, decision.in_tf)
    return where and f"{of_import.new}{rest}" == decision.new


def _renamed(source: SourceFile, use: Use, rename: Rename, tensorflow: str | None) -> Finding:
    """The change of one name.

    Args:
        source: the file.
        use: the name.
        rename: its new name.
        tensorflow: what `import tensorflow` is called; None: there is none.
    """
    node, last = use.chain[-1], max(use.skipped + rename.used, 1)
    names = use.chain[:last]
    what = ".".join((each.value if each is names[0] else each.attr.value) for each in names)
    line, column = source.position(node)
    if not use.given:
        is_v1 = use.skipped == 1 and use.name.v1  # `import tensorflow.compat.v1 as tf`
        new = rename.under(source.tree.code_for_node(use.chain[0]), is_v1)
    else:
        new = rename.under(tensorflow or "tf")
        if tensorflow is None and (rename.in_v1 or rename.in_tf):
            return Finding(line, column, what, f"write {new}")
    arguments = call_edits(source, use.call, rename)
    if arguments is None:
        return Finding(line, column, what, rename.otherwise or _by_name(new, rename))
    span = source.span(names[-1])
    # Code with a comment inside is not changed automatically.
    lost = "#" in source.text[span.start : span.end]
    return Finding(line, column, what, new, () if lost else (Edit(span, new), *arguments))


def _by_name(new: str, rename: Rename) -> str:
    return f"write {new}, and pass its arguments by name: {', '.join(rename.positional)}"


def _finding(source: SourceFile, use: Use, instead: str) -> Finding:
    line, column = source.position(use.chain[-1])
    what = " ".join(source.tree.code_for_node(use.chain[-1]).split())
    return Finding(line, column, what, instead)
