"""Reading a study's folder: its plan, its trials, their records; and sums that keep unknown unknown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metier.errors import UserError
from metier.evaluate.record import Record, read_records

STATUSES = ("done", "failed", "not-applicable")


@dataclass(frozen=True)
class Trial:
    """One finished trial on disk: its folder, and what trial.json says."""

    folder: Path
    meta: dict[str, Any]

    def records(self, split: str) -> list[Record] | None:
        """The records of a split (test, ood, retain-NAME), or None where the trial has none."""
        path = self.folder / f"records-{split}.parquet"
        return read_records(path) if path.exists() else None

    def must(self, split: str) -> list[Record]:
        """The records of a split that every finished trial has. Raises UserError where they are missing or empty."""
        records = self.records(split)
        if not records:
            raise UserError(
                f"{self.folder}: the trial says it is done but has no {split} records. Delete the folder and run the study again."
            )
        return records


BySeed = dict[int, Trial]


def read_trials(out: Path) -> list[Trial]:
    """The trials of a study, by key. Raises UserError for a trial.json that is damaged or says an unknown status."""
    trials = [Trial(path.parent, read_json(path)) for path in sorted(out.glob("trials/*/trial.json"))]
    for trial in trials:
        missing = [key for key in ("method", "task", "seed", "status") if key not in trial.meta]
        if missing or trial.meta["status"] not in STATUSES:
            what = f"lacks {', '.join(missing)}" if missing else f"has the unknown status {trial.meta['status']!r}"
            raise UserError(f"{trial.folder / 'trial.json'}: {what}. Delete the folder and run the study again.")
    return trials


def read_split(group: BySeed, split: str) -> dict[int, list[Record]]:
    """{seed: records} of the trials that have this split."""
    found = {seed: trial.records(split) for seed, trial in group.items()}
    return {seed: records for seed, records in found.items() if records}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file. Raises UserError naming the file where it is missing or damaged."""
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: not found. Is {path.parent} a study's folder (made by `metier compare ... -o`)?") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error}). Delete it and run the study again.") from error
    return value


def known_mean(values: Iterable[float | None]) -> float | None:
    """The mean; None where one is unknown or there are none."""
    values = list(values)
    total = known_sum(values)
    return total / len(values) if total is not None else None


def known_sum(values: Iterable[float | None]) -> float | None:
    """The sum; None where one is unknown or there are none."""
    values = list(values)
    known = [v for v in values if v is not None]
    return math.fsum(known) if known and len(known) == len(values) else None


def finite(value: Any) -> Any:
    """The value with infinities and not-a-numbers as None, so that it is strict JSON."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
