"""A small task of letters, and ways of training on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from metier.model import Base, Specialist, WeightChange
from metier.task import Example, Task
from metier.train import Run, Trainable
from metier.train.loop import Fit, fit
from metier.train.moving import head_lr, moving
from metier.train.trainable import head_parameters, new_head

WORDS = ("ab", "abcdef", "b", "cde fgh", "aabbccdd", "x y", "zz", "hello", "q", "rst uvw xyz")


def letters(*, dev: int = 4, train: int = 10, kind: Any = "choose") -> Task:
    """Is there an 'a'?"""
    rows = [Example(f"e{i}", {"text": f"{w}{i}"}, "yes" if "a" in w else "no") for i, w in enumerate(WORDS * 3)]
    return Task(
        name="letters", kind=kind, template="{{ text }} a?", metric="accuracy" if kind == "choose" else "exact", choices=("yes", "no"),
        train=tuple(rows[:train]), dev=tuple(rows[10 : 10 + dev]), max_new_tokens=4,
    )  # fmt: skip


def trained(
    base: Base,
    run: Run,
    *,
    task: Task | None = None,
    lr: float = 1e-2,
    batch_size: int = 4,
    touch: Callable[[Trainable], None] | None = None,
    **options: Any,
) -> Fit:
    """A full tuning, with a hand on the trainable before it starts."""
    task = task or letters()
    start = Specialist(base)
    with start.attached() as model, moving(model, lambda n, p: True) as (parameters, before):
        from metier.delta import Delta, Dense
        from metier.train.trainable import head_entries

        head = new_head(start, task)

        def change() -> WeightChange:
            entries = {n: Dense(p.detach() - before[n]) for n, p in parameters.items()} | head_entries(head)
            return WeightChange(Delta(entries, base.fingerprint), task.choices if head else ())

        what = Trainable(start, task, parameters | head_parameters(head), change, head=head, lr_factor=head_lr)
        if touch:
            touch(what)
        return fit(what, run, lr=lr, batch_size=batch_size, **options)
