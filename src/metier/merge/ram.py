"""RAM: entries that one expert alone changes are kept whole, those that several change are averaged over those.

Paper:       Yuan et al. 2026 (Reinforced Agent Merging), arXiv:2601.13572: RAM, and RAM+ with boost above 0.
Formula:     d_i = W_i - W0 counts where |d_i| > epsilon, n of them at an entry; W = W0 + sum_i c_i d_i (1 + boost min(rho_i, limit)) where
             n = 1, mean of c_i d_i over those that count where n > 1; rho_i = entries i shares / entries only i changes.
Shapes:      every expert's tensor S; stacked (k, *S); result S.
Units:       epsilon, a size of changes; boost (the paper's r), a factor; limit (alpha), a ratio; coef, a factor for each expert.
Randomness:  none.
Cost:        one read of base and experts (boost > 0: two), one write; a slice of each in memory.
Deviations:  rho is taken within each tensor, as in mergekit's ramplus_tl; the paper takes it over the model. mergekit has no coefs, and
             divides by at least epsilon where an expert changes nothing alone; such an expert has nothing that could be boosted.
Errors:      UserError where epsilon, boost or limit is below 0.

    >>> from metier.merge.ram import ram
    >>> ram(boost=0.1).elementwise
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from metier import check
from metier.delta import native
from metier.delta.entry import Entry
from metier.delta.parts.span import stacks
from metier.delta.transform import At, Merge, identity
from metier.lazy import torch
from metier.merge._needs import scaled
from metier.method import About

ABOUT = About(place="weights", search={"boost": (0.0, 0.1)})


def ram(
    *,
    epsilon: Annotated[float, "A change this small or smaller does not count."] = 1e-5,
    boost: Annotated[
        float, "How much what one expert alone changes grows with the share of what it has in common; 0: RAM, above: RAM+."
    ] = 0.0,
    limit: Annotated[float, "The ratio of common to own entries from which on it grows no more."] = 0.2,
) -> Merge:
    """Own changes whole, common ones averaged."""
    for name, value in (("epsilon", epsilon), ("boost", boost), ("limit", limit)):
        check.number(f"ram: {name}", value, low=0)

    def plan(name: str, entries: Sequence[Entry]) -> list[float] | None:
        if not boost:
            return None
        own, common = np.zeros(len(entries)), np.zeros(len(entries))
        for stack in stacks(entries):
            counts = np.abs(np.stack([np.asarray(row) for row in stack])) > epsilon
            alone = counts.sum(0) == 1
            own += (counts & alone).sum(1)
            common += (counts & ~alone).sum(1)
        return list(map(float, 1 + boost * np.minimum(common / np.maximum(own, 1), limit)))

    def combine(at: At, stack: Any, coefs: Sequence[float], plan: Any) -> Any:
        if native.averaged(list(stack), coefs, plan, epsilon):
            return stack[0]
        counts = (stack.abs() > epsilon).float()
        number = counts.sum(0)
        found = scaled(stack, coefs).mul_(counts)
        for change, factor in zip(found, plan or (), strict=False):
            change.mul_(torch.where(number == 1, factor, 1.0))
        for change in found[1:]:
            found[0] += change
        return found[0].div_(number.clamp_(min=1))

    return Merge(identity(), combine, identity(), plan, plain=True)
