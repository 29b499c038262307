"""Karcher: the experts' directions are averaged by their Karcher mean on the sphere, the point with the least sum of squared arcs.

Paper:       Karcher 1977; for weights of models: Wang, Ye & Yin 2026, arXiv:2603.04972, and mergekit's method of that name.
Formula:     repeat u <- exp_u(sum_i w_i log_u(u_i)) from the mean of the u_i = W_i / |W_i|; W = (sum_i w_i |W_i|) u.
Shapes:      every expert's tensor S; result S.
Units:       coef, a factor for each expert, divided by their sum; steps, a count; tolerance, radians.
Randomness:  none.
Cost:        two reads of the experts, one write; the steps work on k x k inner products, not on tensors.
Deviations:  mergekit's experts weigh the same; an expert of length 0 has no direction and is left out, in mergekit one of a length
             below tolerance. Opposite directions start at the first expert, as in mergekit.
Errors:      UserError where the coefs add up to 0, or steps or tolerance are out of range.

    >>> from metier.merge.karcher import karcher
    >>> karcher(steps=20).weights
    'full'
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np

from metier import check
from metier.delta.transform import Merge
from metier.merge._sphere import Floats, shares, spherical
from metier.method import About

ABOUT = About(place="weights")


def karcher(
    *,
    steps: Annotated[int, "How many steps towards the mean at most."] = 10,
    tolerance: Annotated[float, "Length of a step, in radians, that counts as arrived."] = 1e-5,
    of: Annotated[Literal["weights", "changes"], "What has a direction: the weights themselves or the changes to the base."] = "weights",
) -> Merge:
    """The Karcher mean of the experts' directions, of their mean length."""
    check.integer("karcher: steps", steps, low=0)
    check.number("karcher: tolerance", tolerance, above=0)

    def solve(products: Floats, coefs: tuple[float, ...]) -> list[float]:
        share, norms = shares("karcher", coefs), np.sqrt(products.diagonal())
        there = norms > 0
        if not there.any():
            return share.tolist()
        inner = np.clip((products[there][:, there] / (norms[there][:, None] * norms[there])), -1, 1)
        mean = _mean(inner, share[there] / share[there].sum(), steps, tolerance)
        factors = np.zeros_like(norms)
        factors[there] = float(share @ norms) * mean / norms[there]
        return factors.tolist()

    return spherical(solve, of)


def _mean(inner: Floats, share: Floats, steps: int, tolerance: float) -> Floats:
    """Factors (k,) of the unit vectors with these inner products (k, k) in their Karcher mean."""
    mean = share
    if float(mean @ inner @ mean) < tolerance**2:
        mean = np.eye(len(share))[0]
    mean = mean / np.sqrt(mean @ inner @ mean)
    for _ in range(steps):
        cosine = np.clip(inner @ mean, -1, 1)
        theta = np.arccos(cosine)
        stretch = np.where(theta < tolerance, 0.0, share * theta / np.maximum(np.sin(theta), 1e-12))
        tangent = stretch - float(stretch @ cosine) * mean
        length = math.sqrt(max(float(tangent @ inner @ tangent), 0.0))
        if length < tolerance:
            break
        mean = math.cos(length) * mean + math.sin(length) * tangent / length
        mean = mean / np.sqrt(mean @ inner @ mean)
    return mean
