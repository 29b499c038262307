"""Emulated fine-tuning: tune a small model, and add what tuning changed in its predictions to those of a larger one.

Paper:       Mitchell et al. 2023, arXiv:2310.12962, section 3 (up-scaling).
Formula:     log p~(y_t) = log p_large(y_t) + scale * (log p_small_tuned(y_t) - log p_small(y_t)) + const, all given x, y_<t.
Shapes:      all three (..., vocabulary).
Units:       scale, factor (1 in the paper); lr, step size of AdamW at its peak.
Randomness:  the order of examples, by the run's seed.
Cost:        full tuning of the small model; at inference two small forward passes beside each large one; stores the small change.
Deviations:  tuned by full fine-tuning on the task (the paper: instruction tuning and RLHF); `scale` is added; speculative decoding
             and the top-p filter of the small models' change are left out; tokens beyond the shared vocabulary (padding of
             the output layers) are dropped; a soft prompt of the start is read by the large model only.
Errors:      UserError where no small base is known or named, where tokenizers differ, or where it reads less at once than the large
             one; BaseMismatch where the small base has changed since.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as with_
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from metier import check
from metier.delta import Delta, pack, unpack
from metier.errors import BaseMismatch, NotApplicable, UserError
from metier.method import About
from metier.model import Base, InputChange, OutputChange, Specialist, WeightChange, load_base
from metier.model.causal import Voice
from metier.task import Task
from metier.train import Run
from metier.train.moving import tune

ABOUT = About(
    place="out", effort=3.0, papers=(143,), families=("causal",), reads=("small",), trains=True, search={"lr": (1e-4, 5e-4, 2e-3)}
)

SMALLER = {"metier-tiny": "metier-nano"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of emulated fine-tuning."""

    small: str = "auto"
    """Name or path of the small base, of the large one's vocabulary; 'auto' knows it for embedded bases only."""
    scale: float = 1.0
    """How much of the small model's change is added."""
    lr: float = 3e-4
    """Peak learning rate of AdamW for the small model."""
    batch_size: int = 16
    """Examples a step."""

    def __post_init__(self) -> None:
        check.number("scale", self.scale, low=0)
        check.number("lr", self.lr, above=0)
        check.integer("batch_size", self.batch_size, low=1)


@dataclass(frozen=True)
class EmulatedTuning(OutputChange):
    """Adds scale * (tuned - base) of a small model's log-probabilities. The small base is loaded when it is first needed."""

    place: ClassVar[str] = "out"
    small: str
    dtype: str
    scale: float
    delta: Delta
    provenance: Mapping[str, Any] = field(default_factory=dict)
    _loaded: list[Voice] = field(default_factory=list, repr=False, compare=False)

    def voices(self, base: Base) -> Sequence[Voice]:
        """The tuned small model and the small base. Raises UserError, BaseMismatch where the small base does not fit."""
        if not self._loaded:
            found = fitting(load_base(self.small, family="causal", dtype=self.dtype, device=str(base.device), chat=False), base)
            if found.fingerprint != self.delta.base:
                raise BaseMismatch(f"{self.small}: is {found.fingerprint[:16]} now, was tuned from {self.delta.base[:16]}. Put it back.")
            self._loaded.extend(speaking(found, self.delta))
        return self._loaded

    def fuse(self, logits: Sequence[Tensor]) -> Tensor:
        """See `OutputChange.fuse`."""
        width = min(t.shape[-1] for t in logits)
        large, tuned, small = (t[..., :width].float() for t in logits)
        return large + self.scale * (tuned.log_softmax(-1) - small.log_softmax(-1))

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `Change.state`."""
        header, tensors = pack(self.delta)
        return {"small": self.small, "dtype": self.dtype, "scale": self.scale, "delta": header}, tensors

    @classmethod
    def from_state(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """See `Change.from_state`."""
        return cls(facts["small"], facts["dtype"], float(facts["scale"]), unpack(facts["delta"], tensors))


def emulated_fine_tuning(start: Specialist, task: Task, settings: Settings, run: Run) -> EmulatedTuning:
    """Tune the small base on the task, shown as the start shows it."""
    large = start.base
    name = settings.small if settings.small != "auto" else SMALLER.get(large.name, "")
    if not name:
        raise NotApplicable(f"emulated-fine-tuning: no smaller base is known for {large.name}. Name one of its vocabulary with small=NAME.")
    dtype = str(next(large.model.parameters()).dtype).removeprefix("torch.")
    small = fitting(load_base(name, family="causal", dtype=dtype, device=str(large.device), chat=False), large)
    shown = tuple(c for c in start.changes if isinstance(c, InputChange) and c.prefix() is None)
    delta = tune(Specialist(small, shown), task, run, lambda n, p: True, lr=settings.lr, batch_size=settings.batch_size).delta
    place = str(Path(name).expanduser().resolve()) if Path(name).expanduser().is_dir() else name
    return EmulatedTuning(place, dtype, settings.scale, delta, {}, list(speaking(small, delta)))


def fitting(small: Base, large: Base) -> Base:
    """The small base reading with the large one's tokenizer. Raises UserError where it cannot stand beside the large one."""
    pair = f"emulated-fine-tuning: {small.name} and {large.name}"
    if small.tokenizer.get_vocab() != large.tokenizer.get_vocab():
        raise UserError(f"{pair} have different tokenizers. Name a small base of the same vocabulary.")
    if small.max_length < large.max_length:
        raise UserError(f"{pair} read {small.max_length} and {large.max_length} tokens at once. Name a small base that reads as many.")
    return with_(small, tokenizer=large.tokenizer, chat=large.chat, truncate=large.truncate, max_length=large.max_length)


def speaking(small: Base, delta: Delta) -> tuple[Voice, Voice]:
    """(tuned, base): two models with parameters of their own over one storage, so that both run in the same step."""
    own = {id(p): nn.Parameter(p.data, requires_grad=False) for p in small.model.parameters()}
    twin = copy.deepcopy(small.model, own)
    return Voice(twin, None, lambda: WeightChange(delta).attach(twin)), Voice(small.model)
