"""Slerp: two experts' weights are interpolated along the arc between them, so that their length is kept.

Paper:       Shoemake 1985, "Animating rotation with quaternion curves"; for weights of models: folklore, as in mergekit.
Formula:     W = sin((1 - t) a) / sin(a) W1 + sin(t a) / sin(a) W2, a the angle between W1 and W2, both flattened.
Shapes:      both experts' tensor S; result S.
Units:       t, a fraction of the way from the first expert to the second.
Randomness:  none.
Cost:        two reads of the experts, one write; a slice of each in memory.
Deviations:  mergekit draws the straight line from |cos a| = 0.9995 on, here only for opposite tensors (cos a < -0.9995) and parallel
             ones; a zero tensor, which has no direction, is met on the straight line (mergekit: at a right angle). mergekit's first
             expert is its base_model; here the base may be named as an expert.
Errors:      UserError where t is outside [0, 1], or there are not exactly two experts, or they have coefs.

    >>> from metier.merge.slerp import slerp
    >>> slerp(t=0.3).weights
    'full'
"""

from __future__ import annotations

from typing import Annotated

from metier import check
from metier.delta.transform import Merge
from metier.merge._needs import exactly, unweighted
from metier.merge._sphere import Floats, arc, cosines, spherical
from metier.method import About

ABOUT = About(place="weights", experts=(2, 2), weighted=False, search={"t": (0.3, 0.5, 0.7)})


def slerp(*, t: Annotated[float, "Fraction of the way from the first expert to the second."] = 0.5) -> Merge:
    """The point of the arc between two experts' weights."""
    check.number("slerp: t", t, low=0, high=1)

    def solve(products: Floats, coefs: tuple[float, ...]) -> list[float]:
        exactly("slerp", products, 2)
        unweighted("slerp", coefs)
        return [float(f) for f in arc(cosines(products)[0, 1], t)]

    return spherical(solve, "weights")
