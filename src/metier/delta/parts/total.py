"""Totals: sums and means of the experts' changes, each times a factor, in the order given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from metier.delta import native
from metier.delta.transform import At, Formed
from metier.errors import UserError


class Total:
    """A combination that is a sum: (k, *S) -> S, the sum of factor * change, which compiled loops form without torch.

    factors: (coefs, plan) -> one for each expert, found without torch too.
    """

    elects = False

    def __init__(self, factors: Callable[[Sequence[float], Any], Sequence[float]]) -> None:
        self.factors = factors

    def __call__(self, at: At, stack: Any, coefs: Sequence[float], plan: Any = None) -> Any:
        """The sum, in place of the first change."""
        factors = self.factors(coefs, plan)
        if not isinstance(stack, Formed) and native.total(list(stack), factors):
            return stack[0]
        changes = iter(stack)
        result = next(changes)
        if factors[0] != 1:
            result.mul_(factors[0])
        for change, factor in zip(changes, factors[1:], strict=True):
            result.add_(change, alpha=factor)
        return result


def _shares(coefs: Sequence[float], plan: Any) -> list[float]:
    if abs(whole := sum(coefs)) < 1e-12:
        raise UserError(f"linear: the coefficients {list(coefs)} add up to 0, so there is no mean. Use task_arithmetic, which adds.")
    return [c / whole for c in coefs]


total = Total(lambda coefs, plan: coefs)
"""The sum of coef * change."""

mean = Total(_shares)
"""The mean of the changes, weighted by coef. Raises UserError where the coefs add up to 0."""
