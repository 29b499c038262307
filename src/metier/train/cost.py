"""Cost: how many floating-point operations training takes, estimated."""

from __future__ import annotations

import re

from metier.train.trainable import Trainable

_LAYER = re.compile(r"\.(\d+)\.")


def flops_per_token(what: Trainable) -> float:
    """Estimated floating-point operations to train on one token: 2 per parameter forward (embedding look-ups cost none),
    2 backward for activations down to the lowest layer that moves, 2 backward per parameter that moves. Attention's own
    products are left out.
    """
    base = what.start.base
    table = base.model.get_input_embeddings().weight
    out = base.model.get_output_embeddings() if hasattr(base.model, "get_output_embeddings") else None
    read = base.parameters - table.numel() + (out.weight.numel() if out is not None and out.weight is table else 0)
    tied = out is not None and out.weight is table
    return 2.0 * read * (1 + _depth(what)) + 2.0 * sum(p.numel() for p in what.parameters.values() if tied or p is not table)


def _depth(what: Trainable) -> float:
    """Which share of the layers gradients must pass: 0 for the output layer alone, 1 when anything below the first layer moves."""
    if what.prefix is not None:
        return 1.0
    layers = {int(m[1]) for n, _ in what.start.base.model.named_parameters() if (m := _LAYER.search(n))}
    moving = [int(m[1]) for n in what.parameters if (m := _LAYER.search(n))]
    above = [n for n in what.parameters if not _LAYER.search(n)]
    if any("embed" in n or "wte" in n or "shared" in n for n in above):
        return 1.0
    return 0.0 if not moving or not layers else 1 - min(moving) / (max(layers) + 1)
