"""Passthrough: one expert as it is, its change times a scale.

Paper:       none; mergekit's method of that name.
Formula:     W = W0 + scale * c (W1 - W0).
Shapes:      the expert's tensor S; result S.
Units:       scale, a factor of the change; coef, another.
Randomness:  none.
Cost:        one read of base and expert, one write; a slice of each in memory.
Deviations:  mergekit's scale is a factor of the weights themselves, not of the change.
Errors:      UserError where scale is not a finite number, or there is not exactly one expert.

    >>> from metier.merge.passthrough import passthrough
    >>> passthrough(scale=0.5).elementwise
    True
"""

from __future__ import annotations

from typing import Annotated

from metier.delta.parts import scale as scaled
from metier.delta.parts.total import Total
from metier.delta.transform import Merge, identity
from metier.merge._needs import exactly
from metier.method import About

ABOUT = About(place="weights", experts=(1, 1))


def passthrough(*, scale: Annotated[float, "Factor of the change."] = 1.0) -> Merge:
    """The expert's change, times scale."""
    return Merge(identity(), Total(lambda coefs, plan: exactly("passthrough", coefs, 1)), scaled(scale))
