"""Where a scatter chart's labels go: greedily, each where it covers the least of points, error bars, the front and other labels."""

from __future__ import annotations

import itertools
import math
from typing import Any

Box = tuple[float, float, float, float]  # x0, y0, x1, y1, pixels
WIDTH, HEIGHT = 1080.0, 350.0  # a plot of usual size
LETTER, LINE, POINT, BAR = 6.9, 15.0, 7.0, 2.0  # pixels
CROWDED = 0.3  # covered share above which an optional label is left out


def place_labels(rows: list[dict[str, Any]], at: dict[str, float], must: set[str], axis: str) -> dict[str, str]:
    """{method: plotly text position} for scores at `at` (cost, log axis); methods in `must` come first and always have one."""
    spot = _spots(rows, at)
    front = sorted((r["method"] for r in rows if r["pareto"].get(axis)), key=lambda m: at[m])
    taken: list[Box] = [(x - POINT, y - POINT, x + POINT, y + POINT) for x, y, _, _ in spot.values()]
    taken += [(x - BAR, low, x + BAR, high) for x, _, low, high in spot.values()]
    for left, right in itertools.pairwise(front):
        (x0, y0, *_), (x1, y1, *_) = spot[left], spot[right]
        taken += [(x0, y0 - BAR, x1, y0 + BAR), (x1 - BAR, y0, x1 + BAR, y1)]
    where: dict[str, str] = {}
    for method in sorted(spot, key=lambda m: (m not in must, -spot[m][1])):
        boxes = _boxes(spot[method][0], spot[method][1], LETTER * len(method))
        covered = {k: _covered(box, taken) for k, box in boxes.items()}
        best = min(boxes, key=lambda k: covered[k])
        if method in must or covered[best] <= CROWDED:
            where[method] = best
            taken.append(boxes[best])
    return where


def _spots(rows: list[dict[str, Any]], at: dict[str, float]) -> dict[str, tuple[float, float, float, float]]:
    """{method: (x, y, low, high)} in pixels."""
    logs = {m: math.log10(x) for m, x in at.items()}
    left, wide = min(logs.values()), (max(logs.values()) - min(logs.values())) or 1.0
    bottom = min(r["score"]["low"] for r in rows)
    tall = (max(r["score"]["high"] for r in rows) - bottom) or 1.0

    def y(value: float) -> float:
        return float(HEIGHT * (value - bottom) / tall)

    def x(method: str) -> float:
        return 0.8 * WIDTH * (logs[method] - left) / wide

    return {r["method"]: (x(r["method"]), y(r["score"]["value"]), y(r["score"]["low"]), y(r["score"]["high"])) for r in rows}


def _boxes(x: float, y: float, long: float) -> dict[str, Box]:
    half = LINE / 2
    return {
        "middle right": (x + POINT, y - half, x + POINT + long, y + half),
        "top right": (x + BAR, y + POINT, x + BAR + long, y + POINT + LINE),
        "bottom right": (x + BAR, y - POINT - LINE, x + BAR + long, y - POINT),
        "middle left": (x - POINT - long, y - half, x - POINT, y + half),
        "top left": (x - BAR - long, y + POINT, x - BAR, y + POINT + LINE),
        "bottom left": (x - BAR - long, y - POINT - LINE, x - BAR, y - POINT),
    }


def _covered(box: Box, taken: list[Box]) -> float:
    """Share of a box that is taken, plus what of it leaves the plot on the left."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    return sum(_shared(box, t) for t in taken) / area + max(0.0, -40.0 - box[0]) / (box[2] - box[0])


def _shared(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
