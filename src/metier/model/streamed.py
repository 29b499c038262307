"""Streamed: a model whose weights are read when the module that owns them runs and let go of afterwards.

It takes the memory of its largest tensor in float32 and of what it computes, whatever its size, and as long for a pass as reading all
weights takes: for one look at what a model says, not for work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metier.delta import Checkpoint
from metier.errors import UserError
from metier.model.base import Base
from metier.model.change import no_grad_module
from metier.model.loading import AUTO, described, max_length, without_pooler


def streamed(place: str | Path) -> Base | None:
    """A base on disk, float32 on the CPU, its weights read when they are used; its fingerprint is not known.

    None where its files name weights otherwise than the model does. Raises UserError where it is no model.
    """
    import transformers

    path, family, config, tokenizer, _ = described(place)
    if not Path(path).is_dir():
        raise UserError(f"base {place}: is not on this machine. Download it first and give its folder.")
    model = reading(lambda: getattr(transformers, AUTO[family]).from_config(config), Checkpoint(path))
    if model is None:
        return None
    return Base(str(place), family, model, tokenizer, "", max_length(config, tokenizer, path, model), path=path)


def reading(make: Callable[[], nn.Module], weights: Mapping[str, Tensor]) -> nn.Module | None:
    """The model that `make` builds, with these weights, by the names of its state dict. None where one of them is not there."""
    from accelerate import init_empty_weights
    from transformers import PreTrainedModel

    with init_empty_weights(include_buffers=False):
        model = make()
    if isinstance(model, PreTrainedModel):
        model.tie_weights()
    no_grad_module(model)
    tied: Mapping[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    source = {name: name if name in weights else tied.get(name, name) for name, _ in model.named_parameters(remove_duplicate=False)}
    if any(at not in weights for at in without_pooler(model, (at for at in source.values() if at not in weights))):
        return None
    persistent = set(model.state_dict())
    for name, buffer in model.named_buffers():
        if name in persistent and name in weights:
            buffer.copy_(weights[name])
    for path, module in model.named_modules():
        own = {key: source[f"{path}.{key}" if path else key] for key, p in module.named_parameters(recurse=False) if p is not None}
        if own:
            module.register_forward_pre_hook(_taker(own, weights))
            module.register_forward_hook(_leaver({key: module._parameters[key] for key in own}))
    return model


def _taker(own: Mapping[str, str], weights: Mapping[str, Tensor]) -> Callable[[nn.Module, Any], None]:
    def take(module: nn.Module, _: Any) -> None:
        for key, name in own.items():
            module._parameters[key] = nn.Parameter(weights[name].to(torch.float32), requires_grad=False)

    return take


def _leaver(empty: Mapping[str, nn.Parameter | None]) -> Callable[[nn.Module, Any, Any], None]:
    def leave(module: nn.Module, _: Any, __: Any) -> None:
        module._parameters.update(empty)

    return leave
