"""Tables and verdicts, as text."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need be; the first is set left, the others right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    rule = ["-" * width for width in widths]
    lines.insert(1, rule)
    return "\n".join("  " + _line(line, widths).rstrip() for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cells[0].ljust(widths[0])]
    padded += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "  ".join(padded)


def verdict(what: str, figure: float, target: float, unit: str = "", *, at_least: bool) -> str:
    """One line: the target, the figure, met or not."""
    met = figure >= target if at_least else figure <= target
    word = "at least" if at_least else "at most"
    return f"  {'met' if met else 'NOT MET':8} {what}: {figure:.2f}{unit}, target {word} {target:g}{unit}"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"
