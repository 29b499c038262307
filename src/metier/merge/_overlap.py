"""Overlap: how alike changes of one base are, entry by entry; packed ones are compared by counting bits, without being formed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from metier.delta import Delta, New, Packed
from metier.delta.transform import slices
from metier.merge import _ternary

TABLES = {
    "cosine": "cosine", "same_sign": "same sign", "jaccard": "shared of either", "shared": "shared of the row's",
}  # fmt: skip


def overlap(deltas: Sequence[Delta]) -> dict[str, list[list[float]]]:
    """Between every two changes, (k, k) each, fractions but for the norms.

    cosine     of the changes as vectors
    same_sign  of the entries that both change: those with one sign
    jaccard    of the entries that either changes: those that both change
    shared     of the entries that the row's change changes: those that the column's changes too
    norm       one row: of each change
    """
    k = len(deltas)
    dots, same, both = (torch.zeros(k, k, dtype=torch.float64) for _ in range(3))
    for name in dict.fromkeys(n for d in deltas for n in d):
        mine = [i for i, d in enumerate(deltas) if name in d.entries and not isinstance(d.entries[name], New)]
        at = torch.tensor(mine, dtype=torch.long)[:, None], torch.tensor(mine, dtype=torch.long)[None, :]
        entries = [deltas[i][name] for i in mine]
        packed = [e for e in entries if isinstance(e, Packed)]
        for a, b, c in [_counted(packed)] if len(packed) == len(entries) else map(_multiplied, _stacks(entries)):
            dots[at] += a
            same[at] += b
            both[at] += c
    norms, count = dots.diagonal().sqrt(), both.diagonal()
    either = count[:, None] + count[None, :] - both
    return {
        "cosine": (dots / (norms[:, None] * norms[None, :]).clamp(min=1e-300)).tolist(),
        "same_sign": (same / both.clamp(min=1)).tolist(), "jaccard": (both / either.clamp(min=1)).tolist(),
        "shared": (both / count[:, None].clamp(min=1)).tolist(), "norm": [norms.tolist()],
    }  # fmt: skip


def table(names: Sequence[str], found: Mapping[str, list[list[float]]]) -> str:
    """What a person reads: a matrix for each measure."""
    lines = []
    for key, title in TABLES.items():
        lines.append(f"{title:20s}" + "".join(f"{name[:11]:>12s}" for name in names))
        lines += [f"{name[:19]:20s}" + "".join(f"{value:12.3f}" for value in row) for name, row in zip(names, found[key], strict=True)]
    return "\n".join(lines)


def _stacks(entries: Sequence[object]) -> list[Tensor] | map[Tensor]:
    return map(lambda group: torch.stack([values for _, values in group]).double(), zip(*(slices(e) for e in entries), strict=True))  # type: ignore[arg-type]


def _multiplied(stack: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(products, entries of one sign, entries that both change) between the rows of (k, n)."""
    sign = stack.sign()
    there = sign.abs() @ sign.abs().T
    return stack @ stack.T, (there + sign @ sign.T) / 2, there


def _counted(entries: Sequence[Packed]) -> tuple[Tensor, Tensor, Tensor]:
    """The same of packed changes."""
    planes, k = [_ternary.planes(e) for e in entries], len(entries)
    dots, same, both = (torch.zeros(k, k, dtype=torch.float64) for _ in range(3))
    for i, a in enumerate(planes):
        for j, b in enumerate(planes):
            alike, opposite = _ternary.agreement(a, b)
            dots[i, j] = abs(entries[i].scale * entries[j].scale) * (alike - opposite)  # the planes have the signs of the scales
            same[i, j], both[i, j] = alike, alike + opposite
    return dots, same, both
