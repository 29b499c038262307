"""What a merge asks of its experts, checked where it combines them."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import TYPE_CHECKING, TypeVar

from metier.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Stack = TypeVar("Stack", bound=Sized)


def exactly(name: str, stack: Stack, count: int) -> Stack:
    """The experts, if there are `count` of them. Raises UserError."""
    if len(stack) != count:
        raise UserError(f"{name}: takes exactly {count} expert{'s' if count > 1 else ''}; got {len(stack)}.")
    return stack


def unweighted(name: str, coefs: Sequence[float]) -> None:
    """Raises UserError where an expert has a coefficient other than 1."""
    if any(c != 1 for c in coefs):
        raise UserError(f"{name}: takes no coef of its experts; got {list(coefs)}. Leave coef out.")


def scaled(stack: Tensor, coefs: Sequence[float]) -> Tensor:
    """Every expert's change times its coefficient, in place."""
    for change, coef in zip(stack, coefs, strict=True):
        if coef != 1:
            change.mul_(coef)
    return stack
