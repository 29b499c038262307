"""The table of claims: what each says, the rule, what was found; as facts for JSON, or as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metier.claims import result
from metier.claims.claim import Entry, catalogue


def rows(out: Path | None = None) -> list[dict[str, Any]]:
    """One row a claim, with its counting result, or with that in the folder OUT where `claims run` has been."""
    return [row(e, result.stored(e) if out is None else result.load(out / e.stem / "result.json")) for e in catalogue().values()]


def row(entry: Entry, found: Mapping[str, Any] | None) -> dict[str, Any]:
    """A claim and its result as one row."""
    claim = entry.claim
    said = {
        "number": claim.row, "name": entry.name, "title": claim.title, "statement": claim.statement, "reported": claim.reported,
        "experiment": claim.experiment, "rule": claim.spoken(), "limits": claim.limits, "verdict": result.status(entry, found),
        "thresholds": {**claim.rule, **claim.needs},
    }  # fmt: skip
    kept = (
        "effect", "effects", "verdicts", "scores", "seeds", "bases", "remarks", "machine", "versions", "seconds", "seconds_trials", "date",
    )  # fmt: skip
    return said | {key: found.get(key) if found else None for key in kept}


def markdown(table: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| paper | claim | rule | measured here | verdict |", "|---|---|---|---|---|"]
    for r in table:
        cells = (r["number"] or "study", f"**{r['title']}.** {r['statement']}", r["rule"], r["effect"] or "", r["verdict"])
        lines.append("| " + " | ".join(" ".join(str(c).split()).replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines) + "\n"
