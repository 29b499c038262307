"""The main job: compare ways of specialising a base on tasks, and hand over the best. `adapt` is one way alone."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from metier import atomic, check, cluster, progress
from metier.errors import UserError, nearest
from metier.method import find
from metier.model import Base, Specialist, load_base
from metier.study import execute
from metier.study.door import too_long
from metier.study.job import Job, inapplicable
from metier.study.plan import Plan, chosen_methods, make_plan
from metier.study.report_data import dev_score, write_report
from metier.study.report_html import write_html
from metier.study.report_read import read_json
from metier.study.search import make, signed
from metier.study.trial import WORK, finished
from metier.task import Task, load_task
from metier.task.build import ONE_TABLE
from metier.task.general import continuation
from metier.train import Budget, Run

LOCK = ".lock"
OURS = ("plan.json", "report.json", "report.html", "best", "trials")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """A finished study: its folder and its report (`report.json`'s content); of a dry run only the plan (`plan.json`'s)."""

    out: Path
    report: dict[str, Any]
    plan: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """The recommendation and where to look; the report itself is long."""
        said = self.report["recommendation"]["headline"] if self.report else "a plan, nothing was run"
        return f"Comparison({str(self.out)!r}: {said})"

    def best(self, task: str | None = None) -> Specialist:
        """The recommended specialist of a task (of the only one where there is one)."""
        place = self.out / "best" / task if task else self.out / "best"
        if [t["task"] for t in self.report["recommendation"]["tasks"]] == [task]:
            place = self.out / "best"
        if not (place / "specialist.json").exists():
            known = sorted(p.parent.name for p in (self.out / "best").glob("*/specialist.json"))
            raise UserError(f"{place}: no specialist here.{nearest(task or '', known)} Name one of the study's tasks.")
        return Specialist.load(place)


def compare(
    tasks: str | Path | Task | Sequence[str | Path | Task], base: str | Path | Base = "metier-tiny", *, methods: Sequence[str] | None = None,
    budget: str | Budget | None = None, retain: Sequence[str | Path | Task] = (), ood: str | Path | None = None, seeds: int | Sequence[int] = 3,
    out: str | Path = "out", settings: Mapping[str, Mapping[str, Any]] | None = None, workers: int = 1, ray: str | None = None,
    precision: str | None = None, accumulate: int = 1, allow_leak: bool = False, quiet: bool = False, dry_run: bool = False,
) -> Comparison:  # fmt: skip
    """Try every method on every task with every seed, measure all alike, and write OUT/report.html, OUT/report.json and OUT/best.

    Run again with the same arguments after an interruption: finished trials are read, not repeated. `precision` of training is
    'float32' or 'bf16'; by itself the faster one here. `accumulate` splits each training step's examples. Raises UserError
    for input that cannot be used, before anything is written.
    """
    out = Path(out)
    chosen_methods(methods, settings or {})
    spend = Budget.parse(budget) if budget is not None else None
    drawn = range(check.integer("seeds", seeds, low=1)) if isinstance(seeds, int) else list(dict.fromkeys(seeds))
    if not drawn:
        raise UserError("seeds: none is given. Give how many, or a list of whole numbers.")
    check.integer("workers", workers, low=1)
    check.integer("accumulate", accumulate, low=1)
    if precision is not None:
        check.one_of("precision", precision, ("float32", "bf16"))
    listed = [tasks] if isinstance(tasks, str | Path | Task) else list(tasks)
    if ood and len(listed) != 1:
        raise UserError(f"ood: one file cannot be the shifted twin of {len(listed)} tasks. Give ood: in each task's file.")
    _ready(out)
    prepared = [
        load_task(t, allow_leak=allow_leak, overrides={"ood": str(Path(ood).expanduser().absolute())} if ood else None) for t in listed
    ]
    loaded = load_base(base)
    kept = _retained(prepared, retain, loaded)
    plan = make_plan(
        loaded, prepared, methods=methods, budget=spend, retain=kept, seeds=drawn, settings=settings or {},
        precision=precision or _decided(out, loaded), accumulate=accumulate,
    )  # fmt: skip
    atomic.writable(out, need_bytes=int(plan.estimate.disk))
    if not quiet:
        announce(plan, out, workers)
    if dry_run:
        return Comparison(out, {}, plan.facts())
    with contextlib.nullcontext() if ray is None else cluster.connected(ray), _alone(out):
        atomic.write_json(out / "plan.json", plan.facts())
        _execute(plan, out, workers, ray, quiet)
        return finish(out)


def adapt(
    method: str, task: str | Path | Task, base: str | Path | Base | Specialist = "metier-tiny", *, settings: Mapping[str, Mapping[str, Any]] | None = None,
    budget: str | Budget = "2000ex", seed: int = 0, run: Run | None = None,
) -> Specialist:  # fmt: skip
    """One method (or chain 'a+b') with the given settings, without a search: the specialist it makes.

    An encoder learns a task of kind 'generate' by masked words.

    `run` says more of how (precision, checkpoints, who is told); its seed and budget then count.
    """
    chosen_methods([method], settings or {})
    loaded = load_task(task).sealed()
    specialist = base if isinstance(base, Specialist) else Specialist(load_base(base))
    run = run or Run(seed=seed, budget=Budget.parse(budget))
    job = Job(method, loaded, run.seed, run.budget, run.precision, settings or {})
    if reason := inapplicable(job, specialist.base, measured=not all(find(p).about.trains for p in job.parts)):
        raise UserError(f"{method}: {reason}")
    trained = max(1, sum(find(p).about.trains for p in job.parts))
    for i, part in enumerate(job.parts):
        way, given = find(part), dict(job.settings.get(part, {}))
        made = make(way, given, specialist, loaded, run.part(1 / trained, f"{i}-{part}"))
        specialist = specialist.then(signed(made, way, given, loaded, seed=run.seed, budget=run.budget))
    return specialist


def finish(out: Path) -> Comparison:
    """Write the report of the trials that are there, and the recommended specialists."""
    report = write_report(out)
    write_html(out, report)
    _best(out, report)
    return Comparison(out, report)


def announce(plan: Plan, out: Path, workers: int = 1) -> None:
    """What will run and what it will cost, on standard error."""
    todo = [j for j in plan.jobs if finished(out / "trials" / j.key(plan.base)) is None]
    applicable = [j for j in todo if not inapplicable(j, plan.base)]
    seconds = sum(plan.estimate.per_job.get(_id(j), 0.0) for j in applicable) / workers
    tasks = ", ".join(
        f"{t.name} ({len(t.train)} train, {len(t.dev)} dev, {len(t.test)} test{f', {len(t.ood)} ood' if len(t.ood) else ''})"
        for t in plan.tasks
    )
    training = f", training in {plan.precision}" if any(find(p).about.trains for m in plan.methods for p in m.split("+")) else ""
    progress.say(f"base       {plan.base.name}, {plan.base.parameters / 1e6:.1f} M parameters{training}")
    progress.say(f"tasks      {tasks}")
    if plan.retain:
        progress.say(f"retained   {', '.join(f'{t.name} ({len(t.test)} test)' for t in plan.retain)}")
    progress.say(f"methods    {', '.join(plan.methods)}")
    for reason in dict.fromkeys(r for j in plan.jobs if (r := inapplicable(j, plan.base))):
        progress.say(f"left out   {reason}")
    before = len(plan.jobs) - len(todo) - sum(bool(inapplicable(j, plan.base)) for j in plan.jobs if j not in todo)
    progress.say(
        f"trials     {len(applicable)} to run" + (f", {before} finished before" if before else "") + f"; budget {plan.budget} each"
    )
    if not applicable:
        return
    memory, disk = plan.estimate.memory * workers, plan.estimate.disk
    progress.say(f"estimate   about {progress.spoken(seconds)}, memory about {_size(memory)}, disk up to {_size(disk)} in {out}")
    if memory > (free := psutil.virtual_memory().available):
        log.warning("about %s of memory are needed, %s are free. A smaller base or fewer --workers need less.", _size(memory), _size(free))


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"


def _execute(plan: Plan, out: Path, workers: int, ray: str | None, quiet: bool) -> None:
    jobs = [j for j in plan.jobs if finished(out / "trials" / j.key(plan.base)) is None]
    total = sum(plan.estimate.per_job.get(_id(j), 0.01) for j in jobs)
    with progress.bar("comparing", total, quiet=quiet, expected=total / workers) as advance:

        def done(job: Job, card: dict[str, Any]) -> None:
            failed = f" FAILED: {card['error']}" if card["status"] == "failed" else ""
            advance(plan.estimate.per_job.get(_id(job), 0.01), f"{job.task.name} {job.method} seed {job.seed}{failed}")

        def tell(job: Job, what: str) -> None:
            advance(0.0, f"{job.task.name} {job.method} seed {job.seed}: {what}")

        if not jobs:
            pass
        elif ray is not None:
            execute.on_ray(jobs, plan.base, out, done, ray)
        elif workers > 1:
            execute.in_processes(jobs, plan.base, out, done, workers)
        else:
            execute.here(jobs, plan.base, out, done, tell)
    shutil.rmtree(out / "trials" / WORK, ignore_errors=True)


def _id(job: Job) -> str:
    return f"{job.method}|{job.task.name}|{job.seed}"


def _retained(tasks: Sequence[Task], retain: Sequence[str | Path | Task], base: Base) -> list[Task]:
    """The tasks on which forgetting is measured: those asked for, those the task files name, else the built-in one; at most 200 examples each."""
    named = [s for t in tasks for s in t.options.get("retain", ())]
    wanted: list[str | Path | Task] = []
    for source in (*retain, *named):
        wanted += [] if source in wanted else [source]
    kept = [_whole(load_task(source, allow_leak=True)) for source in wanted] or [_readable(continuation(), base)]
    if not wanted and not len(kept[0].test):
        return []
    if empty := [t.name for t in kept if not len(t.test)]:
        raise UserError(f"retained task {empty[0]}: it has no test examples, so nothing could be measured. Give a test split.")
    return [replace(t, test=tuple(t.test)[:200], train=(), dev=(), ood=()) for t in kept]


def _whole(task: Task) -> Task:
    """A task whose splits were cut from one table by us: nothing is trained on it here, so all of it may be asked."""
    one = task.options.get("split", {}).get("how") == ONE_TABLE
    return replace(task, test=(*task.test, *task.dev, *task.train)) if one else task


def _readable(task: Task, base: Base) -> Task:
    """The built-in task without what a base of a short context cannot read."""
    long = too_long(base, task)
    return replace(task, test=tuple(e for e in task.test if e.id not in long))


def _decided(out: Path, base: Base) -> str | None:
    """The precision an interrupted study had chosen, so that it goes on as it began."""
    if not (out / "plan.json").exists():
        return None
    plan = read_json(out / "plan.json")
    return plan["precision"] if plan["base"]["fingerprint"] == base.fingerprint else None


def _ready(out: Path) -> None:
    """The folder can be written, is nobody else's, and no other study is at work in it."""
    atomic.writable(out)
    if not (out / "plan.json").exists() and (strange := [n for n in OURS if (out / n).exists()]):
        raise UserError(f"{out}: holds a {strange[0]} that is no study's of metier and would be replaced. Choose another folder with -o.")
    if (out / "plan.json").exists() and "trials" not in read_json(out / "plan.json"):
        raise UserError(f"{out}: holds a plan.json that is no study's of metier and would be replaced. Choose another folder with -o.")
    if (out / LOCK).exists():
        with _locked(out):
            pass


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """One study at a time in a folder; leavings of a killed one are swept before, of this one after."""
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        _sweep(out)
        try:
            yield
        finally:
            _sweep(out)


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    with (out / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{out}: another study is writing here. Wait for it, or choose another folder with -o.") from error
        yield


def _sweep(out: Path) -> None:
    for leaving in (*out.glob("trials/.*.part"), *(p for name in OURS for p in out.glob(f".{name}.*.part"))):
        if leaving.is_dir():
            shutil.rmtree(leaving, ignore_errors=True)
        else:
            leaving.unlink(missing_ok=True)


def _best(out: Path, report: dict[str, Any]) -> None:
    """The recommended specialist of every task; of its seeds the one that did best on dev. Takes the place of an earlier one."""
    plan = read_json(out / "plan.json")
    chosen: dict[str, str] = {}
    for task in report["tasks"]:
        method = next((t["method"] for t in report["recommendation"]["tasks"] if t["task"] == task["name"]), None)
        rows = [t for m in task["methods"] if m["method"] == method for t in m["trials"]]
        if rows:
            chosen[task["name"]] = max(rows, key=lambda t: dev_score(t) or 0.0)["key"]
    if not chosen:
        shutil.rmtree(out / "best", ignore_errors=True)
        return
    with atomic.folder(out / "best") as draft:
        for task, key in chosen.items():
            shutil.copytree(out / "trials" / key / "specialist", draft / task if len(plan["tasks"]) > 1 else draft, dirs_exist_ok=True)
