"""Experts of a real encoder on real tasks, tuned by the study's own trials, and a store of what is made of them.

Every arm is stored when it is done, so that a run that was killed goes on. Only bodies are combined: every task is answered with its own
expert's head.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from languages import DATA
from timing import RESULTS

import metier
from metier import atomic
from metier.claims._experts import folder
from metier.claims._merging import on_dev
from metier.claims.lab import Lab, Trials, calibration, join
from metier.delta import Delta
from metier.evaluate import Record, measure, read_records, stats, write_records
from metier.merge import _data
from metier.merge._experts import Expert, made_of, open_experts
from metier.model import Specialist, WeightChange
from metier.task import Task

TASKS, TEST, DEV = ("trec", "sst2", "financial_phrasebank", "tweet_emotion"), 300, 40
Found = dict[int, dict[str, list[Record]]]  # seed -> task -> records
Made = tuple[dict[str, Any], dict[str, WeightChange]]  # what is said of an arm, and the change for each task


@dataclass(frozen=True)
class Experts:
    """The experts of one seed: their folders, their bodies, the same with heads, and the tasks they were tuned to."""

    start: Specialist
    places: tuple[str, ...]
    bodies: list[Delta]
    whole: list[Expert]
    tasks: list[Task]

    def asked(self, gather: Callable[[Any], dict[str, Any]], examples: int) -> Iterator[dict[str, Any]]:
        """What a merge that needs data asks of every expert on its own task."""
        for expert, task in zip(self.whole, self.tasks, strict=True):
            with _data.at_work(self.start, expert, task.sealed(), examples) as what:
                yield gather(what)

    def answering(self, delta: Delta) -> dict[str, WeightChange]:
        """A body with the head of each task's own expert."""
        return {t.name: made_of(delta, self.start, t, self.whole) for t in self.tasks}

    def best(self, seed: int, candidates: Iterator[tuple[str, dict[str, WeightChange]]]) -> tuple[str, dict[str, WeightChange]]:
        """The candidate with the best mean score on dev; of equals the first."""
        tasks = [t.subset(dev=DEV) for t in self.tasks]
        found: tuple[float, str, dict[str, WeightChange]] = (-1.0, "", {})
        for said, changes in candidates:
            score = sum(on_dev(self.start.then(changes[t.name]), [t], seed) for t in tasks if t.name in changes) / len(changes)
            found = max(found, (score, said, changes), key=lambda f: f[0])
        return found[1:]


class Bench:
    """What all parts share: base, tasks, experts, and a store of what was measured."""

    def __init__(self, work: Path, seeds: int) -> None:
        self.lab, self.work = Lab((metier.load_base("minilm"),), tuple(range(seeds)), work), work
        self.base = self.lab.bases[0]

    @cached_property
    def tasks(self) -> list[Task]:
        """The experts' tasks."""
        return [read(n) for n in TASKS]

    @cached_property
    def tuned(self) -> list[Trials]:
        """An expert of each task."""
        return [self.lab.run("full", t, budget="1600ex", settings={"lr": 2e-4}) for t in self.tasks]

    @cached_property
    def zero(self) -> list[Trials]:
        """The base, untuned, on each task."""
        return [self.lab.run("zero-shot", t) for t in self.tasks]

    def experts(self, seed: int) -> Experts:
        """The seed's experts, in memory."""
        start, places = Specialist(self.base), tuple(folder(t, seed) for t in self.tuned)
        bodies, whole = open_experts(places, start)
        return Experts(start, places, [b.read() for b in bodies], whole, self.tasks)

    def arm(self, name: str, tasks: list[Task], make: Callable[[int], Made]) -> tuple[list[dict[str, Any]], Found]:
        """(what is said, records) of every seed: read where it is done, else made, measured and written, whole or not at all."""
        said, found = [], {}
        for seed in self.lab.seeds:
            place = self.work / "arms" / f"{name} {seed}".replace(" ", "-").replace(",", "")
            if not place.exists():
                facts, changes = make(seed)
                with atomic.folder(place) as draft:
                    for t in tasks:
                        write_records(draft / f"{t.name}.parquet", measure(Specialist(self.base, (changes[t.name],)), t, seed=seed))
                    atomic.write_json(draft / "facts.json", facts)
                print(name, seed, facts, flush=True)
            said.append(json.loads((place / "facts.json").read_text()))
            found[seed] = {t.name: read_records(place / f"{t.name}.parquet") for t in tasks}
        return said, found


def read(name: str) -> Task:
    """A task of the shared folder; rows of train that occur in test are dropped, as the cards count them."""
    return metier.load_task(DATA / name, allow_leak=True, overrides={"dedupe": True}).subset(train=2000, dev=100, test=TEST)


def stored(result: str, parts: Collection[str]) -> list[dict[str, Any]]:
    """The rows of parts that an earlier run left in a result."""
    file = RESULTS / f"{result}.json"
    return [r for r in json.loads(file.read_text())["rows"] if r["part"] in parts] if file.exists() else []


def of(trials: list[Trials]) -> Found:
    """The records of trials."""
    return {seed: {t.task.name: t.records()[seed] for t in trials} for seed in trials[0].cards}


def row(part: str, arm: str, found: Found, beside: Mapping[str, Found], **facts: Any) -> dict[str, Any]:
    """A row: score over all tasks with its interval, less the scores of others, by task, and the mean calibration error."""

    def scores(some: Found, *names: str) -> stats.Scores:
        return join({n: stats.scores({s: some[s][n] for s in found}) for n in names or found[min(found)]})

    mean, names = stats.interval(scores(found)), list(found[min(found)])
    made: dict[str, Any] = {"part": part, "arm": arm, "score": mean.value, "interval": [mean.low, mean.high]}
    for name, other in beside.items():
        gap = stats.difference(scores(other), scores(found))
        made |= {f"minus_{name}": gap.value, f"minus_{name}, interval": [gap.low, gap.high]}
    made |= {n: float(scores(found, n).per_seed().mean()) for n in names if len(names) > 1}
    errors = [float(calibration({s: found[s][n] for s in found}).per_seed().mean()) for n in names]
    return made | {"calibration_error": sum(errors) / len(errors), **facts, "examples_a_task": TEST, "seeds": len(found)}


def only(found: Found, tasks: list[Task]) -> Found:
    """The records on some of the tasks."""
    return {s: {t.name: by[t.name] for t in tasks} for s, by in found.items()}


def choices(said: list[dict[str, Any]]) -> str:
    """What the seeds chose, each choice once."""
    return "; ".join(dict.fromkeys(s["chosen"] for s in said))
