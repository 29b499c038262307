"""DARE with TIES: entries of each change are dropped at random, the rest scaled up, then a sign is elected for each entry.

Paper:       Yu et al. 2023, arXiv:2311.03099, section 3, with Yadav et al. 2023, arXiv:2306.01708, steps 2 and 3.
Formula:     t_i = m_i (W_i - W0) / density, m_i ~ Bernoulli(density); W = W0 + scale * mean of the c_i t_i whose sign is that of their sum.
Shapes:      every expert's tensor S; stacked (k, *S); result S.
Units:       density, a fraction kept in (0, 1]; scale, a factor; coef, a factor for each expert.
Randomness:  which entries are kept, by (seed, position among the experts, tensor name, place of the entry).
Cost:        one read of base and experts, one write; a slice of each in memory.
Deviations:  the experts that agree are averaged, weighted by |coef|, as in ties; mergekit adds them unless `normalize` is on, and
             scales each tensor to the sum of magnitudes it had instead of dividing by density; peft elects before it applies the coefs,
             sums coef * change and divides by their count. The draws are ours, so masks differ from theirs.
Errors:      UserError where density is outside (0, 1] or seed is below 0.

    >>> from metier.merge.dare_ties import dare_ties
    >>> dare_ties(density=0.1).elementwise
    True
"""

from __future__ import annotations

from typing import Annotated

from metier.delta.parts import drop, elect_sign_mean
from metier.delta.parts import scale as scaled
from metier.delta.transform import Merge
from metier.method import About

ABOUT = About(place="weights", papers=(96,), search={"density": (0.2, 0.5), "scale": (0.5, 1.0)})


def dare_ties(
    *,
    density: Annotated[float, "Fraction of the entries that is kept, at random."] = 0.5,
    scale: Annotated[float, "Factor of the merged change."] = 1.0,
    seed: Annotated[int, "Seed of what is dropped."] = 0,
) -> Merge:
    """The sign-elected mean of the changes after dropping and rescaling, times scale."""
    return Merge(drop(density, seed=seed), elect_sign_mean, scaled(scale))
