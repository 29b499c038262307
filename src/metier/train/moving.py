"""Tuning a model's own parameters: they move in place while training, the difference is the change, the base is restored."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

from torch import Tensor, nn

from metier.delta import Delta, Dense
from metier.delta.entry import Entry
from metier.errors import UserError
from metier.model import Specialist, WeightChange
from metier.task import Task
from metier.train.loop import fit
from metier.train.run import Run
from metier.train.trainable import HEAD_LR, Trainable, head_entries, head_parameters, new_head

Choose = Callable[[str, nn.Parameter], bool]


def tune(start: Specialist, task: Task, run: Run, choose: Choose, *, lr: float, batch_size: int, weight_decay: float = 0.0) -> WeightChange:
    """Train the parameters that `choose` names (and an encoder's head) and return the change."""
    with start.attached() as model, moving(model, choose) as (parameters, before):
        head = new_head(start, task)
        if not parameters and head is None:
            raise UserError("training: the method chose no parameter of this base, so nothing would move.")

        def change() -> WeightChange:
            entries: dict[str, Entry] = {n: Dense(p.detach().float() - before[n].float()) for n, p in parameters.items()}
            return WeightChange(Delta(cpu(entries) | head_entries(head), start.base.fingerprint), task.choices if head else ())

        what = Trainable(start, task, parameters | head_parameters(head), change, head=head, lr_factor=head_lr)
        return fit(what, run, lr=lr, batch_size=batch_size, weight_decay=weight_decay).change  # type: ignore[return-value]


@contextlib.contextmanager
def moving(model: nn.Module, choose: Choose) -> Iterator[tuple[dict[str, nn.Parameter], dict[str, Tensor]]]:
    """(parameters, their values before): the chosen parameters as copies that may move; the originals come back after.

    A name that is tied to another (an output layer sharing the embedding) and chosen alone is untied for the while.
    """
    own = dict(model.named_parameters())
    every = dict(model.named_parameters(remove_duplicate=False))
    chosen = {n: p for n, p in every.items() if choose(n, p)}
    shared = {n for n in chosen if n not in own and not any(chosen.get(o) is chosen[n] for o in own)}
    before = {n: p.data for n, p in chosen.items() if n in own or n in shared}
    parameters: dict[str, nn.Parameter] = {}
    try:
        for name, old in before.items():
            if name in shared:
                path, _, leaf = name.rpartition(".")
                parameters[name] = model.get_submodule(path)._parameters[leaf] = nn.Parameter(old.clone())  # type: ignore[assignment]
            else:
                chosen[name].data = old.clone()
                parameters[name] = chosen[name]
        yield parameters, before
    finally:
        for name, old in before.items():
            if name in shared:
                path, _, leaf = name.rpartition(".")
                model.get_submodule(path)._parameters[leaf] = chosen[name]
            else:
                chosen[name].data = old


def head_lr(name: str) -> float:
    """An encoder's new head learns faster than what was pretrained."""
    return HEAD_LR if name.startswith("metier.head.") else 1.0


def cpu(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Dense entries on the CPU."""
    return {n: Dense(e.value.cpu()) if isinstance(e, Dense) else e for n, e in entries.items()}
