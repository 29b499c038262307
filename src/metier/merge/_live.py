"""Live: weights that are computed, in every pass, from experts' changes and what is learnt about them (coefficients, masks)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from metier.delta import Delta
from metier.delta.entry import Entry
from metier.errors import KeyMismatch, UserError
from metier.merge._experts import Expert, with_head
from metier.model import Specialist, WeightChange
from metier.model.encoder import HEAD
from metier.task import Task
from metier.train import Trainable
from metier.train.trainable import head_entries, new_head

Head = tuple[nn.Parameter, nn.Parameter]


@contextlib.contextmanager
def computed(model: nn.Module, names: Iterable[str], change: Callable[[str], Tensor]) -> Iterator[None]:
    """The named tensors are tensor + change(name) for the time of a with-block, with gradients to what the changes are computed from.

    change: name -> S, float32. Tied tensors are computed once. Raises KeyMismatch for a name that the model does not have.
    """
    undo: list[tuple[dict[str, Any], str, Any]] = []
    slots = _slots(model)
    try:
        for name in names:
            if name not in slots:
                raise KeyMismatch(f"change: the base has no tensor '{name}'. Was the change made from another model?")
            old = slots[name][0][0][slots[name][0][1]]
            value = (old.detach().float() + change(name)).to(old.dtype)
            for place, leaf in slots[name]:
                undo.append((place, leaf, place[leaf]))
                place[leaf] = value
        yield
    finally:
        for place, leaf, old in reversed(undo):
            place[leaf] = old


def _slots(model: nn.Module) -> dict[str, list[tuple[dict[str, Any], str]]]:
    """Where each tensor stands in its modules, all places of a tied one under its first name, each under its other names."""
    found: dict[str, list[tuple[dict[str, Any], str]]] = {}
    first: dict[int, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for place in (module._parameters, module._buffers):
            for leaf, tensor in place.items():
                if tensor is None:
                    continue
                name = f"{path}.{leaf}" if path else leaf
                own = first.setdefault(id(tensor), name)
                found.setdefault(own, []).append((place, leaf))
                if own != name:
                    found[name] = [(place, leaf)]
    return found


def stacks(deltas: Sequence[Delta], device: torch.device) -> dict[str, Tensor]:
    """name -> (k, *S): every expert's change of a tensor, float32; zero where an expert has none."""
    shapes = {n: d[n].shape for d in deltas for n in d}
    return {
        n: torch.stack([d[n].dense() if n in d.entries else torch.zeros(shape) for d in deltas]).to(device) for n, shape in shapes.items()
    }


def head_of(start: Specialist, task: Task, experts: Sequence[Expert]) -> Head | None:
    """An encoder's head for the task, fixed: that of the first expert with the task's choices, else the start's or the labels' embeddings.

    None for other families. To be called inside `start.attached()`.
    """
    if start.base.family != "encoder":
        return None
    expert = with_head(experts, task)
    if expert is None:
        head = new_head(start, task)
    else:
        values = [expert.delta[n].dense().to(start.base.device) for n in HEAD]
        head = nn.Parameter(values[0]), nn.Parameter(values[1])
    for p in head or ():
        p.requires_grad_(False)
    return head


def learner(
    start: Specialist,
    task: Task,
    parameters: dict[str, nn.Parameter],
    change: Callable[[str], Tensor],
    entries: Callable[[], dict[str, Entry]],
    names: Sequence[str],
    head: Head | None,
) -> Trainable:
    """What is trained: parameters from which the change of every named tensor is computed. entries: the change as it is kept, as copies."""
    if not names:
        raise UserError("merge: the experts change no tensor of the base, so there is nothing to combine.")

    def kept() -> WeightChange:
        delta = Delta(entries() | head_entries(head), start.base.fingerprint)
        return WeightChange(delta, task.choices if head else ())

    return Trainable(start, task, parameters, kept, head=head, inside=lambda: computed(start.base.model, names, change))


def without_dev(task: Task) -> Task:
    """The task without dev: training keeps its last state."""
    return replace(task, dev=())
