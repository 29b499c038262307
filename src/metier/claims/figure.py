"""A claim's result as a picture (SVG): every effect with its interval, a dot for each seed, and the bar that the rule sets.

All intervals of a picture share one scale; counts, which have none, are written. Axes take the colour of the page around
them, so that one picture serves light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from metier.claims.result import FAILS, HOLDS, OPEN
from metier.errors import UserError

COLOURS = {HOLDS: "#2a9d5c", FAILS: "#c8553d", OPEN: "#c99a1e", "": "#6b7a89"}
WIDTH, LEFT, RIGHT, ROW, FOOT = 900, 26, 874, 42, 54  # the picture, the ends of its tracks, the height of a row, and of axis and caption


class Mark(NamedTuple):
    """A number with its interval. dots: the same by seed; bar: what it is held against; verdict: which gives the colour."""

    name: str
    value: float
    interval: tuple[float, float] | None = None
    dots: Sequence[float] = ()
    bar: float | None = None
    verdict: str = ""

    def known(self) -> list[float]:
        """All that must find room on the axis."""
        return [] if self.interval is None else [*self.interval, self.value, *self.dots, *([] if self.bar is None else [self.bar])]


def svg(row: Mapping[str, Any]) -> str:
    """The picture of a row of `table.rows()`. Raises UserError where nothing was measured."""
    effects, bars = row["effects"], row["thresholds"]
    if not effects:
        raise UserError(f"{row['name']}: {row['verdict']}, so there is nothing to draw. Measure it with: metier claims run {row['name']}")
    marks = [
        Mark(e["name"], e["value"])
        if e["how"] == "exact"
        else Mark(e["name"], e["value"], (e["low"], e["high"]), e["per_seed"], bars.get(e["name"]), row["verdicts"].get(e["name"], ""))
        for e in effects
    ]
    seeds = max(e["seeds"] for e in effects)
    said = f"{row['verdict']}; intervals of 95 %, {seeds} seeds (small dots); upright marks are the rule's bars"
    return forest(str(row["name"]), marks, said)


def forest(title: str, marks: Sequence[Mark], caption: str) -> str:
    """Numbers with their intervals, one below the other, on one axis that shows 0."""
    low, high, step = _scale([0.0, *(x for m in marks for x in m.known())])
    bottom = ROW * len(marks) + 4

    def at(value: float) -> str:
        return f"{LEFT + (RIGHT - LEFT) * (value - low) / (high - low):.1f}"

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + FOOT}" role="img" font-family="sans-serif" font-size="13">',
        f"<title>{escape(title)}</title>",
    ]
    for i in range(round((high - low) / step) + 1):
        value = low + i * step
        zero = abs(value) < step / 2
        lines += [
            f'<path d="M{at(value)} 0V{bottom}" stroke="currentColor" opacity="{0.6 if zero else 0.15}"/>',
            f'<text x="{at(value)}" y="{bottom + 16}" text-anchor="middle" fill="currentColor">{0 if zero else round(value, 9):g}</text>',
        ]
    for i, mark in enumerate(marks):
        lines += _drawn(mark, ROW * i, at)
    lines.append(f'<text x="{LEFT}" y="{bottom + 40}" fill="currentColor" font-style="italic">{escape(caption)}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _drawn(mark: Mark, top: int, at: Callable[[float], str]) -> list[str]:
    """Name and numbers above, the interval below."""
    colour, y = COLOURS[mark.verdict], top + 28
    number = f"{mark.value:.4g}" if mark.interval is None else f"{mark.value:+.3f} [{mark.interval[0]:.3f}, {mark.interval[1]:.3f}]"
    lines = [
        f'<text x="{LEFT}" y="{top + 16}" fill="currentColor">{escape(mark.name)}</text>',
        f'<text x="{RIGHT}" y="{top + 16}" text-anchor="end" fill="{colour}" font-weight="bold">{number}</text>',
    ]
    if mark.interval is None:
        return lines
    lines += [f'<circle cx="{at(x)}" cy="{y}" r="2.5" fill="{colour}" opacity="0.4"/>' for x in mark.dots]
    lines.append(f'<path d="M{at(mark.interval[0])} {y}H{at(mark.interval[1])}" stroke="{colour}" stroke-width="3"/>')
    lines.append(f'<circle cx="{at(mark.value)}" cy="{y}" r="5" fill="{colour}"/>')
    if mark.bar is not None:
        lines.append(f'<path class="bar" d="M{at(mark.bar)} {y - 8}v16" stroke="currentColor" stroke-width="2.5"/>')
    return lines


def _scale(known: Sequence[float]) -> tuple[float, float, float]:
    """(start, end, step) of an axis of at most eight round steps that holds all that is known."""
    low, wide = min(known), (max(known) - min(known)) or 1.0
    power: float = 10.0 ** math.floor(math.log10(wide / 6))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= wide / 6)
    return math.floor(low / step) * step, math.ceil((low + wide) / step) * step, step
