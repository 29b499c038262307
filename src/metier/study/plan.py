"""Plan: which trials a study runs, and what they will cost, said before anything starts."""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from metier.errors import UserError, nearest
from metier.method import find
from metier.model import Base, Specialist
from metier.study.door import check_names, fitting, seen
from metier.study.job import Job, candidates, inapplicable, versions
from metier.study.reloaded import GAP_EXAMPLES
from metier.study.search import DEV_LIMIT
from metier.task import Task
from metier.train import Budget
from metier.train.loop import DEV_CHOOSE, DEV_GENERATE, LOOKS
from metier.train.precision import probe

DEFAULT_METHODS = (
    "zero-shot", "few-shot", "rag", "prompt-tuning", "lofit", "full", "head", "bitfit", "lora", "lt-sft", "calibrate", "self-consistency",
    "emulated-fine-tuning", "rag+lora", "bm25",
)  # fmt: skip
REFERENCE = "zero-shot"
LEAST_BUDGET, EPOCHS = 2000, 3
OVERHEAD, SAVING = 0.3, 2e-8  # seconds of a trial that are no model's, and per parameter
CHARACTERS_PER_TOKEN = 4.0


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Expected seconds, peak bytes of memory and bytes on disk; rough, from a probe on this machine."""

    seconds: float
    memory: float
    disk: float
    per_job: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The jobs of a study in the order they run."""

    base: Base
    tasks: tuple[Task, ...]
    retain: tuple[Task, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    budget: Budget
    precision: str
    jobs: tuple[Job, ...]
    estimate: Estimate

    def facts(self) -> dict[str, Any]:
        """plan.json's content."""
        rows = [
            {
                "name": t.name, "kind": t.kind, "metric": t.metric, "n_train": len(t.train), "n_dev": len(t.dev), "n_test": len(t.test),
                "n_ood": len(t.ood), "documents": len(t.documents), "source": t.source, "digest": t.digest(),
                "warnings": list(t.options.get("warnings", ())),
            }
            for t in self.tasks
        ]  # fmt: skip
        return {
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "command": shlex.join(["metier", *sys.argv[1:]]),
            "base": {"name": self.base.name, "fingerprint": self.base.fingerprint, "family": self.base.family, "parameters": self.base.parameters},
            "tasks": rows, "retain": [t.name for t in self.retain], "methods": list(self.methods), "seeds": list(self.seeds), "budget": str(self.budget),
            "precision": self.precision, "trials": [j.key(self.base) for j in self.jobs],
            "estimate": {"seconds": self.estimate.seconds, "memory_bytes": self.estimate.memory, "disk_bytes": self.estimate.disk},
            "machine": machine(), "versions": versions(),
        }  # fmt: skip


def make_plan(
    base: Base, tasks: Sequence[Task], *, methods: Sequence[str] | None, budget: Budget | None, retain: Sequence[Task], seeds: Sequence[int],
    settings: Mapping[str, Mapping[str, Any]], precision: str | None = None, accumulate: int = 1,
) -> Plan:  # fmt: skip
    """Check everything at the door, probe the machine, and lay out the jobs: all methods with the first seed, then the next seed."""
    chosen, fixed = chosen_methods(methods, settings)
    if methods is None and all(t.kind != "rank" for t in tasks):
        chosen = [m for m in chosen if find(m.partition("+")[0]).about.kinds != ("rank",)]
    check_names(tasks, retain)
    for task in tasks:
        if not len(task.test):
            raise UserError(f"task {task.name}: it has no test examples, so nothing could be measured. Give a test split.")
    tasks = [seen(base, fitting(base, task)) for task in tasks]
    for task in {t.name: t for t in retain if t.name not in {t.name for t in tasks}}.values():
        seen(base, fitting(base, task))
    budget = budget or Budget(max(LEAST_BUDGET, EPOCHS * max(len(t.train) for t in tasks)))
    trained = next(
        (t for t in tasks if len(t.train) and t.kind != "rank" and not (base.family == "encoder" and t.kind == "generate")), None
    )
    training = any(find(p).about.trains for m in chosen for p in m.split("+"))
    found, each = probe(Specialist(base), trained.sealed()) if trained and training else ("float32", 0.0)
    precision = precision or found
    jobs = []
    for task in tasks:
        others = tuple(t for t in retain if t.name != task.name)
        jobs += [Job(m, task, s, budget, precision, fixed, others, accumulate) for s in seeds for m in chosen]
    return Plan(base, tuple(tasks), tuple(retain), tuple(chosen), tuple(seeds), budget, precision, tuple(jobs), _estimate(base, jobs, each))


def chosen_methods(methods: Sequence[str] | None, settings: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """(the methods that run, the reference first; the given settings as the methods read them). Raises UserError for what is unknown."""
    if isinstance(methods, str):
        methods = methods.split(",")
    chosen = list(dict.fromkeys(m.strip() for m in methods or DEFAULT_METHODS))
    fixed: dict[str, dict[str, Any]] = {}
    for name in chosen:
        parts = name.split("+")
        for part in parts:
            read = find(part).configure(settings.get(part))
            fixed |= {part: {key: getattr(read, key) for key in settings[part]}} if settings.get(part) else {}
        if len(set(parts)) < len(parts):
            raise UserError(f"methods: {name!r} names a method twice. Each part of a chain must be another method.")
    used = {p for m in chosen for p in m.split("+")}
    if strangers := sorted(set(settings) - used):
        raise UserError(
            f"settings are given for {strangers[0]!r}, which is not among the methods {', '.join(chosen)}.{nearest(strangers[0], used)}"
        )
    return [REFERENCE, *(m for m in chosen if m != REFERENCE)], fixed


def _estimate(base: Base, jobs: Sequence[Job], train_each: float) -> Estimate:
    """What the jobs will cost, from the time of a plain answer and of a training example on this machine."""
    reading: dict[str, float] = {}
    seconds, disk, memory, per_job = 0.0, 0.0, 0.0, {}
    for job in jobs:
        if inapplicable(job, base):
            continue
        for task in (job.task, *job.retain):
            if task.name not in reading:
                reading[task.name] = _reading(base, task)
        cost = _seconds(job, reading, train_each) + OVERHEAD + SAVING * base.parameters
        memory = max(memory, memory_of(job, base))
        dense = len({"full", "emulated-fine-tuning"} & set(job.parts))
        disk += 4.0 * base.parameters * dense + 0.1 * base.parameters + 300.0 * len(job.task.test)
        per_job[f"{job.method}|{job.task.name}|{job.seed}"] = cost
        seconds += cost
    return Estimate(seconds, memory, disk, per_job)


def _seconds(job: Job, reading: Mapping[str, float], train_each: float) -> float:
    """Search, training with its looks at dev, the check of what was saved, and the measuring of one trial."""
    plain = reading[job.task.name]
    dev, effort, cost = len(job.task.dev), 1.0, 0.0
    trained = sum(find(p).about.trains for p in job.parts)
    for part in job.parts:
        about = find(part).about
        tries = len(candidates(find(part), dict(job.settings.get(part, {})))) if dev else 1
        if about.trains:
            look = min(DEV_CHOOSE, dev) * plain if job.task.kind == "choose" else min(DEV_GENERATE, dev) * train_each / 3
            cost += (
                training_seconds(job, train_each) / trained * effort + (tries if tries == 1 else tries + 1) * (LOOKS + 1) * look * effort
            )
        effort *= about.effort
        if tries > 1:
            searching = tries * min(DEV_LIMIT, dev) * plain * effort
            in_time = job.budget.unit == "seconds" and not about.trains
            cost += min(searching, max(job.budget.amount, searching / tries)) if in_time else searching
    answers = plain * (len(job.task.test) + len(job.task.ood) + 2 * GAP_EXAMPLES) + sum(reading[t.name] * len(t.test) for t in job.retain)
    return cost + answers * effort


def training_seconds(job: Job, each: float) -> float:
    """Seconds that a job spends on training examples, the search's included; `each` is one example's."""
    amount = job.budget.amount
    if job.budget.unit == "seconds":
        return amount
    if job.budget.unit == "examples":
        return amount * each
    texts = [job.task.prompt(e).text() + e.answer for e in list(job.task.train)[:50]]
    return amount * each / max(1.0, sum(map(len, texts)) / max(1, len(texts)) / CHARACTERS_PER_TOKEN)


def _reading(base: Base, task: Task, count: int = 12) -> float:
    """Seconds per plain answer, timed on training examples where there are any (nothing is chosen by it)."""
    examples = (list(task.train) or list(task.dev) or list(task.test))[:count]
    if not examples or (base.family == "encoder" and task.kind == "generate"):
        return 0.0
    if task.kind == "rank":
        return 0.02
    plain = Specialist(base)
    plain.answer(task, examples[:2])  # what is only done once is not to be counted
    started = time.perf_counter()
    plain.answer(task, examples)
    return (time.perf_counter() - started) / len(examples)


def memory_of(job: Job, base: Base) -> float:
    """Bytes that a trial takes at its height, roughly: weights, gradients, the optimiser's state, and what Python and torch take."""
    trains = any(find(p).about.trains for p in job.parts)
    return (20.0 if {"full", "lt-sft"} & set(job.parts) else 6.0 if trains else 4.0) * base.parameters + 4e8


def machine() -> dict[str, Any]:
    """What this machine is, as far as it matters for time."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    return {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count(), "memory_bytes": memory, "gpu": gpu}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
