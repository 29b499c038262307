"""Search: which of a method's settings does best on dev. What has been tried is kept, so that a killed trial does not try it again."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from metier import atomic
from metier.delta.record import record
from metier.errors import Diverged, UserError
from metier.evaluate.measuring import measure
from metier.merge._experts import source_of
from metier.method import Method
from metier.model import Change, Specialist
from metier.study.job import versions
from metier.task import Task
from metier.task.score import SCORERS
from metier.train import Run
from metier.train.run import Spent

DEV_LIMIT = 100
LIKELIHOOD_LIMIT = 50
SEARCH_SHARE = 0.5  # of the budget of what is trained


@dataclass
class Tried:
    """One candidate: its row in the trial's card, what it is compared by (None where training diverged), and the account after it."""

    row: dict[str, Any]
    value: Sequence[float] | None
    spent: dict[str, float]


@dataclass
class Search:
    """A search over candidates of one method, charged to `run`.

    name  of the method, as the study calls it
    kept  the file in which what is finished outlives a killed trial
    tell  hears what is being done
    """

    name: str
    method: Method
    candidates: Sequence[dict[str, Any]]
    start: Specialist
    task: Task
    run: Run
    kept: Path
    tell: Callable[[str], None]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def go(self) -> tuple[dict[str, Any], Change | None]:
        """(the candidate that scores best on dev, its change where nothing was trained). Ties: the likelier answers, then the earlier.

        A budget in seconds ends the search too, after the first candidate; what was not tried is in the rows. Raises `Diverged` where
        training with every candidate does.
        """
        known, best, taken = self._known(), (-math.inf, -math.inf), 0.0
        budget, chosen, made = self.run.budget, None, None
        for n, candidate in enumerate(self.candidates):
            if chosen is not None and budget.unit == "seconds" and taken > budget.amount:
                self.rows.append(self._row(candidate) | {"error": f"not tried: the budget of {budget} was spent"})
                continue
            change = None
            if n == len(known):
                tried, change = self._try(n)
                known.append(tried)
                atomic.write_text(self.kept, json.dumps([asdict(t) for t in known]))
            tried = known[n]
            vars(self.run.spent).update(tried.spent)
            self.rows.append(tried.row)
            taken += tried.row["seconds"]
            if tried.value is not None and tuple(tried.value) > best:
                best, chosen, made = (tried.value[0], tried.value[1]), n, change
        if chosen is None:
            raise Diverged(
                f"{self.name}: training diverged with every candidate, the last: {self.rows[-1]['error']} "
                f"Fix a lower lr with --set {self.name}.lr=..."
            )
        if made is None and not self.method.about.trains:  # the killed trial made it, and paid for it
            made = self._make(chosen, replace(self.run, spent=Spent()))
        return self.candidates[chosen], None if self.method.about.trains else made

    def _try(self, n: int) -> tuple[Tried, Change | None]:
        self.tell(f"{self.name} trying {n + 1}/{len(self.candidates)}")
        since, row, value, change = time.perf_counter(), self._row(self.candidates[n]), None, None
        try:
            change = self._make(n, self.run)
            value = dev_value(self.start.then(change), self.task, seed=self.run.seed)
            row["dev_score"] = value[0] if math.isfinite(value[0]) else None
        except Diverged as problem:
            row["error"] = str(problem)
        row["seconds"] = time.perf_counter() - since
        return Tried(row, value, asdict(self.run.spent)), change

    def _make(self, n: int, account: Run) -> Change:
        trains = self.method.about.trains
        run = account.part(SEARCH_SHARE / len(self.candidates) if trains else 1.0, f"search-{n}")
        run.say = account.say if trains else None  # what does not fit is said once, of what is chosen
        return make(self.method, self.candidates[n], self.start, self.task, run)

    def _known(self) -> list[Tried]:
        return [Tried(**row) for row in json.loads(self.kept.read_text(encoding="utf-8"))] if self.kept.exists() else []

    def _row(self, candidate: Mapping[str, Any]) -> dict[str, Any]:
        return {"method": self.name, "settings": candidate, "dev_score": None, "error": None, "seconds": 0.0}


def make(method: Method, settings: Mapping[str, Any], start: Specialist, task: Task, run: Run) -> Change:
    """The change that a method makes. Raises UserError where it is no change, or of another place than the method says."""
    function, _ = method.load()
    change = function(start, task, method.configure(settings), run)
    if not isinstance(change, Change) or change.place != method.about.place:
        raise UserError(f"method {method.name}: must return a change of place '{method.about.place}'; got {type(change).__name__}.")
    return change


def signed(change: Change, method: Method, settings: Mapping[str, Any], task: Task, *, seed: int, budget: object) -> Change:
    """The change with its record: method, all settings, what they name on the disk, task, seed, budget, papers, versions."""
    chosen = asdict(method.configure(dict(settings)))
    named = [chosen[name] for name in method.about.reads if chosen[name]]
    inputs = [source_of(p) for given in named for p in (given if isinstance(given, list | tuple) else [given])]
    card = record(
        "tune", *inputs, method=method.name, settings=chosen, task=task.name, task_digest=task.digest(), seed=seed, budget=str(budget),
        papers=list(method.about.papers), versions=versions(),
    )  # fmt: skip
    object.__setattr__(change, "provenance", {**dict(getattr(change, "provenance", {}) or {}), **card})
    return change


def dev_value(specialist: Specialist, task: Task, *, seed: int = 0) -> tuple[float, float]:
    """(score on dev, mean log-likelihood of the right answers): candidates are compared by the first, ties by the second."""
    records = measure(specialist, task, split="dev", limit=DEV_LIMIT, seed=seed)
    scorer = SCORERS[task.metric]
    if scorer.total and scorer.statistics:
        columns = zip(*(r.stats for r in records if r.stats), strict=True)
        score = scorer.total([sum(c) for c in columns])
    else:
        score = sum(r.score for r in records) / len(records)
    if task.kind == "generate":
        examples = list(task.dev)[:LIKELIHOOD_LIMIT]
        found = specialist.score([specialist.prompt(task, e) for e in examples], [[e.answer] for e in examples])
        sure = [float(f[0]) for f in found]
    else:
        sure = [r.logprobs[r.choices.index(r.target)] for r in records if r.logprobs and r.choices and r.target in r.choices]
    return score, sum(sure) / len(sure) if sure else 0.0
