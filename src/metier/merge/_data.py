"""Data: the examples that each expert's statistics are gathered from, and the expert at work on them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

from metier.errors import UserError
from metier.merge._experts import Expert, body
from metier.merge._live import head_of
from metier.model import Specialist, WeightChange
from metier.task import Task
from metier.task.load import load_task
from metier.train import Trainable


def tasks_of(names: Sequence[str], task: Task, experts: int) -> list[Task]:
    """For each expert its task: those named, in the experts' order, or the task at hand for all. Raises UserError for another number."""
    if not names:
        return [task] * experts
    if len(names) != experts:
        raise UserError(f"tasks: {len(names)} tasks for {experts} experts. Name one for each, in their order, or none.")
    return [load_task(name).sealed() for name in names]


@contextlib.contextmanager
def at_work(start: Specialist, expert: Expert, task: Task, examples: int) -> Iterator[Trainable]:
    """The expert's weights in the base's model for the time of a with-block, and what reads the first `examples` of its train split."""
    tuned = start.then(WeightChange(body(expert.delta)))
    with tuned.attached() as model:
        head = head_of(start, task, [expert])
        moving = {n: p for n, p in model.named_parameters() if n in expert.delta.entries}
        seen = replace(task, train=tuple(task.train[:examples]))
        yield Trainable(tuned, seen, moving, lambda: WeightChange(expert.delta), head=head)
