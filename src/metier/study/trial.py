"""Trial: one method (or chain 'a+b') on one task with one seed, from the search on dev to the records on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from metier import atomic
from metier.errors import Failed, NotApplicable, Unwritable, UserError, out_of_memory
from metier.evaluate.measuring import measure, reading_flops
from metier.evaluate.record import Record, write_records
from metier.method import find
from metier.model import Base, Change, Specialist
from metier.study.job import Job, candidates, inapplicable, versions
from metier.study.memory import peak_bytes, reset_peak
from metier.study.reloaded import reloaded
from metier.study.search import SEARCH_SHARE, Search, make, signed
from metier.task import Task
from metier.train import Run

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
WORK = ".work"  # in a study's trials: checkpoints of those that are not done
Tell = Callable[[str], None]


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

    with atomic.folder(place) as draft:
        if reason := inapplicable(job, base):
            card |= {"status": "not-applicable", "error": reason}
        else:
            card |= _outcome(_Trial(job, base, draft, work, card, tell or (lambda _: None), remark))
        atomic.write_json(draft / "trial.json", card)
    shutil.rmtree(work, ignore_errors=True)
    with contextlib.suppress(OSError):  # another trial's is in it, or there is none
        work.parent.rmdir()
    return card


def _outcome(trial: _Trial) -> dict[str, Any]:
    """Run it; what its card says where it does not end well."""
    try:
        trial.go()
    except Unwritable:
        raise
    except NotApplicable as error:
        return {"status": "not-applicable", "error": str(error)}
    except (UserError, Failed) as error:
        return {"status": "failed", "error": str(error)}
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        text = "out of memory, also with a smaller batch" if out_of_memory(error) else f"{type(error).__name__}: {error}"
        return {"status": "failed", "error": text, "traceback": traceback.format_exc()}
    return {}


def finished(place: Path) -> dict[str, Any] | None:
    """trial.json of a trial's folder, or None where it is not there or failed (a failed trial is tried again)."""
    try:
        card: dict[str, Any] = json.loads((place / "trial.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{place / 'trial.json'}: not valid JSON ({error}). Delete the folder {place} and run the study again.") from error
    return card if card["status"] != "failed" else None


class _Trial:
    def __init__(self, job: Job, base: Base, draft: Path, work: Path, card: dict[str, Any], tell: Tell, say: Tell) -> None:
        self.job, self.base, self.draft, self.work, self.card, self.tell, self.say = job, base, draft, work, card, tell, say
        self.search: list[dict[str, Any]] = []
        self.settings: dict[str, Any] = {}
        self.seconds = {"seconds_search": 0.0, "seconds_train": 0.0, "seconds_evaluate": 0.0}
        trains = [p for p in job.parts if find(p).about.trains]
        share = job.budget.share(1 / max(1, len(trains)))
        self.run = Run(seed=job.seed, budget=share, precision=job.precision, accumulate=job.accumulate, say=say)

    def go(self) -> None:
        reset_peak()
        sealed, specialist = self.job.task.sealed(), Specialist(self.base)
        for i, part in enumerate(self.job.parts):
            specialist = specialist.then(self._part(i, part, specialist, sealed))
        specialist.save(self.draft / "specialist")
        gap, verdict = reloaded(specialist, self.draft / "specialist", sealed, self.job.parts)
        for warning in verdict.warnings if verdict else ():
            self.say(warning)
        started = time.perf_counter()
        self.tell("measuring")
        records = self._measure(specialist)
        self.seconds["seconds_evaluate"] = time.perf_counter() - started
        for name, rows in records.items():
            write_records(self.draft / f"records-{name}.parquet", rows)
        test, spent = records["test"], self.run.spent
        self.card |= {
            "settings": self.settings, "search": self.search, "curve": self.run.curve,
            "reload_gap": gap, "verified": verdict.facts() if verdict else None,
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
        tries = candidates(method, given) if task.dev else [given]
        chosen, made = self._search(i, part, tries, start, task) if len(tries) > 1 else (tries[0], None)
        if made is None:
            made = self._final(i, part, chosen, len(tries) > 1, start, task)
        self.settings[part] = dataclasses.asdict(method.configure(chosen))
        return signed(made, method, chosen, self.job.task, seed=self.job.seed, budget=self.job.budget)

    def _search(
        self, i: int, part: str, tries: list[dict[str, Any]], start: Specialist, task: Task
    ) -> tuple[dict[str, Any], Change | None]:  # fmt: skip
        search = Search(part, find(part), tries, start, task, self.run, self.work / f"{i}-search.json", self.tell)
        found = search.go()
        self.search += search.rows
        self.seconds["seconds_search"] += sum(row["seconds"] for row in search.rows)
        return found

    def _final(self, i: int, part: str, chosen: dict[str, Any], searched: bool, start: Specialist, task: Task) -> Change:
        """The change with the chosen settings, for what the search left of the budget."""
        method, started = find(part), time.perf_counter()
        trains = method.about.trains
        run = self.run.part(1 - SEARCH_SHARE if trains and searched else 1.0, f"{i}-final")
        run.workdir = self.work / f"{i}-{_digest(chosen)}" if trains else None
        run.tell = lambda step, steps, loss: self.tell(f"{part} step {step}/{steps}")
        made = make(method, chosen, start, task, run)
        self.run.curve += [{**point, "part": part} for point in run.curve]
        self.seconds["seconds_train"] += time.perf_counter() - started
        return made

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


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]
