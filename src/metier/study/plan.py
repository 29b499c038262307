"""Plan: which trials a study runs, and what they will cost, said before anything starts."""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from metier.errors import UserError
from metier.method import find
from metier.model import Base, Specialist
from metier.study.trial import DEV_LIMIT, Job, _candidates, inapplicable, versions
from metier.task import Task
from metier.train import Budget
from metier.train.precision import probe

DEFAULT_METHODS = (
    "zero-shot", "few-shot", "rag", "prompt-tuning", "lofit", "full", "head", "bitfit", "lora", "lt-sft", "calibrate", "self-consistency",
    "emulated-fine-tuning", "rag+lora",
)  # fmt: skip
REFERENCE = "zero-shot"
LEAST_BUDGET, EPOCHS = 2000, 3


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
    settings: Mapping[str, Mapping[str, Any]], precision: str | None = None,
) -> Plan:  # fmt: skip
    """Check everything at the door, probe the machine, and lay out the jobs: all methods with the first seed, then the next seed."""
    chosen = _methods(methods, settings)
    names = [t.name for t in tasks]
    if doubled := {n for n in names if names.count(n) > 1}:
        raise UserError(f"two tasks are named {sorted(doubled)[0]!r}. Give each a name of its own in its YAML.")
    for task in tasks:
        if not len(task.test):
            raise UserError(f"task {task.name}: it has no test examples, so nothing could be measured. Give a test split.")
    budget = budget or Budget(max(LEAST_BUDGET, EPOCHS * max(len(t.train) for t in tasks)))
    trained = next((t for t in tasks if len(t.train) and t.kind != "rank" and not (base.family == "encoder" and t.kind == "generate")), None)
    found, each = probe(Specialist(base), trained.sealed()) if trained else ("float32", 0.0)
    precision = precision or found
    jobs = []
    for task in tasks:
        others = tuple(t for t in retain if t.name != task.name)
        jobs += [Job(m, task, s, budget, precision, settings, others) for s in seeds for m in chosen]
    return Plan(base, tuple(tasks), tuple(retain), tuple(chosen), tuple(seeds), budget, precision, tuple(jobs), _estimate(base, jobs, each))


def _methods(methods: Sequence[str] | None, settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    chosen = list(dict.fromkeys(methods or DEFAULT_METHODS))
    for name in chosen:
        parts = name.split("+")
        for part in parts:
            find(part).configure(settings.get(part))
        if len(set(parts)) < len(parts):
            raise UserError(f"methods: {name!r} names a method twice. Each part of a chain must be another method.")
    used = {p for m in chosen for p in m.split("+")}
    if strangers := sorted(set(settings) - used):
        raise UserError(f"settings are given for {strangers[0]!r}, which is not among the methods {', '.join(chosen)}.")
    return [REFERENCE, *(m for m in chosen if m != REFERENCE)]


def _estimate(base: Base, jobs: Sequence[Job], train_each: float) -> Estimate:
    reading: dict[str, float] = {}
    seconds, disk, memory, per_job = 0.0, 0.0, 4.0 * base.parameters, {}
    for job in jobs:
        if inapplicable(job, base):
            continue
        for task in (job.task, *job.retain):
            if task.name not in reading:
                reading[task.name] = _reading(base, task)
        cost = reading[job.task.name] * (len(job.task.test) + len(job.task.ood)) + sum(reading[t.name] * len(t.test) for t in job.retain)
        for part in job.parts:
            about = find(part).about
            tries = len(_candidates(find(part), dict(job.settings.get(part, {}))))
            cost += tries * min(DEV_LIMIT, len(job.task.dev)) * reading[job.task.name]
            if about.trains:
                cost += job.budget.amount / max(1, sum(find(p).about.trains for p in job.parts)) * (train_each if job.budget.unit == "examples" else 1.0)
                memory = max(memory, (20.0 if part in ("full", "lt-sft") else 6.0) * base.parameters)
        disk += (4.0 * base.parameters if "full" in job.parts else 0.1 * base.parameters) + 300.0 * len(job.task.test)
        key = f"{job.method}|{job.task.name}|{job.seed}"
        per_job[key] = cost
        seconds += cost
    return Estimate(seconds, memory + 4e8, disk, per_job)


def _reading(base: Base, task: Task, count: int = 12) -> float:
    """Seconds per answered example, timed on training examples (never on test)."""
    examples = list(task.train)[:count] or list(task.dev)[:count]
    if not examples or (base.family == "encoder" and task.kind == "generate") or task.kind == "rank":
        return 0.02
    started = time.perf_counter()
    Specialist(base).answer(task, examples)
    return (time.perf_counter() - started) / len(examples)


def machine() -> dict[str, Any]:
    """What this machine is, as far as it matters for time."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    return {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count(), "memory_bytes": memory, "gpu": gpu}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def spoken(seconds: float) -> str:
    """'40 s', '7 min', '2.5 h'."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
