"""NuSLERP: slerp with the experts' coefs as the way between them, of weights or of changes, whole or row by row.

Paper:       none; mergekit's method of that name.
Formula:     slerp with t = c2 / (c1 + c2), of the flattened tensors, of each row or of each column.
Shapes:      both experts' tensor S; result S.
Units:       coef, a factor for each expert, divided by their sum.
Randomness:  none.
Cost:        per='tensor': two reads of the experts, a slice of each in memory; else one read, whole tensors.
Deviations:  mergekit works on changes where a base_model is given (of='changes' here) and on weights where not; its default is
             nuslerp_flatten (per='tensor'); nuslerp_row_wise there is per='column' here: it turns the matrix and takes the last axis.
             Opposite tensors (cos < -0.9995) are met on the straight line; mergekit divides by a sine near 0 up to 1 - cos^2 = 1e-16.
             A zero tensor is met on the straight line, in mergekit at a right angle.
Errors:      UserError where there are not exactly two experts or their coefs add up to 0.

    >>> from metier.merge.nuslerp import nuslerp
    >>> nuslerp(per="row").elementwise
    False
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from metier import check
from metier.delta.transform import At, Merge, identity
from metier.merge._needs import exactly
from metier.merge._sphere import Of, arc, cosines, shares, spherical
from metier.method import About

ABOUT = About(place="weights", experts=(2, 2), search={"per": ("tensor", "row")})


def nuslerp(
    *,
    of: Annotated[Literal["weights", "changes"], "What is interpolated: the weights themselves or the changes to the base."] = "weights",
    per: Annotated[Literal["tensor", "row", "column"], "What has one direction: the whole tensor, each row, or each column."] = "tensor",
) -> Merge:
    """Slerp at the share that the coefs give."""
    check.one_of("nuslerp: per", per, ("tensor", "row", "column"))
    return spherical(_solve, of) if per == "tensor" else _by_axis(of, -1 if per == "row" else 0)


def _solve(products: Tensor, coefs: tuple[float, ...]) -> list[float]:
    exactly("nuslerp", products, 2)
    return torch.stack(arc(cosines(products)[0, 1], _share(coefs))).tolist()


def _by_axis(of: Of, axis: int) -> Merge:
    def combine(at: At, stack: Tensor, coefs: Sequence[float], plan: Any) -> Tensor:
        first, second = exactly("nuslerp", stack, 2)
        if first.ndim == 0:
            axis_products = torch.stack([first * first, second * second, first * second]).double()
        else:
            pairs = ((first, first), (second, second), (first, second))
            axis_products = torch.stack([(a.double() * b.double()).sum(axis, keepdim=True) for a, b in pairs])
        lengths = (axis_products[0] * axis_products[1]).sqrt()
        cosine = torch.where(lengths > 0, axis_products[2] / lengths.where(lengths > 0, torch.ones(())), 1.0)
        here, there = arc(cosine, _share(coefs))
        return (here * first + there * second).float()

    return Merge(identity(), combine, identity(), elementwise=False, weights="full" if of == "weights" else "delta")


def _share(coefs: Sequence[float]) -> float:
    return float(shares("nuslerp", coefs)[1])
