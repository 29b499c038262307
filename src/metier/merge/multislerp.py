"""Multi-SLERP: the experts' directions are averaged on the sphere, their lengths on the line.

Paper:       none; mergekit's method of that name, after a post of its author (goddard.blog/posts/multislerp-wow-what-a-cool-idea).
Formula:     u_i = W_i / |W_i|, m = sum_i w_i u_i; W = (sum_i w_i |W_i|) m / |m|, w_i = c_i / sum c. The blog post then moves within the
             tangent space at m / |m| by sum_i w_i (u_i - (u_i . m) m / |m|^2), which is 0.
Shapes:      every expert's tensor S; result S.
Units:       coef, a factor for each expert, divided by their sum.
Randomness:  none.
Cost:        two reads of the experts, one write; a slice of each in memory.
Deviations:  mergekit works on changes where a base_model is given (of='changes' here), and adds 1e-8 to every length, so that changes
             of a length near that shrink; it can leave the coefs undivided (normalize_weights), which is left out here. One expert
             is given back as it is.
Errors:      UserError where the directions of three or more experts cancel, or the coefs add up to 0.

    >>> from metier.merge.multislerp import multislerp
    >>> multislerp(of="changes").weights
    'delta'
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np

from metier.delta.transform import Merge
from metier.errors import UserError
from metier.merge._sphere import Floats, shares, spherical
from metier.method import About

ABOUT = About(place="weights")


def multislerp(
    *, of: Annotated[Literal["weights", "changes"], "What has a direction: the weights themselves or the changes to the base."] = "weights"
) -> Merge:
    """The mean of the experts' directions, of their mean length."""
    return spherical(_solve, of)


def _solve(products: Floats, coefs: tuple[float, ...]) -> list[float]:
    share, norms = shares("multislerp", coefs), np.sqrt(products.diagonal())
    inverse = np.where(norms > 0, 1 / np.where(norms > 0, norms, 1.0), 0.0)
    weights = share * inverse  # of the experts' tensors in m
    length = float(weights @ products @ weights) ** 0.5 if len(products) > 1 else 1.0
    if not norms.any() or len(products) == 1:
        return share.tolist()
    if length < 1e-7:
        if len(products) == 2:
            return share.tolist()
        raise UserError("multislerp: the directions of the experts cancel, so there is no mean of them. Change a coef.")
    return (weights * float(share @ norms) / length).tolist()
