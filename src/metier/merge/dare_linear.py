"""DARE: entries of each change are dropped at random, the rest scaled up by what was lost, and the changes are added.

Paper:       Yu et al. 2023, arXiv:2311.03099, section 3.
Formula:     t_i = m_i (W_i - W0) / density, m_i ~ Bernoulli(density) for each entry; W = W0 + scale * sum_i c_i t_i.
Shapes:      every expert's tensor S; stacked (k, *S); result S.
Units:       density, a fraction kept in (0, 1] (the paper's drop rate is 1 - density); scale, a factor; coef, a factor for each expert.
Randomness:  which entries are kept, by (seed, position among the experts, tensor name, place of the entry).
Cost:        one read of base and experts, one write; a slice of each in memory.
Deviations:  the rest is divided by density, as in the paper and peft; mergekit scales each tensor to the sum of magnitudes it had,
             and divides its sum by the sum of coefs where `normalize` is on. The draws are ours, so masks differ from theirs.
Errors:      UserError where density is outside (0, 1] or seed is below 0.

    >>> from metier.merge.dare_linear import dare_linear
    >>> dare_linear(density=0.1).elementwise
    True
"""

from __future__ import annotations

from typing import Annotated

from metier.delta.parts import drop, total
from metier.delta.parts import scale as scaled
from metier.delta.transform import Merge
from metier.method import About

ABOUT = About(place="weights", papers=(96,), search={"density": (0.2, 0.5), "scale": (0.5, 1.0)})


def dare_linear(
    *,
    density: Annotated[float, "Fraction of the entries that is kept, at random."] = 0.5,
    scale: Annotated[float, "Factor of the merged change."] = 1.0,
    seed: Annotated[int, "Seed of what is dropped."] = 0,
) -> Merge:
    """The sum of the changes after dropping and rescaling, times scale."""
    return Merge(drop(density, seed=seed), total, scaled(scale))
