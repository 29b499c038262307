"""Interpolation on spheres: factors along an arc, and merges that see either whole weights or changes as directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from metier import check
from metier.delta.parts.span import Solve, spanned
from metier.delta.transform import Merge, identity
from metier.errors import UserError
from metier.lazy import torch

Floats = NDArray[np.float64]
Of = Literal["weights", "changes"]
OPPOSITE = -0.9995  # the cosine from which on two directions count as opposite: no arc between them is the shortest


def spherical(solve: Solve, of: Of) -> Merge:
    """A merge of directions by factors that follow from their inner products. of: what is a direction, the weights or the changes."""
    check.one_of("of", of, ("weights", "changes"))
    plan, combine = spanned(solve)
    return Merge(identity(), combine, identity(), plan, weights="full" if of == "weights" else "delta")


def maths(values: Any) -> Any:
    """numpy or torch, whichever made the values: the functions used here have the same names in both."""
    return torch if hasattr(values, "device") and not isinstance(values, np.ndarray | np.generic) else np


def arc(cosine: Any, t: float) -> tuple[Any, Any]:
    """Factors of both ends at the share t of the arc between them; of the straight line where they are parallel or opposite."""
    m = maths(cosine)
    theta = m.arccos(m.clip(cosine, -1, 1))
    sine = m.sin(theta)
    straight = (cosine < OPPOSITE) | (sine < 1e-9)
    sine = m.where(straight, 1.0, sine)
    first, second = m.sin((1 - t) * theta) / sine, m.sin(t * theta) / sine
    return m.where(straight, 1 - t, first), m.where(straight, t, second)


def cosines(products: Floats) -> Floats:
    """Cosines from inner products, (k, k); 1 where a tensor is zero, which has no direction."""
    norms = np.sqrt(products.diagonal())
    return ratio(products, norms[:, None] * norms, 1.0)  # type: ignore[no-any-return]


def ratio(products: Any, lengths: Any, otherwise: float) -> Any:
    """products / lengths, and `otherwise` where a length is 0."""
    m = maths(products)
    return m.where(lengths > 0, products / m.where(lengths > 0, lengths, 1.0), otherwise)


def shares(name: str, coefs: Sequence[float]) -> Floats:
    """The coefs divided by their sum. Raises UserError where that is 0."""
    given = np.array(coefs, np.float64)
    if abs(float(given.sum())) < 1e-12:
        raise UserError(f"{name}: the coefficients {list(coefs)} add up to 0, so there is no mean. Change one of them.")
    return given / given.sum()
