"""Task arithmetic: the experts' changes are added up, times one scale, and added to the base.

Paper:       Ilharco et al. 2022, arXiv:2212.04089, section 2.
Formula:     W = W0 + scale * sum_i c_i (W_i - W0).
Shapes:      every expert's tensor S; stacked (k, *S); result S.
Units:       scale (lambda), a factor; coef, a factor for each expert (negative: the skill is taken away).
Randomness:  none.
Cost:        one read of base and experts, one write; a slice of each in memory.
Deviations:  none from the paper; mergekit calls c_i `weight` and scale `lambda`. peft's `cat` and `svd` (at full rank) of LoRA adapters are
             this sum; its `linear` is not: it adds up the factors A and the factors B, each times sqrt(c_i), and multiplies the sums.
Errors:      UserError where scale is not a finite number.

    >>> from metier.merge.task_arithmetic import task_arithmetic
    >>> task_arithmetic(scale=0.3).elementwise
    True
"""

from __future__ import annotations

from typing import Annotated

from metier.delta.parts import scale as scaled
from metier.delta.parts import total
from metier.delta.transform import Merge, identity
from metier.method import About

ABOUT = About(place="weights", papers=(96,), search={"scale": (0.3, 0.5, 1.0)})


def task_arithmetic(*, scale: Annotated[float, "Factor of the sum."] = 1.0) -> Merge:
    """The sum of the experts' changes, times scale."""
    return Merge(identity(), total, scaled(scale))
