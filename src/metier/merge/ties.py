"""TIES: trim small changes, elect a sign for each entry, average the experts that agree with it.

Paper:       Yadav et al. 2023, arXiv:2306.01708, Algorithm 1.
Formula:     t_i = the density * n largest of |W_i - W0|; g = sign(sum_i c_i t_i); W = W0 + scale * mean over {i : sign(c_i t_i) = g}.
Shapes:      every expert's tensor S; stacked (k, *S); result S.
Units:       density, a fraction kept in (0, 1]; scale (lambda), a factor; coef, a factor for each expert.
Randomness:  none.
Cost:        two reads of base and experts, one write; a slice of each in memory.
Deviations:  scope='tensor' trims within each tensor (as peft and mergekit), the authors over the flattened model (scope='model').
             The mean is weighted by |coef| (all 1 in the paper); mergekit divides by the sum of signed coefs of those that agree,
             peft elects before it applies the coefs, sums coef * change and divides by their count. An exact tie of signs gives 0;
             the sign of the whole model's majority in the authors' code, positive in peft and mergekit. round(density * n) entries
             are kept, equal magnitudes by lowest index; peft and mergekit round down, mergekit keeps at least one entry, and topk
             leaves ties open.
Errors:      UserError where density is outside (0, 1].

    >>> from metier.merge.ties import ties
    >>> ties(density=0.2).elementwise
    True
"""

from __future__ import annotations

from typing import Annotated, Literal

from metier.delta.parts import elect_sign_mean, trim
from metier.delta.parts import scale as scaled
from metier.delta.transform import Merge
from metier.method import About

ABOUT = About(place="weights", papers=(96,), search={"density": (0.1, 0.2, 0.5), "scale": (0.5, 1.0)})


def ties(
    *,
    density: Annotated[float, "Fraction of the entries that is kept, the largest by magnitude."] = 0.2,
    scale: Annotated[float, "Factor of the merged change."] = 1.0,
    scope: Annotated[Literal["tensor", "layer", "model"], "What is trimmed together."] = "tensor",
) -> Merge:
    """The trimmed, sign-elected mean of the experts' changes, times scale."""
    return Merge(trim(density, scope=scope), elect_sign_mean, scaled(scale))
