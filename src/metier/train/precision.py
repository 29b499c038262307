"""Which precision trains faster here: a probe of about half a second, float32 against bf16 autocast."""

from __future__ import annotations

import time

import torch

from metier.model import Specialist
from metier.task import Task
from metier.train.items import collate, items
from metier.train.trainable import Trainable, head_parameters, new_head

GAIN = 1.15
SECONDS = 0.25


def probe(start: Specialist, task: Task, *, batch_size: int = 16) -> tuple[str, float]:
    """(the precision to train in, seconds per training example in it). bf16 must be faster by `GAIN` to be chosen."""
    rows = items(start, task, list(task.train)[:batch_size])
    with start.attached() as model:
        head = new_head(start, task)
        named = dict(model.named_parameters()) | head_parameters(head)
        what = Trainable(start, task, named, change=lambda: start.changes[0], head=head)
        batch = collate(rows, start, pack=what.can_pack()).to(start.base.device)
        with what.live():
            times = {name: _time(what, batch, name) for name in ("float32", "bf16")}
    name = "bf16" if times["bf16"] * GAIN < times["float32"] else "float32"
    return name, times[name] / len(rows)


def _time(what: Trainable, batch: object, precision: str) -> float:
    best, until, runs = float("inf"), time.perf_counter() + SECONDS, 0
    while runs < 2 or time.perf_counter() < until:
        started = time.perf_counter()
        with torch.autocast(what.start.base.device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = what.loss(batch)  # type: ignore[arg-type]
        loss.backward()
        for p in what.parameters.values():
            p.grad = None
        best, runs = min(best, time.perf_counter() - started), runs + 1
    return best
