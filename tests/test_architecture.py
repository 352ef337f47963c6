"""docs/architecture.md names files, and names in them, that exist."""

import pathlib
import re

_ROOT = pathlib.Path(__file__).parent.parent
_PAGE = (_ROOT / "docs" / "architecture.md").read_text()
_NAMED = [
    (name, path)
    for names, path in re.findall(
        r"((?:`\w+`(?:, )?)+) (?:of `\w+` )?in `(tfbig/[\w/]+\.py)`", _PAGE
    )
    for name in re.findall(r"`(\w+)`", names)
]


def test_the_page_names_files_that_exist():
    paths = set(re.findall(r"`(tfbig/[\w/]+(?:\.py)?)`", _PAGE))

    assert len(paths) > 40
    assert not [path for path in paths if not (_ROOT / path).exists()]


def test_the_page_names_functions_and_classes_that_exist():
    missing = [
        f"{name} in {path}"
        for name, path in _NAMED
        if not re.search(rf"^\s*(?:def|class) {name}\b", (_ROOT / path).read_text(), re.M)
    ]

    assert len(_NAMED) > 40
    assert not missing
