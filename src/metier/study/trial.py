"""Trial: one method (or chain 'a+b') on one task with one seed, from the search on dev to the records on disk."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import itertools
import json
import math
import platform
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from metier import atomic
from metier.errors import Diverged, Failed, NotApplicable, Unwritable, UserError, out_of_memory
from metier.evaluate.measuring import measure, reading_flops
from metier.evaluate.record import Record, write_records
from metier.method import Method, find
from metier.model import Base, Change, Specialist
from metier.study import content
from metier.study.memory import peak_bytes, reset_peak
from metier.task import Task
from metier.task.score import SCORERS
from metier.train import Budget, Run

DEV_LIMIT = 100
LIKELIHOOD_LIMIT = 50
GAP_EXAMPLES = 8
SEARCH_SHARE = 0.5
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
WORK = ".work"  # in a study's trials: checkpoints of those that are not done
Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Job:
    """What a trial is made of; `key` is a hash of everything that can move its result."""

    method: str
    task: Task
    seed: int
    budget: Budget
    precision: str
    settings: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    retain: tuple[Task, ...] = ()
    accumulate: int = 1

    @property
    def parts(self) -> list[str]:
        """The methods of a chain, in the order they are applied."""
        return self.method.split("+")

    def key(self, base: Base) -> str:
        """24 hex digits."""
        code = {p: hashlib.sha256(find(p).file.read_bytes()).hexdigest()[:12] for p in self.parts}
        facts = [
            base.fingerprint,
            base.chat,
            base.truncate,
            self.method,
            code,
            self.task.digest(),
            self.seed,
            str(self.budget),
            self.precision,
            self.accumulate,
        ]
        facts += [
            [content.digest(self._value(p, name)) for p in self.parts for name in find(p).about.reads],
            {p: dict(s) for p, s in self.settings.items() if p in self.parts},
            [t.digest() for t in self.retain],
            versions()["metier"],
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:24]

    def _value(self, part: str, name: str) -> Any:
        """A setting of one of the methods, as given or by default."""
        return self.settings.get(part, {}).get(name, next(s.default for s in find(part).settings if s.name == name))


def run_trial(job: Job, base: Base, out: Path, *, tell: Tell | None = None, say: Tell | None = None) -> dict[str, Any]:
    """Run the trial and write its folder, or read it where it is finished. Returns trial.json's content.

    A method that does not apply, or fails, is a result too; only an interrupt and a disk that cannot be written get through.
    `tell` hears what is being done, `say` what a person must know (it is kept in the card's `remarks` too).
    """
    key = job.key(base)
    place, work = out / "trials" / key, out / "trials" / WORK / key
    if (done := finished(place)) is not None:
        return done
    card: dict[str, Any] = {
        "key": key, "method": job.method, "task": job.task.name, "seed": job.seed, "budget": str(job.budget), "precision": job.precision, "error": None,
        "base": {"name": base.name, "fingerprint": base.fingerprint, "family": base.family}, "versions": versions(), "status": "done",
        "places": [find(p).about.place for p in job.parts], "papers": sorted({r for p in job.parts for r in find(p).about.papers}), "remarks": [],
    }  # fmt: skip

    def remark(text: str) -> None:
        card["remarks"].append(f"{job.task.name} {job.method} seed {job.seed}: {text}")
        if say is not None:
            say(card["remarks"][-1])

    reason = inapplicable(job, base)
    with atomic.folder(place) as draft:
        if reason:
            card |= {"status": "not-applicable", "error": reason}
        else:
            try:
                _Trial(job, base, draft, work, card, tell or (lambda _: None), remark).go()
            except Unwritable:
                raise
            except NotApplicable as error:
                card |= {"status": "not-applicable", "error": str(error)}
            except (UserError, Failed) as error:
                card |= {"status": "failed", "error": str(error)}
            except Exception as error:
                if isinstance(error, OSError) and error.errno in NO_ROOM:
                    raise
                text = "out of memory, also with a smaller batch" if out_of_memory(error) else f"{type(error).__name__}: {error}"
                card |= {"status": "failed", "error": text, "traceback": traceback.format_exc()}
        atomic.write_json(draft / "trial.json", card)
    shutil.rmtree(work, ignore_errors=True)
    return card


def finished(place: Path) -> dict[str, Any] | None:
    """trial.json of a trial's folder, or None where it is not there or failed (a failed trial is tried again)."""
    try:
        card: dict[str, Any] = json.loads((place / "trial.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{place / 'trial.json'}: not valid JSON ({error}). Delete the folder {place} and run the study again.") from error
    return card if card["status"] != "failed" else None


def inapplicable(job: Job, base: Base) -> str | None:
    """Why the method cannot be tried on this base and task, or None."""
    for part in job.parts:
        about = find(part).about
        if base.family not in about.families:
            return f"{part} works on {', '.join(about.families)} bases; {base.name} is of family {base.family}."
        if job.task.kind not in about.kinds:
            return f"{part} works on tasks of kind {', '.join(about.kinds)}; {job.task.name} is of kind {job.task.kind}."
        if "documents" in about.needs and not job.task.documents:
            return f"{part} needs documents; {job.task.name} has none. Give the task a documents folder."
        if about.trains and not len(job.task.train):
            return f"{part} needs training examples; {job.task.name} has none."
    if base.family == "encoder" and job.task.kind == "generate":
        return f"{base.name} is an encoder and cannot generate text."
    return None


class _Trial:
    def __init__(self, job: Job, base: Base, draft: Path, work: Path, card: dict[str, Any], tell: Tell, say: Tell) -> None:
        self.job, self.base, self.draft, self.work, self.card, self.tell, self.say = job, base, draft, work, card, tell, say
        self.search: list[dict[str, Any]] = []
        self.settings: dict[str, Any] = {}
        self.seconds = {"seconds_search": 0.0, "seconds_train": 0.0, "seconds_evaluate": 0.0}
        trains = [p for p in job.parts if find(p).about.trains]
        share = job.budget.share(1 / max(1, len(trains)))
        self.run = Run(seed=job.seed, budget=share, precision=job.precision, accumulate=job.accumulate)

    def go(self) -> None:
        reset_peak()
        sealed, specialist = self.job.task.sealed(), Specialist(self.base)
        for i, part in enumerate(self.job.parts):
            specialist = specialist.then(self._part(i, part, specialist, sealed))
        specialist.save(self.draft / "specialist")
        gap = reload_gap(specialist, self.draft / "specialist", sealed)
        started = time.perf_counter()
        self.tell("measuring")
        records = self._measure(specialist)
        self.seconds["seconds_evaluate"] = time.perf_counter() - started
        for name, rows in records.items():
            write_records(self.draft / f"records-{name}.parquet", rows)
        test, spent = records["test"], self.run.spent
        self.card |= {
            "settings": self.settings, "search": self.search, "reload_gap": gap, "curve": self.run.curve,
            "cost": self.seconds | {
                "peak_bytes": peak_bytes(), "flops_train": spent.flops or None, "flops_evaluate": reading_flops(specialist, test),
                "trainable_parameters": spent.trainable, "stored_bytes": sum(c.stored_bytes() for c in specialist.changes),
                "search_trials": sum(r["seconds"] > 0 for r in self.search), "examples_seen": spent.examples,
                "tokens_in_per_answer": sum(r.tokens_in for r in test) / len(test), "tokens_out_per_answer": sum(r.tokens_out for r in test) / len(test),
            },
        }  # fmt: skip

    def _part(self, i: int, part: str, start: Specialist, task: Task) -> Change:
        method = find(part)
        given = dict(self.job.settings.get(part, {}))
        candidates = _candidates(method, given) if task.dev else [given]
        trains, made = method.about.trains, None
        if len(candidates) > 1:
            chosen, made = self._search(i, part, candidates, start, task)
        else:
            chosen = candidates[0]
        if made is None:
            share = 1 - SEARCH_SHARE if trains and len(candidates) > 1 else 1.0
            started = time.perf_counter()
            run = self.run.part(share, f"{i}-final")
            run.workdir = (
                self.work / f"{i}-{_digest(chosen)}" if trains else None
            )  # a search against the clock may choose another next time
            run.say, run.tell = self.say, (lambda step, steps, loss: self.tell(f"{part} step {step}/{steps}"))
            made = _make(method, chosen, start, task, run)
            self.run.curve += [{**point, "part": part} for point in run.curve]
            self.seconds["seconds_train"] += time.perf_counter() - started
        settings = dataclasses.asdict(method.configure(chosen))
        self.settings[part] = settings
        card = {"method": part, "settings": settings, "task": task.name, "task_digest": self.job.task.digest(), "seed": self.job.seed}
        card |= {"papers": list(method.about.papers), "versions": versions(), "budget": str(self.job.budget)}
        object.__setattr__(made, "provenance", {**dict(getattr(made, "provenance", {}) or {}), **card})
        return made

    def _search(
        self, i: int, part: str, candidates: list[dict[str, Any]], start: Specialist, task: Task
    ) -> tuple[dict[str, Any], Change | None]:
        """The candidate that scores best on dev (ties: the likelier answers, then the earlier); its change too where nothing was trained.

        A budget in seconds ends the search too, after the first candidate; what was not tried is in the records.
        """
        started, best = time.perf_counter(), (-math.inf, -math.inf)
        chosen: dict[str, Any] | None = None
        kept: Change | None = None
        method = find(part)
        share = SEARCH_SHARE / len(candidates) if method.about.trains else 1.0
        for n, candidate in enumerate(candidates):
            row: dict[str, Any] = {"method": part, "settings": candidate, "dev_score": None, "error": None, "seconds": 0.0}
            if chosen is not None and self.run.budget.unit == "seconds" and time.perf_counter() - started > self.run.budget.amount:
                self.search.append(row | {"error": f"not tried: the budget of {self.run.budget} was spent"})
                continue
            self.tell(f"{part} trying {n + 1}/{len(candidates)}")
            since, run = time.perf_counter(), self.run.part(share, f"{i}-search-{n}")
            run.say = self.say if method.about.trains else None  # what does not fit is said once, of what is chosen
            try:
                change = _make(method, candidate, start, task, run)
                value = dev_value(start.then(change), task, seed=self.job.seed)
            except Diverged as problem:
                self.search.append(row | {"error": str(problem), "seconds": time.perf_counter() - since})
                continue
            self.search.append(row | {"dev_score": value[0] if math.isfinite(value[0]) else None, "seconds": time.perf_counter() - since})
            if value > best:
                best, chosen, kept = value, candidate, change
        self.seconds["seconds_search"] += time.perf_counter() - started
        if chosen is None:
            raise Diverged(
                f"{part}: training diverged with every candidate, the last: {self.search[-1]['error']} Fix a lower lr with --set {part}.lr=..."
            )
        return chosen, None if method.about.trains else kept

    def _measure(self, specialist: Specialist) -> dict[str, list[Record]]:
        job = self.job
        records = {"test": measure(specialist, job.task, seed=job.seed)}
        if len(job.task.ood):
            records["ood"] = measure(specialist, job.task, split="ood", seed=job.seed)
        for other in job.retain:
            if self.base.family == "encoder" and other.kind == "generate":
                continue
            records[f"retain-{other.name}"] = measure(specialist, other, seed=job.seed, role="retain")
        return records


def _make(method: Method, settings: Mapping[str, Any], start: Specialist, task: Task, run: Run) -> Change:
    function, _ = method.load()
    change = function(start, task, method.configure(settings), run)
    if not isinstance(change, Change) or change.place != method.about.place:
        raise UserError(f"method {method.name}: must return a change of place '{method.about.place}'; got {type(change).__name__}.")
    return change


def _candidates(method: Method, given: dict[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the searched settings that the user has not fixed."""
    free = {k: v for k, v in method.about.search.items() if k not in given}
    return [given | dict(zip(free, values, strict=True)) for values in itertools.product(*free.values())]


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]


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


def reload_gap(specialist: Specialist, place: Path, task: Task) -> float | None:
    """Largest absolute difference of log-probabilities between the specialist and what was saved, on a few dev (or train) examples.

    None where nothing is compared by likelihood (ranking). Raises UserError where the gap is beyond rounding.
    """
    examples = list(task.dev)[:GAP_EXAMPLES] or list(task.train)[:GAP_EXAMPLES]
    if task.kind == "rank" or not examples:
        return None
    again = Specialist.load(place, base=specialist.base)
    if task.kind == "choose":
        pairs = zip(specialist.choose(task, examples), again.choose(task, examples), strict=True)
    else:
        prompts = ([s.prompt(task, e) for e in examples] for s in (specialist, again))
        golds = [[e.answer] for e in examples]
        pairs = zip(*(s.score(p, golds) for s, p in zip((specialist, again), prompts, strict=True)), strict=True)
    gap = max(float((a - b).abs().nan_to_num(0).max()) for a, b in pairs)
    if gap > 1e-2:
        raise UserError(
            f"saved and loaded again, the specialist answers differently: log-probabilities differ by {gap:.3g}. Please report this."
        )
    return gap


def versions() -> dict[str, str]:
    """Versions of what can move a score."""
    names = ("metier", "torch", "transformers", "peft", "numpy")
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found | {"python": platform.python_version(), "threads": str(torch.get_num_threads())}
