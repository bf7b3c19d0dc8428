"""Where a new feature goes, by docs/architecture.md: the files, classes and functions that it names exist."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "halfsync"
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
SECTION = PAGE.partition("## Where does a new feature go\n")[2].partition("\n## ")[0]
ROWS = [line.split(" | ") for line in SECTION.splitlines() if line.startswith("| ")][2:]


def names_in(tree: ast.Module) -> set[str]:
    """ "x" and "Class.x" for all that a module defines."""
    found: set[str] = set()
    for node in tree.body:
        found |= {*_defined(node)}
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for inner in node.body for name in _defined(inner)}
            found |= {f"{node.name}.{name}" for name in re.findall(r"self\.(\w+)", ast.unparse(node))}
    return found


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        return [node.name]
    targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
    return [target.id for target in targets if isinstance(target, ast.Name)]


@functools.cache
def defined() -> dict[str, set[str]]:
    """By a module's name, of all modules that have it. (It takes 1.5 s of processor time, which each process
    of a run would spend if this were done at import.)"""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        found.setdefault(path.stem, set()).update(names_in(ast.parse(path.read_text("utf-8"))))
    return found


def test_the_table_has_the_ten_features():
    assert len(ROWS) >= 10


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("| "))
def test_what_a_row_names_exists(row: list[str]):
    quoted = re.findall(r"`([^`]+)`", " ".join(row))
    assert quoted
    for name in quoted:
        if "/" in name or name.endswith(".py"):
            assert (PACKAGE / name).exists() or (ROOT / name).exists(), name
            continue
        module, _, rest = name.partition(".")
        if module in defined() and rest:
            assert rest in defined()[module], name
        else:
            assert _is_among(name, set().union(*defined().values())), name


def _is_among(name: str, names: set[str]) -> bool:
    """Also a method or a field alone, such as `drained`."""
    return name in names or any(one.endswith(f".{name}") for one in names)
