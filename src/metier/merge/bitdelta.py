"""BitDelta: the sign of every change, and one scale for each matrix.

Paper:       Liu et al. 2024, arXiv:2402.10193, section 3.1, equations 2 to 4.
Formula:     D' = scale * s, s = +1 where D > 0, else -1; scale = mean |D|, which is nearest in squares.
Shapes:      every matrix (out, in); its signs (out, in); one scale.
Units:       none.
Randomness:  none.
Cost:        one read of the delta; one bit for each entry of a matrix: its sign.
Deviations:  the scale is not distilled afterwards (the paper's second stage). As in the paper only the matrices inside layers are
             compressed; embeddings, output layer, norms and biases stay as they are unless everything=True.
Errors:      UserError where no matrix of the delta changes.

    >>> import torch
    >>> from metier.delta import Delta, Dense
    >>> compressed(Delta({"layers.0.w": Dense(torch.tensor([[3.0, -1.0]]))}))["layers.0.w"].dense().tolist()
    [[2.0, -2.0]]
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from metier.delta import Delta, Entry, New, Packed
from metier.delta.parts.scale import depth_of
from metier.delta.record import record
from metier.delta.transform import slices
from metier.errors import UserError
from metier.merge._experts import opened_expert
from metier.method import About
from metier.model import Specialist, WeightChange
from metier.task import Task
from metier.train import Run

ABOUT = About(place="weights", reads=("experts",), experts=(1, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of BitDelta."""

    experts: tuple[str, ...]
    """The one expert whose change is compressed: folder of a delta, specialist, PEFT adapter or full checkpoint."""
    everything: bool = False
    """Whether embeddings and the output layer are compressed too."""

    def __post_init__(self) -> None:
        if len(self.experts) != 1:
            raise UserError(f"experts: bitdelta compresses exactly one expert; got {len(self.experts)}.")


def bitdelta(start: Specialist, task: Task, settings: Settings, run: Run) -> WeightChange:
    """Shrink an expert's change to one sign an entry and a scale for each matrix."""
    expert = opened_expert(settings.experts[0], start.base)
    return WeightChange(compressed(expert.delta, everything=settings.everything), expert.labels)


def compressed(delta: Delta, *, everything: bool = False) -> Delta:
    """The matrices' changes as signs and one scale each."""
    entries: dict[str, Entry] = {}
    for name in delta:
        entry = delta[name]
        matrix = len(entry.shape) >= 2 and (depth_of(name) is not None or everything)
        if isinstance(entry, New) or not matrix:
            entries[name] = entry
        elif (packed := _signs(entry)) is not None:
            entries[name] = packed
    if not any(isinstance(e, Packed) for e in entries.values()):
        raise UserError("bitdelta: no matrix of the delta's layers changes, so there is nothing to compress.")
    return Delta(entries, delta.base, record("compress", delta.record, method="bitdelta", settings={"everything": everything}))


def _signs(entry: Entry) -> Packed | None:
    """All signs, and the mean magnitude; None where nothing changes."""
    positive, total = [], 0.0
    for _, values in slices(entry):
        positive.append(values > 0)
        total += float(values.abs().sum(dtype=torch.float64))
    count = entry.shape.numel()
    return Packed.of(torch.arange(count), torch.cat(positive), total / count, entry.shape) if total else None
