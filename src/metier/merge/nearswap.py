"""NearSwap: the base moves towards an expert, no entry by more than t.

Paper:       none; mergekit's method of that name, after alchemonaut's QuartetAnemoi-70B.
Formula:     W = W0 + (W1 - W0) min(1, t / |W1 - W0|), which is W0 + clamp(W1 - W0, -t, t).
Shapes:      the expert's tensor S; result S.
Units:       t, a size of changes; coef, a factor of the change after it was cut.
Randomness:  none.
Cost:        one read of base and expert, one write; a slice of each in memory.
Deviations:  mergekit divides by at least 1e-6, which differs for t below 1e-6 only.
Errors:      UserError where t is not above 0, or there is not exactly one expert.

    >>> from metier.merge.nearswap import nearswap
    >>> nearswap(t=0.001).elementwise
    True
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np

from metier import check
from metier.delta.parts.total import Total
from metier.delta.sums import Step
from metier.delta.transform import At, Merge, elementwise, identity
from metier.merge._needs import exactly
from metier.method import About

ABOUT = About(place="weights", experts=(1, 1), search={"t": (0.0001, 0.001, 0.01)})


def nearswap(*, t: Annotated[float, "The most that an entry changes."] = 0.001) -> Merge:
    """The change, cut at t."""
    check.number("nearswap: t", t, above=0)

    def part(_: None, at: At, values: Any) -> Any:
        return np.clip(values, -t, t, out=values) if isinstance(values, np.ndarray) else values.clamp_(-t, t)

    cut = elementwise(lambda _: None, part, local=True, plain=True, step=lambda *_: Step(limit=t))
    return Merge(cut, Total(lambda coefs, plan: exactly("nearswap", coefs, 1)), identity())
