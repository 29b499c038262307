"""Result: what a claim's experiment found: effects with intervals, the verdict by the claim's rule, and where it was run.

Results are JSON. Those that count lie beside the claims in `results/`; `stored` reads them. A result is of the very claim
that it names only if the digests agree, so a rule cannot be changed after the fact without the result falling out.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metier.claims.claim import FOLDER, Claim, Entry
from metier.errors import UserError

RESULTS = FOLDER / "results"
HOLDS, FAILS, OPEN = "holds", "does not hold here", "undecided"
NOT_RUN, STALE = "not yet run", "to be run again"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A measured difference with its 95 % interval. n: examples; seeds: runs; how: the interval's kind, 'exact' for a count."""

    name: str
    value: float
    low: float
    high: float
    n: int = 1
    seeds: int = 1
    how: str = "exact"
    p: float | None = None
    per_seed: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"effect {self.name!r}: an interval from {self.low} to {self.high}.")

    @classmethod
    def exact(cls, name: str, value: float) -> Effect:
        """A quantity that is counted, not estimated."""
        return cls(name=name, value=value, low=value, high=value)

    def against(self, threshold: float) -> str:
        """'holds' where the whole interval is above the threshold, 'does not hold here' where none of it is, else 'undecided'."""
        return HOLDS if self.low > threshold else FAILS if self.high <= threshold else OPEN

    def spoken(self) -> str:
        """'name +0.120 [0.080, 0.160]'."""
        if self.how == "exact":
            return f"{self.name} {self.value:.4g}"
        return f"{self.name} {self.value:+.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a claim file's `run` returns: effects (those of the rule, and others worth seeing), and remarks in words."""

    effects: Sequence[Effect]
    remarks: Sequence[str] = ()


def judge(claim: Claim, effects: Sequence[Effect]) -> tuple[str, dict[str, str]]:
    """(verdict, verdict of each effect of the rule). Every one must hold; one that fails decides; a missing need leaves it open.

    Raises ValueError where an effect that the claim names was not measured.
    """
    by_name = {e.name: e for e in effects}
    if missing := sorted((set(claim.rule) | set(claim.needs)) - set(by_name)):
        raise ValueError(f"claim {claim.title!r}: its run did not measure {missing}.")
    parts = {name: by_name[name].against(threshold) for name, threshold in claim.rule.items()}
    if any(by_name[name].against(threshold) != HOLDS for name, threshold in claim.needs.items()):
        return OPEN, parts
    values = set(parts.values())
    return (HOLDS if values == {HOLDS} else FAILS if FAILS in values else OPEN), parts


def facts(entry: Entry, found: Found, **where: Any) -> dict[str, Any]:
    """The JSON of a result. `where`: bases, seeds, scores, trials, machine, versions, seconds, date, quick."""
    claim = entry.claim
    verdict, parts = judge(claim, found.effects)
    named = {e.name: e for e in found.effects}
    return {
        **({} if claim.row is None else {"number": claim.row}), "name": entry.name, "title": claim.title, "statement": claim.statement,
        "reported": claim.reported, "experiment": claim.experiment, "rule": claim.spoken(), "limits": claim.limits, "claim": claim.digest(),
        "version": claim.version, "verdict": verdict, "effect": "; ".join(named[name].spoken() for name in claim.rule),
        "verdicts": parts, "effects": [dataclasses.asdict(e) for e in found.effects], "remarks": list(found.remarks), **where,
    }  # fmt: skip


def place(entry: Entry) -> Path:
    """Where the claim's counting result lies."""
    return RESULTS / f"{entry.stem}.json"


def stored(entry: Entry) -> dict[str, Any] | None:
    """The claim's counting result, None where there is none."""
    return load(place(entry))


def load(file: Path) -> dict[str, Any] | None:
    """A result's JSON, None where there is no file. Raises UserError for one that is not a result."""
    if not file.exists():
        return None
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{file}: not a claim's result ({error}). Run the claim again.") from error
    if not isinstance(data, dict) or {"verdict", "claim", "effects"} - set(data):
        raise UserError(f"{file}: not a claim's result. Run the claim again.")
    return data


def status(entry: Entry, result: Mapping[str, Any] | None) -> str:
    """The verdict; or 'not yet run', or 'to be run again' where the claim has changed since."""
    if result is None:
        return NOT_RUN
    return str(result["verdict"]) if result["claim"] == entry.claim.digest() else STALE
