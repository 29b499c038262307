"""Numbers as people read them, and the report's table for a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

UNKNOWN = "–"


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as percent without the sign: 0.713 -> '71.3'."""
    return UNKNOWN if value is None else f"{100 * value:.{digits}f}"


def signed(value: float | None, digits: int = 1) -> str:
    """A difference of fractions in points, with sign: 0.023 -> '+2.3'; what rounds to zero is '0.0'."""
    if value is None:
        return UNKNOWN
    text = f"{100 * value:+.{digits}f}"
    return (text[1:] if float(text) == 0 else text).replace("-", "\N{MINUS SIGN}")


def bounds(row: dict[str, Any] | None, sign: bool = False) -> str:
    """The interval of a score or a difference: '[66.1, 76.0]'."""
    show = signed if sign else percent
    return UNKNOWN if not row else f"[{show(row['low'])}, {show(row['high'])}]"


def p_value(p: float | None) -> str:
    """A p value: '0.03', '< 0.001'."""
    return UNKNOWN if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def seconds(value: float | None) -> str:
    """A time: '12 ms', '3.4 s', '5 min 20 s', '2 h 05 min'."""
    if value is None:
        return UNKNOWN
    if value < 59.95:
        if value < 0.9995:
            return f"{1000 * value:.3g} ms" if value else "0 s"
        return f"{value:.3g} s"
    if value < 3599.5:
        minutes, rest = divmod(round(value), 60)
        return f"{minutes} min {rest:02d} s"
    hours, rest = divmod(round(value / 60), 60)
    return f"{hours} h {rest:02d} min"


def count(value: float | None) -> str:
    """A count or an amount of work with a decimal prefix: 1_234_567 -> '1.23 M'."""
    if value is None:
        return UNKNOWN
    for size, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def size(value: float | None) -> str:
    """Bytes with a decimal prefix: '4.82 MB'."""
    if value is None:
        return UNKNOWN
    text = count(value)
    return f"{text}B" if text[-1].isalpha() else f"{text} B"


def many(n: int, noun: str) -> str:
    """'1 trial', '2 trials'."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def mark(row: dict[str, Any]) -> str:
    """'better' or 'worse' than the base where the interval and the corrected test agree, 'base', else 'unclear'."""
    difference = row["difference"]
    if not difference:
        return "base" if row["method"] == "zero-shot" else ""
    if difference["p_holm"] < 0.05 and difference["low"] * difference["high"] > 0:
        return "better" if difference["value"] > 0 else "worse"
    return "unclear"


def warned(task: dict[str, Any]) -> list[str]:
    """What verification warns of, a line for each method: the words of its first seed with a warning, and of how many seeds."""
    lines = []
    for row in task["methods"]:
        found = [said["warnings"] for t in row["trials"] if (said := t.get("verified")) and said["warnings"]]
        if found:
            of = f" ({len(found)} of {many(len(row['trials']), 'seed')})" if len(row["trials"]) > 1 else ""
            lines.append(f"{row['method']}: {' '.join(found[0])}{of}")
    return lines


def terminal_table(report: dict[str, Any], width: int = 160) -> list[Table]:
    """One rich table per task, best score first, chosen method bold; columns that do not fit `width` are left out, scores last."""
    chosen = {task["task"]: task["method"] for task in report["recommendation"]["tasks"]}
    return [_table(task, chosen.get(task["name"]), width) for task in report["tasks"]]


def _table(task: dict[str, Any], chosen: str | None, width: int) -> Table:
    names, console = list(_COLUMNS), Console(width=10_000)
    table = _drawn(task, chosen, names)
    for name in _LEAVE_OUT:
        if Measurement.get(console, console.options, table).maximum <= width:
            break
        names.remove(name)
        table = _drawn(task, chosen, names)
    return table


def _drawn(task: dict[str, Any], chosen: str | None, names: list[str]) -> Table:
    title = f"{task['name']} · {task['metric']} · {task.get('n_test', UNKNOWN)} test examples"
    table = Table(title=Text(title, style="bold"), title_justify="left")
    for name in names:
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=name != "method", overflow="fold")
    for row in sorted((r for r in task["methods"] if r["score"]), key=lambda r: -r["score"]["value"]):
        table.add_row(*(_COLUMNS[name](row) for name in names), style="bold" if row["method"] == chosen else "")
    for row in task["methods"]:
        if not row["score"]:
            table.add_row(Text(row["method"]), Text(row["status"], style="dim"))
    return table


def _gain(row: dict[str, Any]) -> Text:
    difference = row["difference"]
    colour = {"better": "green", "worse": "red"}.get(mark(row), "")
    return Text(f"{signed(difference['value'])} {bounds(difference, sign=True)}" if difference else UNKNOWN, style=colour)


def _flips(row: dict[str, Any]) -> Text:
    flips = row["flips"]
    return Text(f"{percent(flips['negative_rate'])}/{percent(flips['positive_rate'])}" if flips else UNKNOWN)


_COLUMNS: dict[str, Callable[[dict[str, Any]], Text]] = {
    "method": lambda r: Text(r["method"]),
    "score %": lambda r: Text(f"{percent(r['score']['value'])} {bounds(r['score'])}"),
    "to the base": _gain,
    "p": lambda r: Text(p_value(r["difference"]["p_holm"]) if r["difference"] else UNKNOWN),
    "lost": lambda r: Text(signed(r["lost_most"]) if r["difference"] else UNKNOWN),
    "OOD %": lambda r: Text(f"{percent(r['ood']['value'])} {bounds(r['ood'])}" if r["ood"] else UNKNOWN),
    "ECE %": lambda r: Text(percent(r["calibration"]["ece"]) if r["calibration"] else UNKNOWN),
    "flips −/+": _flips,
    "time": lambda r: Text(seconds(r["cost"]["seconds"])),
    "stored": lambda r: Text(size(r["cost"]["stored_bytes"])),
    "per answer": lambda r: Text(f"{count(r['cost']['tokens_per_answer'])} tokens"),
}
_LEAVE_OUT = (
    "ECE %",
    "per answer",
    "p",
    "OOD %",
    "flips −/+",
    "time",
    "stored",
    "lost",
    "to the base",
)  # in this order, where room is short
