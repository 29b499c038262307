"""Coefficients on experts' changes that are learnt: one for each expert and group of tensors (the model, a layer, a tensor)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from metier.delta import Dense
from metier.delta.entry import Entry
from metier.delta.parts.trim import LAYER

Blocks = Literal["tensor", "layer", "model"]


class Coefs:
    """c (experts,) for each group; the change of a tensor is sum_i c_i * change_i. stacks: name -> (experts, *S)."""

    def __init__(self, stacks: Mapping[str, Tensor], blocks: Blocks, start: float, limits: tuple[float, float] | None = None) -> None:
        self.stacks, self.limits = stacks, limits
        self.group = {n: group_of(n, blocks) for n in stacks}
        some = next(iter(stacks.values()), torch.zeros(1))
        self.values = {g: nn.Parameter(torch.full((len(some),), start, device=some.device)) for g in dict.fromkeys(self.group.values())}

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Name -> coefficients that move."""
        return {f"coef.{g}": p for g, p in self.values.items()}

    def of(self, name: str) -> Tensor:
        """The coefficients that count for a tensor: (experts,)."""
        value = self.values[self.group[name]]
        return value if self.limits is None else value.clamp(*self.limits)

    def change(self, name: str) -> Tensor:
        """The change of a tensor, with gradients to the coefficients: S."""
        return torch.tensordot(self.of(name), self.stacks[name], 1)

    def entries(self) -> dict[str, Entry]:
        """The changes as they stand."""
        with torch.no_grad():
            return {n: Dense(self.change(n).cpu()) for n in self.stacks}

    def told(self) -> dict[str, list[float]]:
        """The coefficients by tensor, for a change's provenance."""
        return {n: [round(c, 6) for c in self.of(n).detach().tolist()] for n in self.stacks}


def group_of(name: str, blocks: Blocks) -> str:
    """What a tensor shares its coefficient with: nothing, its layer (a tensor of no layer: nothing), or all."""
    if blocks == "model":
        return "model"
    layer = LAYER.match(name) if blocks == "layer" else None
    return f"{layer[0]}.all" if layer else name
