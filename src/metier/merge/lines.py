"""LiNeS: a change is scaled by depth, little in the first layer, most in the last, so that what shallow layers know in general is kept.

Paper:       Wang et al. 2024, arXiv:2410.17146, eq. 2 (one expert) and section 4.2 (after a sum of experts).
Formula:     W = W0 + (first + (last - first) l / (L - 1)) sum_i c_i (W_i - W0) in layer l of L; first = alpha, last = alpha + beta.
Shapes:      every expert's tensor S; result S.
Units:       first, last, factors; coef, a factor for each expert.
Randomness:  none.
Cost:        one read of base and experts, one write; a slice of each in memory.
Deviations:  tensors of no layer (embeddings, last norm, output) get `first`, as in the authors' code. L is one more than the highest
             layer that the experts change. After another merge: the setting `lines` of every merge, which is first / last.
             The paper's rule for alpha, |mean of the changes| / |their merge|, is not applied: first is searched on dev.
Errors:      UserError where a factor is not a finite number.

    >>> from metier.merge.lines import lines
    >>> lines(first=0.2).elementwise
    True
"""

from __future__ import annotations

from typing import Annotated

from metier.delta.parts import by_depth, total
from metier.delta.transform import Merge, identity
from metier.method import About

ABOUT = About(place="weights", papers=(39,), search={"first": (0.0, 0.2, 0.5)})


def lines(
    *,
    first: Annotated[float, "Factor of the first layer's change (alpha)."] = 0.2,
    last: Annotated[float, "Factor of the last layer's change (alpha + beta)."] = 1.0,
) -> Merge:
    """The sum of the changes, scaled by depth."""
    return Merge(identity(), total, by_depth(first, last))
