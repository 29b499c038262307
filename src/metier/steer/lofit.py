"""LoFiT: find the attention heads that matter for a task, then learn one offset vector at each of them.

Paper:       Yin, Ye & Durrett 2024, arXiv:2406.01563, section 3.
Formula:     step 1: z <- (1 + A) * z at every head, A trained by L + l1 * sum |A|, heads ranked by ||A||_2;
             step 2: z <- z + v at the first K heads only, v trained by L; z a head's output before the output projection.
Shapes:      z (batch, positions, head size); A, v (head size,) per head.
Units:       heads, fraction of all heads (K = its whole part, at least one); l1, factor; lr, select_lr, step size of AdamW at its peak.
Randomness:  A and v start as N(0, 0.001^2); the order of examples; both by the run's seed.
Cost:        forward and backward passes without weight gradients; K * head size numbers trained and stored.
Deviations:  both steps get half of the budget; heads of cross attention count as heads; v is taken at its best on dev.
Errors:      UserError where no attention projection is found; KeyMismatch, ShapeMismatch on another base.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from metier import check
from metier.errors import ShapeMismatch
from metier.method import About
from metier.model import ActivationChange, Specialist
from metier.model.change import cpu_state
from metier.model.sites import Site, changed, sites
from metier.task import Task
from metier.train import Run, Trainable, fit

ABOUT = About(
    place="activations", papers=(151,), families=("causal", "seq2seq"), kinds=("choose", "generate"), trains=True,
    search={"lr": (3e-3, 1e-2, 3e-2)},
)  # fmt: skip

NOISE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of LoFiT."""

    heads: float = 0.1
    """Fraction of all heads that get an offset."""
    lr: float = 1e-2
    """Peak learning rate of AdamW for the offsets."""
    select_lr: float = 5e-3
    """Peak learning rate of AdamW for the scalings that heads are chosen by."""
    l1: float = 5e-4
    """Weight of the scalings' absolute values in the loss while heads are chosen."""
    batch_size: int = 16
    """Examples a step."""

    def __post_init__(self) -> None:
        check.fraction("heads", self.heads)
        check.number("lr", self.lr, above=0)
        check.number("select_lr", self.select_lr, above=0)
        check.number("l1", self.l1, low=0)
        check.integer("batch_size", self.batch_size, low=1)


@dataclass(frozen=True)
class Interventions(ActivationChange):
    """z <- (1 + scale) * z + offset at some heads. heads: site -> which; scales, offsets: site -> (those heads, head size)."""

    place: ClassVar[str] = "activations"
    heads: Mapping[str, tuple[int, ...]]
    scales: Mapping[str, Tensor] = field(default_factory=dict)
    offsets: Mapping[str, Tensor] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def attach(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        """See `ActivationChange.attach`. Raises KeyMismatch, ShapeMismatch where the model's heads are not those of the change."""
        there = sites(model) if self.heads else {}
        for name in (n for n in self.heads if n in there):  # a site that is not there is refused by `changed`
            shapes = {tuple(part[name].shape) for part in (self.scales, self.offsets) if name in part}
            if shapes - {(len(self.heads[name]), there[name].size)} or max(self.heads[name]) >= there[name].heads:
                raise ShapeMismatch(f"change: the heads of '{name}' are not those of the change. Was it made from another base?")
        return changed(model, {name: functools.partial(self._at, name, there) for name in self.heads})

    def _at(self, name: str, there: Mapping[str, Site], z: Tensor) -> Tensor:
        if name in self.scales:
            z = z * (1 + self._spread(there[name], self.scales[name], z))
        if name in self.offsets:
            z = z + self._spread(there[name], self.offsets[name], z)
        return z

    def _spread(self, site: Site, rows: Tensor, z: Tensor) -> Tensor:
        """(chosen heads, size) -> (heads * size,), zero at the other heads."""
        where = torch.tensor(self.heads[site.name], device=z.device)
        full = torch.zeros(site.heads, site.size, dtype=rows.dtype, device=z.device)
        return full.index_copy(0, where, rows.to(z.device)).flatten().to(z.dtype)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `Change.state`."""
        tensors = {f"{n}|scale": t for n, t in self.scales.items()} | {f"{n}|offset": t for n, t in self.offsets.items()}
        return {"heads": {n: list(h) for n, h in self.heads.items()}}, cpu_state(tensors)

    @classmethod
    def from_state(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """See `Change.from_state`."""
        parts = [{k.removesuffix(end): t for k, t in tensors.items() if k.endswith(end)} for end in ("|scale", "|offset")]
        if missing := set(facts["heads"]) ^ (set(parts[0]) | set(parts[1])):
            raise KeyError(min(missing))
        return cls({n: tuple(h) for n, h in facts["heads"].items()}, *parts)


def lofit(start: Specialist, task: Task, settings: Settings, run: Run) -> Interventions:
    """Choose heads by learnt scalings, then learn offsets there."""
    there = sites(start.base.model, base=f"lofit: {start.base.name}")

    def learn(part: str, heads: Mapping[str, tuple[int, ...]], seen: Task, run: Run, lr: float, l1: float) -> Interventions:
        noise = torch.Generator().manual_seed(run.seed)
        drawn = {n: NOISE * torch.randn(len(h), there[n].size, generator=noise) for n, h in heads.items()}
        live = {n: nn.Parameter(t.to(start.base.device)) for n, t in drawn.items()}

        def change() -> Interventions:
            return Interventions(heads, **{part: cpu_state(live)})

        def penalty() -> Tensor:
            return l1 * torch.stack([p.abs().sum() for p in live.values()]).sum()

        with start.attached() as model, Interventions(heads, **{part: live}).attach(model):
            what = Trainable(start, seen, live, change, penalty=penalty if l1 else None)
            return fit(what, run, lr=lr, batch_size=settings.batch_size, keep_best=bool(seen.dev)).change  # type: ignore[return-value]

    every = {n: tuple(range(s.heads)) for n, s in there.items()}
    blind = replace(task, dev=())  # the scalings are taken as they end, so dev is not looked at
    first, second = run.part(0.5, "select"), run.part(0.5, "offsets")
    scaled = learn("scales", every, blind, first, settings.select_lr, settings.l1)
    made = learn("offsets", top(scaled.scales, settings.heads), task, second, settings.lr, 0.0)
    run.curve += second.curve
    return made


def top(scales: Mapping[str, Tensor], share: float) -> dict[str, tuple[int, ...]]:
    """Site -> chosen heads: the `share` of all heads with the largest norms, at least one; equal norms in the model's order."""
    every = [(n, h, float(a.norm())) for n, rows in scales.items() for h, a in enumerate(rows)]
    best = sorted(every, key=lambda e: -e[2])[: max(1, int(share * len(every) + 1e-9))]
    chosen = {n: tuple(sorted(h for m, h, _ in best if m == n)) for n in scales}
    return {n: heads for n, heads in chosen.items() if heads}
