"""Splitting examples by seed: classes in proportion, equal rows together, the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from itertools import pairwise

from metier.errors import UserError
from metier.task.example import Example

FEWEST = 10  # distinct rows that can be split three ways


def positions(keys: Sequence[Hashable], classes: Sequence[str], seed: int) -> list[float]:
    """A place in (0, 1) for every row: rows with equal keys share one, the rows of a class are spread evenly over it.

    Cutting at 0.6 and 0.8 then splits every class in these proportions. Depends on the rows and the seed only.
    """
    members: dict[str, dict[Hashable, float]] = {}
    home: dict[Hashable, str] = {}
    for key, label in zip(keys, classes, strict=True):
        members.setdefault(home.setdefault(key, label), {})[key] = 0.0
    for label, group in members.items():
        ordered = sorted(group, key=lambda key: _draw(seed, key))
        shift = (_draw(seed, label) - 0.5) / 2 if len(ordered) < 4 else 0.0  # so that small classes do not all miss the same split
        for rank, key in enumerate(ordered):
            group[key] = (rank + 0.5 + shift) / len(ordered) if len(ordered) > 1 else 0.0
    return [members[home[key]][key] for key in keys]


def cut(
    examples: Sequence[Example], keys: Sequence[Hashable], classes: Sequence[str], seed: int, at: Sequence[float], where: str
) -> list[tuple[Example, ...]]:
    """The examples cut at the given places, each part in the original order. Falls back to no classes if a part is empty.

    `where` names their source in errors."""
    for labels in (classes, [""] * len(examples)):
        places = positions(keys, labels, seed)
        bounds = [0.0, *at, 1.0]
        parts = [tuple(e for e, p in zip(examples, places, strict=True) if low <= p < high) for low, high in pairwise(bounds)]
        if all(parts):
            return parts
    raise UserError(f"{where}: {len(set(keys))} distinct rows are too few to be split into {len(at) + 1} parts. Give at least {FEWEST}.")


def _draw(seed: int, key: Hashable) -> float:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{key!r}".encode()).digest()[:8], "big") / 2**64
