"""Sites: where a model's attention heads can be read and changed, before their outputs are mixed by the output projection.

A head's output is z = softmax(q k') v, one slice of the output projection's input. `sites` finds the projections of any
transformers model by what they are: a linear map, under a name that output projections have, in an attention module.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from metier.errors import KeyMismatch, UserError

PROJECTIONS = ("o_proj", "out_proj", "c_proj", "dense", "o", "out_lin", "Wo", "proj")
COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head")


@dataclass(frozen=True, slots=True)
class Site:
    """The heads of one attention module. name: path of its output projection, whose input is (..., heads * size)."""

    name: str
    heads: int
    size: int


def sites(model: nn.Module, *, base: str = "base") -> dict[str, Site]:
    """All sites by name, in the model's order. Raises UserError where the model has none, or heads that do not divide its width."""
    found = {}
    for name, module in model.named_modules():
        parent, leaf = name.rpartition(".")[0], name.rpartition(".")[2]
        if leaf not in PROJECTIONS or not isinstance(module, nn.Linear | Conv1D):
            continue
        owner = model.get_submodule(parent)
        if isinstance(owner, nn.MultiheadAttention) or not _attends(owner):  # torch's own attention never calls its projection
            continue
        width = module.in_features if isinstance(module, nn.Linear) else module.weight.shape[0]
        heads = _count(owner, model)
        if not heads or width % heads:
            raise UserError(f"{base}: the input of '{name}' ({width}) is not divided by {heads or 'an unknown number of'} heads.")
        found[name] = Site(name, heads, width // heads)
    if not found:
        known = ", ".join(PROJECTIONS)
        raise UserError(f"{base}: {type(model).__name__} has no attention output projection (looked for {known}). Use another method.")
    return found


@contextlib.contextmanager
def changed(model: nn.Module, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """The heads' outputs at the named sites passed through functions (..., heads * size) -> same, for the time of a with-block."""
    modules = dict(model.named_modules())
    if missing := [n for n in changes if n not in modules]:
        raise KeyMismatch(f"change: the base has no attention projection '{missing[0]}'. Was the change made from another model?")
    handles = []
    try:
        for name, function in changes.items():
            handles.append(modules[name].register_forward_pre_hook(_hook(function)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(function: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    return lambda _, args: (function(args[0]), *args[1:])


def _attends(owner: nn.Module) -> bool:
    """Whether a module is an attention module, or BERT's part of one that holds the projection."""
    name = type(owner).__name__
    return "Attention" in name or name.endswith("SelfOutput")


def _count(owner: nn.Module, model: nn.Module) -> int:
    for place in (owner, getattr(owner, "config", None), getattr(model, "config", None)):
        for key in COUNTS:
            if isinstance(count := getattr(place, key, None), int):
                return count
    return 0
