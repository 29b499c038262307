"""Model Stock: the mean of the experts, drawn towards the base as far as the angle between their changes says.

Paper:       Jang et al. 2024, arXiv:2403.19522, eq. 7.
Formula:     t = k cos(a) / (1 + (k - 1) cos(a)), a the angle between two experts' changes (cos: mean over pairs); W = W0 + t mean_i (W_i - W0).
Shapes:      every expert's tensor S; result S; t one number, or (rows, 1).
Units:       none.
Randomness:  none.
Cost:        two reads of base and experts, for per='row' one; a slice of each in memory.
Deviations:  as mergekit: cos is the mean over all pairs, and where 1 + (k - 1) cos is 0 the base stays. mergekit divides by at least
             1e-6 in a cosine, so that changes whose lengths multiply to less count as less alike; here they do not.
Errors:      UserError where there are fewer than two experts, or they have coefs.

    >>> from metier.merge.model_stock import model_stock
    >>> model_stock().elementwise
    True
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from metier import check
from metier.delta.parts import total
from metier.delta.parts.span import spanned
from metier.delta.transform import At, Merge, identity
from metier.errors import UserError
from metier.merge._needs import unweighted
from metier.merge._sphere import Floats, maths, ratio
from metier.method import About

if TYPE_CHECKING:
    from torch import Tensor

ABOUT = About(place="weights", experts=(2, None), weighted=False, search={"per": ("tensor", "row")})


def model_stock(
    *, per: Annotated[Literal["tensor", "row"], "What has an angle of its own: the whole tensor or each row."] = "tensor"
) -> Merge:
    """The mean of the changes, times what their angle says."""
    check.one_of("model_stock: per", per, ("tensor", "row"))
    if per == "row":
        return Merge(identity(), _by_row, identity(), rows=True)
    plan, combine = spanned(_solve)
    return Merge(identity(), combine, identity(), plan)


def _solve(products: Floats, coefs: tuple[float, ...]) -> list[float]:
    unweighted("model_stock", coefs)
    return [float(_ratio(products)) / len(products)] * len(products)


def _by_row(at: At, stack: Tensor, coefs: Sequence[float], plan: Any) -> Tensor:
    unweighted("model_stock", coefs)
    rows = stack.transpose(0, 1).double()  # (r, k, n)
    factor = _ratio(rows @ rows.transpose(1, 2)) / len(stack)
    return total(at, stack, [1.0] * len(stack)) * factor.float()[:, None]  # type: ignore[no-any-return]


def _ratio(products: Any) -> Any:
    """t from inner products: (..., k, k) -> (...)."""
    k = products.shape[-1]
    if k < 2:
        raise UserError("model_stock: takes at least 2 experts; got 1.")
    m = maths(products)
    norms = m.sqrt(m.einsum("...ii->...i", products))
    lengths = norms[..., :, None] * norms[..., None, :]
    cosine = m.clip(ratio(products, lengths, 0.0), -1, 1)
    first, second = zip(*itertools.combinations(range(k), 2), strict=True)
    mean = cosine[..., first, second].mean(-1)
    divisor = 1 + (k - 1) * mean
    flat = m.abs(divisor) < 1e-6
    return m.where(flat, 0.0, k * mean / m.where(flat, 1.0, divisor))
