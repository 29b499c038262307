"""Passthrough: one expert as it is, its change times a scale.

Paper:       none; mergekit's method of that name.
Formula:     W = W0 + scale (W1 - W0), which for scale = 1 is W1, bit for bit.
Shapes:      the expert's tensor S; result S.
Units:       scale, a factor of the change.
Randomness:  none.
Cost:        one read of expert and (where scale is not 1) base, one write; a slice of each in memory.
Deviations:  mergekit's scale is a factor of the weights themselves, not of the change.
Errors:      UserError where scale is not a finite number, there is not exactly one expert, or it has a coef.

    >>> from metier.merge.passthrough import passthrough
    >>> passthrough(scale=0.5).elementwise
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from metier.delta.parts import scale as scaled
from metier.delta.parts.total import Total
from metier.delta.transform import Merge, identity
from metier.merge._needs import exactly, unweighted
from metier.method import About

ABOUT = About(place="weights", experts=(1, 1), weighted=False)


def passthrough(*, scale: Annotated[float, "Factor of the change."] = 1.0) -> Merge:
    """The expert's change, times scale."""
    return Merge(identity(), Total(_alone), scaled(scale), weights="full" if scale == 1 else "delta")


def _alone(coefs: Sequence[float], plan: Any) -> Sequence[float]:
    unweighted("passthrough", coefs)
    return exactly("passthrough", coefs, 1)
