"""Loss: what a compression keeps of a change, in its norm and in what the model says."""

from __future__ import annotations

from typing import Any

from metier.delta import Checkpoint, Delta, New
from metier.delta.transform import slices
from metier.merge import _verdict, _verify


def loss(before: Delta, after: Delta, base: Checkpoint | None) -> dict[str, Any]:
    """kept: 1 - |before - after|^2 / |before|^2; with a base also how far the outputs move, and the full change's perplexity."""
    missed, whole = 0.0, 0.0
    for name in (n for n in before if not isinstance(before[n], New)):
        other = slices(after[name]) if name in after.entries else None
        for _, values in slices(before[name]):
            whole += float(values.double().square().sum())
            if other is not None:
                values = values - next(other)[1]
            missed += float(values.double().square().sum())
    facts: dict[str, Any] = {"kept": 1 - missed / whole if whole else 0.0}
    return facts if base is None else facts | _said(before, after, base)


def _said(before: Delta, after: Delta, base: Checkpoint) -> dict[str, Any]:
    plain = _verify.checkable(base.path)
    deltas = [d.only([n for n in d if not isinstance(d[n], New)]) for d in (before, after)]
    models = [_verify.model_of(plain, _verdict.composed(base, d)) for d in deltas]
    probe = _verify.Probe(plain)
    full, small = (probe.outputs(m) for m in models)
    return {"outputs_moved": float((full - small).abs().mean()), "perplexity_full": probe.perplexity(full)}
