"""Linear: the weighted mean of the experts' changes is added to the base, which is the weighted mean of their weights.

Paper:       Wortsman et al. 2022, arXiv:2203.05482, section 2 (uniform soup); Izmailov et al. 2018, arXiv:1803.05407.
Formula:     W = W0 + sum_i c_i (W_i - W0) / sum_i c_i.
Shapes:      every expert's tensor S; stacked (k, *S); result S.
Units:       coef, a factor for each expert, divided by their sum.
Randomness:  none.
Cost:        one read of base and experts, one write; a slice of each in memory.
Deviations:  the mean is formed of differences to the base in float32 and rounded once; mergekit: of the weights.
             With `normalize` off in mergekit the sum is not divided: that is task_arithmetic here. peft's `linear` of LoRA adapters is
             another thing: it adds up the factors A and the factors B, each times sqrt(c_i), and multiplies the sums, undivided.
Errors:      UserError where the coefs add up to 0.

    >>> from metier.merge.linear import linear
    >>> linear().elementwise
    True
"""

from __future__ import annotations

from metier.delta.parts import mean
from metier.delta.transform import Merge, identity
from metier.method import About

ABOUT = About(place="weights", papers=(96,))


def linear() -> Merge:
    """The weighted mean of the experts."""
    return Merge(identity(), mean, identity())
