"""Merge back: an expert is averaged with its base, which gives back what tuning made it forget.

Paper:       Fatemi et al. 2024, "A Comparative Analysis of Instruction Fine-Tuning LLMs for Financial Text Classification",
             arXiv:2411.02476, section on merging with the base.
Formula:     W = share * W1 + (1 - share) * W0 = W0 + share * (W1 - W0); of several experts the mean of the changes, weighted by coef.
Shapes:      every expert's tensor S; result S.
Units:       share, a fraction of the expert; coef, a factor for each expert, divided by their sum.
Randomness:  none.
Cost:        one read of base and experts, one write; a slice of each in memory.
Deviations:  the paper merges by mergekit; this is its linear merge with the base as one of the models, formed of the change in float32.
Errors:      UserError where share is outside [0, 1], or the coefs add up to 0.

    >>> from metier.merge.merge_back import merge_back
    >>> merge_back(share=0.5).elementwise
    True
"""

from __future__ import annotations

from typing import Annotated

from metier import check
from metier.delta.parts import mean
from metier.delta.parts import scale as scaled
from metier.delta.transform import Merge, identity
from metier.method import About

ABOUT = About(place="weights", papers=(139,), listed="finance-merge", search={"share": (0.3, 0.5, 0.7, 0.9)})


def merge_back(*, share: Annotated[float, "Fraction of the expert; the rest is the base."] = 0.5) -> Merge:
    """The mean of the experts' changes, times share."""
    check.number("merge_back: share", share, low=0, high=1)
    return Merge(identity(), mean, scaled(share))
