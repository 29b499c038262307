"""Deltas on disk: tensors in safetensors keys 'NAME|PART', shapes and scales in a JSON-able header.

PART is dense | new | indices + values | up + down. The header is {name: {"kind": ..., "shape": [...], "scale": ...}}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from metier.delta.delta import Delta, Dense, Entry, LowRank, New, Sparse, tensors_of
from metier.errors import UserError


def pack(delta: Delta) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(header, tensors) of a delta, ready for JSON and safetensors."""
    header: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    for name, entry in delta.entries.items():
        tensors.update({k: t.detach().to("cpu").contiguous() for k, t in tensors_of(name, entry).items()})
        header[name] = {"kind": type(entry).__name__.lower(), "shape": list(entry.shape)}
        if isinstance(entry, LowRank):
            header[name]["scale"] = entry.scale
    return {"entries": header, "base": delta.base, "provenance": dict(delta.provenance)}, tensors


def unpack(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Delta:
    """The delta of a (header, tensors) pair. Raises UserError on missing, surplus or misshapen tensors, and on values that are not numbers."""
    entries: dict[str, Entry] = {}
    left = set(tensors)

    def take(key: str) -> Tensor:
        if key not in tensors:
            raise UserError(f"delta: the header names '{key}', the tensor file lacks it. The file is damaged; make it again.")
        left.discard(key)
        if tensors[key].isnan().any():
            raise UserError(
                f"delta: '{key}' holds values that are not numbers. The file is damaged or its training diverged; make it again."
            )
        return tensors[key]

    for name, facts in header["entries"].items():
        entries[name] = _entry(name, facts, take)
        if list(entries[name].shape) != list(facts["shape"]):
            raise UserError(
                f"delta: '{name}' has shape {list(entries[name].shape)}, its header says {facts['shape']}. The file is damaged."
            )
    if left:
        raise UserError(f"delta: the tensor file holds {len(left)} tensors that the header does not name, the first '{sorted(left)[0]}'.")
    return Delta(entries, header["base"], header["provenance"])


def _entry(name: str, facts: Mapping[str, Any], take: Any) -> Entry:
    match facts["kind"]:
        case "dense":
            return Dense(take(f"{name}|dense"))
        case "new":
            return New(take(f"{name}|new"))
        case "lowrank":
            up, down = take(f"{name}|up"), take(f"{name}|down")
            if up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[0]:
                raise UserError(f"delta: '{name}' has factors of shapes {list(up.shape)} and {list(down.shape)}. The file is damaged.")
            return LowRank(up, down, float(facts["scale"]))
        case "sparse":
            shape, indices, values = torch.Size(facts["shape"]), take(f"{name}|indices"), take(f"{name}|values")
            if indices.dtype != torch.int64 or indices.ndim != 1 or indices.shape != values.shape:
                raise UserError(
                    f"delta: '{name}' has {list(indices.shape)} indices ({indices.dtype}) for {list(values.shape)} values. The file is damaged."
                )
            rising = bool((indices[1:] > indices[:-1]).all()) if indices.numel() > 1 else True
            inside = indices.numel() == 0 or (int(indices[0]) >= 0 and int(indices[-1]) < shape.numel())
            if not rising or not inside:
                raise UserError(f"delta: '{name}' has indices that do not rise or lie outside its shape. The file is damaged.")
            return Sparse(indices, values, shape)
        case other:
            raise UserError(f"delta: '{name}' has unknown kind {other!r}; this version reads dense, new, sparse, lowrank.")
