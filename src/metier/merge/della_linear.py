"""DELLA without election: small entries of each row are dropped likelier than large ones, the rest scaled up, and the changes are added.

Paper:       Deep et al. 2024, arXiv:2406.11617, section 3.1 (MagPrune); the sum is mergekit's variant of that name.
Formula:     p = density - epsilon + 2 epsilon rank / (n - 1) in each row; t_i = m_i (W_i - W0) / p, m_i ~ Bernoulli(p);
             W = W0 + scale * sum_i c_i t_i.
Shapes:      every expert's tensor S; stacked (k, *S); result S.
Units:       density, a fraction kept in (0, 1); epsilon, a fraction added and taken; scale, a factor; coef, a factor for each expert.
Randomness:  which entries are kept, by (seed, position among the experts, tensor name, place of the entry).
Cost:        one read of base and experts, one write; rows are ranked block by block.
Deviations:  as in the paper an entry is divided by its own probability to be kept; mergekit scales each tensor to the sum of magnitudes
             it had. A row of one entry is kept with probability density; mergekit has no number there. density = 1 drops nothing.
Errors:      UserError where density - epsilon or density + epsilon leaves (0, 1], or seed is below 0.

    >>> from metier.merge.della_linear import della_linear
    >>> della_linear(density=0.3, epsilon=0.1).elementwise
    True
"""

from __future__ import annotations

from typing import Annotated

from metier.delta.parts import scale as scaled
from metier.delta.parts import total
from metier.delta.parts.drop_by_rank import drop_by_rank
from metier.delta.transform import Merge
from metier.method import About

ABOUT = About(place="weights", search={"density": (0.3, 0.5), "scale": (0.5, 1.0)})


def della_linear(
    *,
    density: Annotated[float, "Fraction of the entries that is kept, in the mean."] = 0.5,
    epsilon: Annotated[float, "How much likelier the largest entry of a row is kept, and how much less the smallest."] = 0.15,
    scale: Annotated[float, "Factor of the merged change."] = 1.0,
    seed: Annotated[int, "Seed of what is dropped."] = 0,
) -> Merge:
    """The sum of the changes after dropping by rank, times scale."""
    return Merge(drop_by_rank(density, epsilon, seed=seed), total, scaled(scale))
