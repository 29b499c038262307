"""Experts, and the naive mathematics, for tests of merges that learn or need data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tests.tiny import tiny_task
from torch import Tensor

from metier.delta import Delta, Dense, New
from metier.delta.entry import Entry
from metier.model import Base, Specialist, WeightChange
from metier.model.encoder import HEAD
from metier.task import Task


def noise(base: Base, seed: int, size: float = 0.05, names: Callable[[str], bool] = lambda _: True) -> Delta:
    """A random change of the base's parameters, in proportion to each tensor's spread."""
    generator = torch.Generator().manual_seed(seed)
    entries: dict[str, Entry] = {}
    for name, p in base.model.named_parameters():
        change = size * p.detach().std() * torch.randn(p.shape, generator=generator)
        if names(name) and p.numel() > 1:
            entries[name] = Dense(change)
    return Delta(entries, base.fingerprint)


def with_head(base: Base, delta: Delta, task: Task, seed: int) -> WeightChange:
    """The change with a random head for the task, where the base is an encoder."""
    if base.family != "encoder":
        return WeightChange(delta)
    generator = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(len(task.choices), base.hidden, generator=generator), torch.zeros(len(task.choices))
    return WeightChange(replace(delta, entries={**delta.entries, HEAD[0]: New(weight), HEAD[1]: New(bias)}), task.choices)


def saved(base: Base, place: Path, changes: Sequence[Delta | WeightChange]) -> tuple[str, ...]:
    """Folders of specialists with these changes."""
    folders = []
    for i, change in enumerate(changes):
        folders.append(str(place / f"expert{i}"))
        Specialist(base, (WeightChange(change) if isinstance(change, Delta) else change,)).save(Path(folders[-1]))
    return tuple(folders)


def colours(**sizes: int) -> Task:
    """The task of choices, sealed as methods get it."""
    return tiny_task("choose", **sizes).sealed()


def scores(base: Base, task: Task, weights: dict[str, Tensor] | None = None) -> Tensor:
    """(examples, choices): log-probabilities of the choices over the task's train split, written down naively, with gradients.

    weights: tensors in the place of the model's. For causal bases: the sum over the choice's tokens after the prompt, normalised.
    """
    rows = []
    for example in task.train:
        text, ids = base.encode_prompt(task.prompt(example))
        sums = []
        for choice in task.choices_of(example):
            answer = base.encode_answer(text, choice, separator=task.separator)
            fed = torch.tensor([[*ids, *answer]])
            logits = torch.func.functional_call(base.model, weights or {}, (fed,)).logits[0].log_softmax(-1)
            sums.append(torch.stack([logits[len(ids) - 1 + i, t] for i, t in enumerate(answer)]).sum())
        rows.append(torch.stack(sums).log_softmax(0))
    return torch.stack(rows)
