"""The main job: compare ways of specialising a base on tasks, and hand over the best. `adapt` is one way alone."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metier import atomic, progress
from metier.errors import UserError
from metier.method import find
from metier.model import Base, Specialist, load_base
from metier.study import execute
from metier.study.plan import Plan, make_plan, spoken
from metier.study.report_data import write_report
from metier.study.report_html import write_html
from metier.study.trial import Job, _make, inapplicable
from metier.task import Task, load_task
from metier.task.general import continuation
from metier.train import Budget, Run


@dataclass(frozen=True)
class Comparison:
    """A finished study: its folder and its report (`report.json`'s content)."""

    out: Path
    report: dict[str, Any]

    def best(self, task: str | None = None) -> Specialist:
        """The recommended specialist of a task (of the only one where there is one)."""
        place = self.out / "best" / task if task else self.out / "best"
        if not (place / "specialist.json").exists():
            raise UserError(f"{place}: no specialist here. Name one of the study's tasks.")
        return Specialist.load(place)


def compare(
    tasks: str | Path | Task | Sequence[str | Path | Task], base: str | Path | Base = "metier-tiny", *, methods: Sequence[str] | None = None,
    budget: str | Budget | None = None, retain: Sequence[str | Path | Task] = (), ood: str | Path | None = None, seeds: int | Sequence[int] = 3,
    out: str | Path = "out", settings: Mapping[str, Mapping[str, Any]] | None = None, workers: int = 1, ray: str | None = None,
    allow_leak: bool = False, quiet: bool = False, dry_run: bool = False,
) -> Comparison:  # fmt: skip
    """Try every method on every task with every seed, measure all alike, and write OUT/report.html, OUT/report.json and OUT/best.

    Run again with the same arguments after an interruption: finished trials are read, not repeated. Raises UserError for
    input that cannot be used, before anything is written.
    """
    out = Path(out)
    atomic.writable(out)
    loaded = load_base(base)
    listed = [tasks] if isinstance(tasks, str | Path | Task) else list(tasks)
    prepared = [load_task(t, allow_leak=allow_leak, overrides={"ood": str(ood)} if ood else None) for t in listed]
    kept = _retained(prepared, retain, loaded, allow_leak)
    plan = make_plan(
        loaded, prepared, methods=methods, budget=Budget.parse(budget) if budget is not None else None, retain=kept,
        seeds=range(seeds) if isinstance(seeds, int) else seeds, settings=settings or {}, precision=_decided(out, loaded),
    )  # fmt: skip
    atomic.writable(out, need_bytes=int(plan.estimate.disk))
    if not quiet:
        announce(plan, out)
    if dry_run:
        return Comparison(out, {})
    with _alone(out):
        atomic.write_json(out / "plan.json", plan.facts())
        _execute(plan, out, workers, ray, quiet)
        return finish(out)


def adapt(
    method: str, task: str | Path | Task, base: str | Path | Base | Specialist = "metier-tiny", *, settings: Mapping[str, Mapping[str, Any]] | None = None,
    budget: str | Budget = "2000ex", seed: int = 0, run: Run | None = None,
) -> Specialist:  # fmt: skip
    """One method (or chain 'a+b') with the given settings, without a search: the specialist it makes."""
    loaded = load_task(task).sealed()
    specialist = base if isinstance(base, Specialist) else Specialist(load_base(base))
    job = Job(method, loaded, seed, Budget.parse(budget), "float32", settings or {})
    if reason := inapplicable(job, specialist.base):
        raise UserError(f"{method}: {reason}")
    for part in job.parts:
        found = find(part)
        part_run = run or Run(seed=seed, budget=job.budget.share(1 / len(job.parts)))
        specialist = specialist.then(_make(found, dict(job.settings.get(part, {})), specialist, loaded, part_run))
    return specialist


def finish(out: Path) -> Comparison:
    """Write the report of the trials that are there, and the recommended specialists."""
    report = write_report(out)
    write_html(out, report)
    _best(out, report)
    return Comparison(out, report)


def announce(plan: Plan, out: Path) -> None:
    """What will run and what it will cost, on standard error."""
    todo = [j for j in plan.jobs if not (out / "trials" / j.key(plan.base) / "trial.json").exists()]
    applicable = [j for j in todo if not inapplicable(j, plan.base)]
    seconds = sum(plan.estimate.per_job.get(_id(j), 0.0) for j in applicable)
    tasks = ", ".join(f"{t.name} ({len(t.train)} train, {len(t.dev)} dev, {len(t.test)} test)" for t in plan.tasks)
    progress.say(f"base       {plan.base.name}, {plan.base.parameters / 1e6:.1f} M parameters, training in {plan.precision}")
    progress.say(f"tasks      {tasks}")
    progress.say(f"methods    {', '.join(plan.methods)}")
    finished = len(plan.jobs) - len(todo)
    progress.say(f"trials     {len(applicable)} to run" + (f", {finished} finished before" if finished else "") + f"; budget {plan.budget} each")
    gigabytes = f"memory about {plan.estimate.memory / 1e9:.1f} GB, disk up to {plan.estimate.disk / 1e9:.2f} GB in {out}"
    progress.say(f"estimate   about {spoken(seconds)}, {gigabytes}")
    for task in plan.tasks:
        for warning in task.options.get("warnings", ()):
            progress.say(f"warning    {warning}")


def _execute(plan: Plan, out: Path, workers: int, ray: str | None, quiet: bool) -> None:
    jobs = [j for j in plan.jobs if not _finished(out, j, plan.base)]
    total = sum(plan.estimate.per_job.get(_id(j), 0.01) for j in jobs)
    with progress.bar("comparing", total, quiet=quiet) as advance:

        def done(job: Job, card: dict[str, Any]) -> None:
            failed = f" FAILED: {card['error']}" if card["status"] == "failed" else ""
            advance(plan.estimate.per_job.get(_id(job), 0.01), f"{job.task.name} {job.method} seed {job.seed}{failed}")

        def tell(job: Job, what: str) -> None:
            advance(0.0, f"{job.task.name} {job.method}: {what}")

        if ray is not None:
            execute.on_ray(jobs, plan.base, out, done, ray)
        elif workers > 1:
            execute.in_processes(jobs, plan.base, out, done, workers)
        else:
            execute.here(jobs, plan.base, out, done, tell)
    shutil.rmtree(out / "work", ignore_errors=True)


def _finished(out: Path, job: Job, base: Base) -> bool:
    file = out / "trials" / job.key(base) / "trial.json"
    return file.exists() and json.loads(file.read_text(encoding="utf-8"))["status"] != "failed"


def _id(job: Job) -> str:
    return f"{job.method}|{job.task.name}|{job.seed}"


def _retained(tasks: Sequence[Task], retain: Sequence[str | Path | Task], base: Base, allow_leak: bool) -> list[Task]:
    """The tasks on which forgetting is measured: those asked for, those the task files name, else the built-in one; at most 200 examples each."""
    named = [s for t in tasks for s in t.options.get("retain", ())]
    kept = [load_task(r, allow_leak=True) for r in [*retain, *named]]
    if not kept:
        kept = [continuation()]
    return [replace(t, test=tuple(t.test)[:200], train=(), ood=()) for t in {t.name: t for t in kept}.values()]


def _decided(out: Path, base: Base) -> str | None:
    """The precision an interrupted study had chosen, so that it goes on as it began."""
    file = out / "plan.json"
    if not file.exists():
        return None
    plan = json.loads(file.read_text(encoding="utf-8"))
    return plan["precision"] if plan["base"]["fingerprint"] == base.fingerprint else None


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """One study at a time in a folder; leavings of a killed one are swept."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{out}: another study is writing here. Wait for it, or choose another folder with -o.") from error
        for leaving in (*out.glob("trials/.*.part"), *out.glob("trials/.*.old"), *out.glob(".*.part"), *out.glob(".*.old")):
            shutil.rmtree(leaving) if leaving.is_dir() else leaving.unlink()
        yield


def _best(out: Path, report: dict[str, Any]) -> None:
    """The recommended specialist of every task; of its seeds the one that did best on dev."""
    chosen = {t["task"]: t["method"] for t in report["recommendation"]["tasks"] if t["method"]}
    plan = json.loads((out / "plan.json").read_text(encoding="utf-8"))
    cards = [json.loads((out / "trials" / k / "trial.json").read_text(encoding="utf-8")) for k in plan["trials"] if (out / "trials" / k / "trial.json").exists()]
    for task, method in chosen.items():
        rows = [c for c in cards if c["task"] == task and c["method"] == method and c["status"] == "done"]
        if not rows:
            continue
        best = max(rows, key=lambda c: max((s["dev_score"] or 0.0 for s in c.get("search", ())), default=0.0))
        with atomic.folder(out / "best" / task if len(plan["tasks"]) > 1 else out / "best") as draft:
            shutil.copytree(out / "trials" / best["key"] / "specialist", draft, dirs_exist_ok=True)
