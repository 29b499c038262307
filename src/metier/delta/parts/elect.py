"""Elect: per entry the sign that weighs most over the experts wins, and the experts that agree with it are averaged (TIES)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from metier.delta import native
from metier.delta.native import least
from metier.delta.parts.total import Total
from metier.delta.scratch import scratch
from metier.delta.transform import At
from metier.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class Elected(Total):
    """A sum of those that agree: (k, *S) -> S, over their weights."""

    elects = True

    def __call__(self, at: At, stack: Any, coefs: Sequence[float], plan: Any = None) -> Any:
        """The mean, in place of the first change."""
        return stack[0] if native.elect(list(stack), coefs) else _elected(stack, coefs)


elect_sign_mean = Elected(lambda coefs, plan: coefs)
"""Mean, weighted by |coef|, of the non-zero entries whose sign is that of the weighted sum; 0 where there are none."""


def _elected(stack: Tensor, coefs: Sequence[float]) -> Tensor:
    for change, coef in zip(stack, coefs, strict=True):
        if coef != 1:
            change.mul_(coef)
    sign = scratch("sign", stack[0].numel(), device=stack.device).view(stack[0].shape)
    torch.add(stack[0], stack[1], out=sign) if len(stack) > 1 else sign.copy_(stack[0])
    for change in stack[2:]:
        sign += change
    sign.sign_()
    for change in stack:
        change.mul_(sign).clamp_(min=0)  # the sizes of those that agree, 0 elsewhere
    divisor = _weights(stack, coefs)
    result = stack[0]
    for change in stack[1:]:
        result += change
    return result.div_(divisor).mul_(sign)


def _weights(stack: Tensor, coefs: Sequence[float]) -> Tensor:
    """(k, *S) of sizes -> S: the sum of |coef| where a size is above 0; where none is, something to divide 0 by."""
    shape, n = stack[0].shape, stack[0].numel()
    weights = scratch("weights", n, device=stack.device)
    if stack.device.type != "cpu" or len(coefs) > 255 or len({abs(c) for c in coefs}) > 1:
        weights.zero_()
        for change, coef in zip(stack, coefs, strict=True):
            weights.add_(change.reshape(-1).sign(), alpha=abs(coef))
        return weights.clamp_(min=least(coefs)).view(shape)
    agrees = scratch("agrees", n, torch.bool).numpy()
    count = scratch("count", n, torch.uint8).zero_().numpy()  # equal coefficients: count in bytes, which is four times as fast
    for change in stack:
        np.add(count, np.greater(change.reshape(-1).numpy(), 0, out=agrees).view(np.uint8), out=count)
    np.add(count, np.equal(count, 0, out=agrees).view(np.uint8), out=count)
    weights.copy_(torch.from_numpy(count))
    return (weights.mul_(abs(coefs[0])) if abs(coefs[0]) not in (0.0, 1.0) else weights).view(shape)
