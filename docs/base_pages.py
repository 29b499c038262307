"""The page of the embedded bases: sizes, cost and curves from their folders, numbers from benchmarks/results/base_card.json."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EMBEDDED = ROOT / "src" / "metier" / "embedded"
RESULTS = ROOT / "benchmarks" / "results" / "base_card.json"
ORDER = ("tiny", "tiny-early", "nano", "tiny-next", "encoder")
COLOURS = ("#00897b", "#8d6e00", "#e64a19", "#5e35b1")
WIDTH, HEIGHT, LEFT, BELOW = 640, 260, 40, 34
Point = tuple[float, float]


def table() -> str:
    """What each embedded base is and what it cost."""
    lines = ["| base | parameters | weights | read | took | held-out loss |", "|---|---|---|---|---|---|"]
    for folder in _folders():
        last, card = _curve(folder)[-1], (folder / "CARD.md").read_text(encoding="utf-8")
        count = re.search(r"with ([\d,]+) parameters", card)
        spent = re.search(r"in ([\d.]+ minutes.*?)(?:[.;] |\.$|$)", card, re.MULTILINE)
        loss = f"{last['eval_loss']} nats per token, {last['eval_answer_loss']} on answers" if "eval_loss" in last else ""
        lines.append(
            f"| `metier-{folder.name}` | {count[1] if count else ''} | {(folder / 'model.safetensors').stat().st_size / 1e6:.1f} MB "
            f"| {last['tokens']:,} tokens | {spent[1] if spent else ''} | {loss} |"
        )
    return "\n".join(lines)


def curves() -> str:
    """Held-out loss over tokens read, as a picture."""
    lines = {folder.name: _points(folder) for folder in _folders() if len(_points(folder)) > 1}
    if not lines:
        return ""
    right = max(x for points in lines.values() for x, _ in points)
    low, high = (pick(y for points in lines.values() for _, y in points) for pick in (min, max))

    def place(point: Point) -> str:
        x = LEFT + (WIDTH - LEFT - 90) * point[0] / right
        return f"{x:.1f},{10 + (HEIGHT - BELOW - 10) * (high - point[1]) / max(1e-9, high - low):.1f}"

    parts = [f'<svg class="places" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="held-out loss over tokens read">']
    for value in (low, (low + high) / 2, high):
        y = place((0, value)).split(",")[1]
        parts.append(f'<text x="{LEFT - 6}" y="{float(y) + 4}" text-anchor="end" font-size="11" fill="currentColor">{value:.2f}</text>')
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 90}" y1="{y}" y2="{y}" stroke="currentColor" stroke-opacity="0.2"/>')
    for fraction in (0, 0.5, 1):
        x = place((right * fraction, low)).split(",")[0]
        label = f"{right * fraction / 1e6:.1f} M tokens"
        parts.append(f'<text x="{x}" y="{HEIGHT - 12}" text-anchor="middle" font-size="11" fill="currentColor">{label}</text>')
    for colour, (name, points) in zip(COLOURS, lines.items(), strict=False):
        x, y = place(points[-1]).split(",")
        parts.append(f'<polyline points="{" ".join(map(place, points))}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{float(x) + 6}" y="{float(y) + 4}" font-size="12" fill="{colour}">{name}</text>')
    return "".join(parts) + "</svg>"


def measurements() -> str:
    """The cards' numbers, a column for each base, a table for each section."""
    if not RESULTS.exists():
        return "Not measured yet: `python benchmarks/base_card.py`."
    bases = json.loads(RESULTS.read_text(encoding="utf-8"))["bases"]
    sections: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for name, card in bases.items():
        for row in card["rows"]:
            apart = re.fullmatch(r"(.*) (\(\d+ beyond the interval\))", row["what"])  # this number differs from base to base
            what, row["clear"] = apart.groups() if apart else (row["what"], "")
            sections.setdefault(row["section"], {}).setdefault(what, {})[name] = row
    lines: list[str] = []
    for section, whats in sections.items():
        columns = [name for name in sorted(bases, key=_order) if any(name in row for row in whats.values())]
        if section == "heads":  # which head it is differs from base to base
            columns, whats = columns[:1], {what: row for what, row in whats.items() if columns[0] in row}
        lines += ["", f"### {section.replace('_', '-')}", "", f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        lines += [f"| {what} | {' | '.join(_cell(row.get(name)) for name in columns)} |" for what, row in whats.items()]
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if row.get("metric") == "nats per token":
        return f"{row['value']:.3f}"
    more = "".join(f", {name.replace('_', '@')} {100 * row[name]:.0f}" for name in ("recall_1", "recall_10") if name in row)
    gain = f", {100 * row['gain']:+.0f}" if "gain" in row else ""
    between = f" ({100 * row['low']:.0f} to {100 * row['high']:.0f}{gain}{more})" if "low" in row else ""
    return f"{100 * row['value']:.1f} %{between}" + (f" {row['clear']}" if row["clear"] else "")


def _folders() -> list[Path]:
    found = [path.parent for path in EMBEDDED.glob("*/curve.jsonl")]
    return sorted(found, key=lambda path: _order(path.name))


def _order(name: str) -> tuple[int, str]:
    short = name.removeprefix("metier-")
    return (ORDER.index(short) if short in ORDER else len(ORDER), short)


def _curve(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text(encoding="utf-8").splitlines()]


def _points(folder: Path) -> list[Point]:
    return [(line["tokens"], line["eval_loss"]) for line in _curve(folder) if "eval_loss" in line]
