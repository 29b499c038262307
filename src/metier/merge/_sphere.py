"""Interpolation on spheres: factors along an arc, and merges that see either whole weights or changes as directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from metier import check
from metier.delta.parts.span import Solve, spanned
from metier.delta.transform import Merge, identity
from metier.errors import UserError

Of = Literal["weights", "changes"]
OPPOSITE = -0.9995  # the cosine from which on two directions count as opposite: no arc between them is the shortest


def spherical(solve: Solve, of: Of) -> Merge:
    """A merge of directions by factors that follow from their inner products. of: what is a direction, the weights or the changes."""
    check.one_of("of", of, ("weights", "changes"))
    plan, combine = spanned(solve)
    return Merge(identity(), combine, identity(), plan, weights="full" if of == "weights" else "delta")


def arc(cosine: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Factors of both ends at the share t of the arc between them; of the straight line where they are parallel or opposite."""
    theta = cosine.clamp(-1, 1).acos()
    sine = theta.sin()
    straight = (cosine < OPPOSITE) | (sine < 1e-9)
    sine = torch.where(straight, 1.0, sine)
    first, second = ((1 - t) * theta).sin() / sine, (t * theta).sin() / sine
    return torch.where(straight, 1 - t, first), torch.where(straight, t, second)


def cosines(products: Tensor) -> Tensor:
    """Cosines from inner products, (k, k); 1 where a tensor is zero, which has no direction."""
    norms = products.diagonal().sqrt()
    lengths = norms[:, None] * norms
    return torch.where(lengths > 0, products / lengths.where(lengths > 0, torch.ones(())), 1.0)


def shares(name: str, coefs: Sequence[float]) -> Tensor:
    """The coefs divided by their sum, float64. Raises UserError where that is 0."""
    given = torch.tensor(list(coefs), dtype=torch.float64)
    if abs(float(given.sum())) < 1e-12:
        raise UserError(f"{name}: the coefficients {list(coefs)} add up to 0, so there is no mean. Change one of them.")
    return given / given.sum()
