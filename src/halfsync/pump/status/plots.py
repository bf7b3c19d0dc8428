"""Plots as SVG, by themselves: lines over time, with what the axes say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

WIDTH, HEIGHT = 360, 130
LEFT, RIGHT, TOP, BOTTOM = 46, 6, 8, 18
"""What is around the lines."""

Line = tuple[str, Sequence[tuple[float, float]]]
"""A name, and points."""

STYLE = """
svg.plot { width: 100%; height: auto; display: block; }
.plot text { font: 10px system-ui, sans-serif; fill: currentColor; }
.plot .grid { stroke: currentColor; stroke-opacity: .2; }
.plot polyline { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.plot .line0 { stroke: var(--line0); } .plot .line1 { stroke: var(--line1); stroke-dasharray: 5 2; }
.plot .line2 { stroke: var(--line2); stroke-dasharray: 2 2; }
"""
COLOURS = "--line0: #1565c0; --line1: #c75000; --line2: #8a1c7c;"
DARK_COLOURS = "--line0: #7ab8ff; --line1: #ffab66; --line2: #eb8fdc;"


def plot(
    title: str,
    lines: Sequence[Line],
    text: Callable[[float], str],
    x_axis: Sequence[tuple[float, str]],
    thousand: float = 1000,
    *,
    has_legend: bool = False,
) -> str:
    """`text` says a value; `x_axis`: where there is something said, from the left end to the right one;
    `thousand`: 1024 for sizes; `has_legend`: the lines' names are at the lower right."""
    (first, _), *_, (last, _) = x_axis
    most = nice(max((y for _, points in lines for _, y in points), default=0.0), thousand)
    room = HEIGHT - TOP - BOTTOM

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - first) / ((last - first) or 1)

    def down(y: float) -> float:
        return TOP + room * (1 - y / most)

    def say(x: float, y: float, anchor: str, said: str) -> None:
        parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>')

    parts = [f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for value in (0.0, most / 2, most):
        parts.append(f'<path class="grid" d="M{LEFT} {down(value):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text x="{LEFT - 4}" y="{down(value) + 3:.1f}" text-anchor="end">{escape(text(value))}</text>'
        )
    for x, said in x_axis:
        anchor = "end" if x == last else "start" if x == first else "middle"
        parts.append(
            f'<text x="{across(x):.1f}" y="{HEIGHT - 4}" text-anchor="{anchor}">{escape(said)}</text>'
        )
    for number, (name, points) in enumerate(lines):
        if has_legend:
            y = HEIGHT - BOTTOM - 6 - 13 * (len(lines) - 1 - number)
            sample = f"{WIDTH - 34},{y - 3} {WIDTH - 10},{y - 3}"
            parts.append(f'<polyline class="line{number}" points="{sample}"/>')
            say(WIDTH - 38, y, "end", name)
        where = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="line{number}" points="{where}"/>')
    return "".join((*parts, "</svg>"))


def nice(value: float, thousand: float = 1000) -> float:
    """The next number that is easily halved, in units of one, a thousand, a million, ... 1 for 0."""
    if value <= 0:
        return 1.0
    unit = 1.0
    while unit * thousand <= value:
        unit *= thousand
    power = unit
    while power > value:
        power /= 10
    while 10 * power <= min(value, unit * thousand / 1.1):
        power *= 10
    factors = (1, 2, 4, 6, 8, 10) if power < 100 * unit else (1, 2, 4, 6, 8, thousand / 100)
    return next(power * factor for factor in factors if value <= power * factor * 1.000001)


def standalone(svg: str) -> str:
    """As a file of its own."""
    style = f"<style>.plot {{ {COLOURS} color: #333; background: #fff; }}{STYLE}</style>"
    head, _, rest = svg.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg">{style}{rest}\n'
