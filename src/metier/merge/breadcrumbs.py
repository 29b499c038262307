"""Breadcrumbs: the largest changes and the many small ones are dropped, and what is left is added.

Paper:       Davari and Belilovsky 2023, arXiv:2312.06795, section 3.
Formula:     t_i = W_i - W0 without its gamma n largest and all but the next density n magnitudes; W = W0 + scale * sum_i c_i t_i.
Shapes:      every expert's tensor S; stacked (k, *S); result S.
Units:       density, a fraction kept; gamma, a fraction dropped at the top; scale, a factor; coef, a factor for each expert.
Randomness:  none.
Cost:        two reads of base and experts, one write; a slice of each in memory.
Deviations:  the paper's beta is 1 - density here, as in mergekit. round(gamma n) entries are dropped at the top and the next
             round((density + gamma) n) less those are kept, ties by lowest index; mergekit rounds both down and keeps ties by sort order.
             density + gamma above 1 is refused; mergekit lowers gamma without a word, and drops nothing at density = 1. Earlier
             versions of mergekit lose the whole change at gamma = 0 or in tensors of fewer than 100 entries; here nothing is lost.
             peft's `magnitude_prune_svd` (at full rank) is gamma = 0, its count rounded down; its `magnitude_prune` prunes and adds up the
             factors A and B, each by themselves.
Errors:      UserError where density is outside (0, 1], gamma outside [0, 1], or their sum above 1.

    >>> from metier.merge.breadcrumbs import breadcrumbs
    >>> breadcrumbs(density=0.2, gamma=0.01).elementwise
    True
"""

from __future__ import annotations

from typing import Annotated, Literal

from metier.delta.parts import scale as scaled
from metier.delta.parts import total, trim_outliers
from metier.delta.transform import Merge
from metier.method import About

ABOUT = About(place="weights", papers=(20,), search={"density": (0.1, 0.5, 0.9), "scale": (0.3, 0.5, 1.0)})


def breadcrumbs(
    *,
    density: Annotated[float, "Fraction of the entries that is kept."] = 0.9,
    gamma: Annotated[float, "Fraction of the entries that is dropped as too large."] = 0.01,
    scale: Annotated[float, "Factor of the merged change."] = 1.0,
    scope: Annotated[Literal["tensor", "layer", "model"], "What is trimmed together."] = "tensor",
) -> Merge:
    """The sum of the trimmed changes, times scale."""
    return Merge(trim_outliers(density, gamma, scope=scope), total, scaled(scale))
