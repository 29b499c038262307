"""NuSLERP: slerp with the experts' coefs as the way between them, of weights or of changes, whole or row by row.

Paper:       none; mergekit's method of that name.
Formula:     slerp with t = c2 / (c1 + c2), of the flattened tensors, of each row or of each column.
Shapes:      both experts' tensor S; result S.
Units:       coef, a factor for each expert, divided by their sum.
Randomness:  none.
Cost:        two reads of the experts, for per='row' one; a slice of each in memory.
Deviations:  mergekit works on changes where a base_model is given (of='changes' here) and on weights where not; its default is
             nuslerp_flatten (per='tensor'); nuslerp_row_wise there is per='column' here: it turns the matrix and takes the last axis.
             Opposite tensors (cos < -0.9995) are met on the straight line; mergekit divides by a sine near 0 up to 1 - cos^2 = 1e-16.
             A zero tensor is met on the straight line, in mergekit at a right angle.
Errors:      UserError where there are not exactly two experts or their coefs add up to 0.

    >>> from metier.merge.nuslerp import nuslerp
    >>> nuslerp(per="row").rows
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from metier import check
from metier.delta.entry import SLICE, Entry, filled
from metier.delta.transform import At, Merge, identity
from metier.lazy import torch
from metier.merge._needs import exactly
from metier.merge._sphere import Floats, Of, arc, cosines, ratio, shares, spherical
from metier.method import About

if TYPE_CHECKING:
    from torch import Tensor

ABOUT = About(place="weights", experts=(2, 2), search={"per": ("tensor", "row")})


def nuslerp(
    *,
    of: Annotated[Literal["weights", "changes"], "What is interpolated: the weights themselves or the changes to the base."] = "weights",
    per: Annotated[Literal["tensor", "row", "column"], "What has one direction: the whole tensor, each row, or each column."] = "tensor",
) -> Merge:
    """Slerp at the share that the coefs give."""
    check.one_of("nuslerp: per", per, ("tensor", "row", "column"))
    check.one_of("of", of, ("weights", "changes"))
    if per == "tensor":
        return spherical(_solve, of)
    return _by_row(of) if per == "row" else _by_column(of)


def _solve(products: Floats, coefs: tuple[float, ...]) -> list[float]:
    exactly("nuslerp", products, 2)
    return [float(f) for f in arc(cosines(products)[0, 1], _share(coefs))]


def _by_row(of: Of) -> Merge:
    def combine(at: At, stack: Tensor, coefs: Sequence[float], plan: Any) -> Tensor:
        first, second = exactly("nuslerp", stack, 2)
        here, there = _factors(_products(first, second, -1), coefs)
        return (here * first + there * second).float()

    return Merge(identity(), combine, identity(), rows=True, weights="full" if of == "weights" else "delta")


def _by_column(of: Of) -> Merge:
    """Columns run along the first axis; their products are summed over blocks of rows."""

    def plan(name: str, entries: Sequence[Entry]) -> Tensor:
        first, second = exactly("nuslerp", entries, 2)
        n, width = first.shape.numel(), first.shape[1:].numel()
        step = max(1, SLICE // max(1, width)) * width
        found = torch.zeros(3, width, dtype=torch.float64)
        for start in range(0, n, step or 1):
            a, b = (filled(e, start, min(start + step, n)).view(-1, width) for e in (first, second))
            found += _products(a, b, 0).view(3, width)
        return found

    def combine(at: At, stack: Tensor, coefs: Sequence[float], plan: Any) -> Tensor:
        first, second = stack
        columns = torch.arange(at.start, at.start + len(first)) % plan.shape[1]
        here, there = (f[columns].to(stack.device) for f in _factors(plan, coefs))
        return (here * first + there * second).float()

    return Merge(identity(), combine, identity(), plan, weights="full" if of == "weights" else "delta")


def _products(first: Tensor, second: Tensor, axis: int) -> Tensor:
    """|a|^2, |b|^2 and ab along an axis, float64, stacked."""
    pairs = ((first, first), (second, second), (first, second))
    return torch.stack([(a.double() * b.double()).sum(axis, keepdim=True) for a, b in pairs])


def _factors(products: Tensor, coefs: Sequence[float]) -> tuple[Tensor, Tensor]:
    return arc(ratio(products[2], (products[0] * products[1]).sqrt(), 1.0), _share(coefs))


def _share(coefs: Sequence[float]) -> float:
    return float(shares("nuslerp", coefs)[1])
