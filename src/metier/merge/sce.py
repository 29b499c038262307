"""SCE: entries that vary most over the experts are selected, experts weigh by the energy of what is left, the weaker sign is erased.

Paper:       Wan et al. 2024 (FuseChat), arXiv:2408.07990, section 3.3: select, calculate, erase.
Formula:     m = the density * n' entries of largest variance over i of d_i = W_i - W0, n' of which vary at all;
             w_i = mean (m d_i)^2 / sum_j mean (m d_j)^2; W = W0 + scale * sum w_i m d_i / sum w_i over the i with the sign of sum_i m d_i.
Shapes:      every expert's tensor S; stacked (k, *S); result S; w_i one number for each tensor.
Units:       density, a fraction kept in (0, 1]; scale, a factor.
Randomness:  none.
Cost:        four reads of base and experts, one write; a slice of each in memory.
Deviations:  as mergekit: weights are calculated for each tensor, entries of variance 0 are not counted. Selected are
             round(density * n') entries, ties by lowest index; mergekit rounds down. At density = 1 entries of variance 0 stay, as there.
             An exact tie of signs gives 0; in mergekit the positive side wins. mergekit weighs all experts the same where the sum of
             energies is below 1e-6, and divides by at least 1e-6; here neither, so that small changes are not lost.
Errors:      UserError where density is outside (0, 1], or the experts have coefs.

    >>> from metier.merge.sce import sce
    >>> sce(density=0.1).elementwise
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np

from metier import check
from metier.delta import native
from metier.delta.entry import SLICE, Entry, is_plain, opened
from metier.delta.parts import scale as scaled
from metier.delta.parts.span import squares, stacks
from metier.delta.scratch import scratch, stacked
from metier.delta.select import Cut, count_of, cuts
from metier.delta.transform import At, Merge, identity, in_slices
from metier.lazy import torch
from metier.merge._needs import unweighted
from metier.method import About

if TYPE_CHECKING:
    from torch import Tensor

ABOUT = About(place="weights", weighted=False, search={"density": (0.1, 0.5, 1.0), "scale": (0.5, 1.0)})


class _Plan(NamedTuple):
    """Of the variance over the experts, which entries are selected (None: all), and how much each expert weighs."""

    cut: Cut | None
    weights: list[float]

    def select(self, rows: Any, start: int) -> None:
        """Zero, in all rows, (k, n), the entries that are not selected."""
        if self.cut is not None and not native.select_varied(list(rows), *self.cut.after(start)):
            rows.mul_(self.cut.keep(start, _variance(rows)).sign_())


def sce(
    *,
    density: Annotated[float, "Fraction of the entries that vary over the experts that is kept, those of largest variance."] = 0.1,
    scale: Annotated[float, "Factor of the merged change."] = 1.0,
) -> Merge:
    """The experts' mean, weighted by energy, of the selected entries whose sign agrees, times scale."""
    check.fraction("sce: density", density)

    def plan(name: str, entries: Sequence[Entry]) -> _Plan:
        found = _Plan(None, [])
        if density < 1 and len(entries) > 1:
            variance = _variances(entries)
            varying = sum(int(np.count_nonzero(np.asarray(values))) for (values,) in stacks([variance]))
            found = _Plan(cuts({name: variance}, count_of(density, varying))[name], [])
        energy = np.zeros(len(entries))
        for start, rows in zip(range(0, entries[0].shape.numel(), SLICE), stacks(entries), strict=True):
            found.select(rows, start)
            energy += squares(rows)
        return found._replace(weights=(energy / energy.sum() if energy.any() else np.full_like(energy, 1 / len(energy))).tolist())

    return Merge(identity(), _combine, scaled(scale), plan, plain=True)


def _combine(at: At, stack: Any, coefs: Sequence[float], plan: Any) -> Any:
    unweighted("sce", coefs)
    plan.select(stack, at.start)
    return stack[0] if native.erase(list(stack), plan.weights) else _erased(stack, plan.weights)


def _erased(stack: Tensor, weights: Sequence[float]) -> Tensor:
    """As `native.erase`."""
    n, device = stack.shape[1], stack.device
    sign, divisor, agrees = (scratch(name, n, device=device) for name in ("sign", "divisor", "agrees"))
    sign.copy_(stack[0])
    for change in stack[1:]:
        sign += change
    sign.sign_()
    divisor.zero_()
    for change, weight in zip(stack, weights, strict=True):
        torch.mul(change, sign, out=agrees).sign_().clamp_(min=0)
        divisor.add_(agrees, alpha=weight)
        change.mul_(agrees.mul_(weight))
    result = stack[0]
    for change in stack[1:]:
        result += change
    return result.div_(divisor.clamp_(min=native.least(weights)))


def _variances(entries: Sequence[Entry]) -> Entry:
    """The variance over the experts of every entry of a tensor, computed when it is read."""
    sources = [opened(e) for e in entries]

    def part(start: int, stop: int, out: Any) -> Any:
        with stacked(len(sources), stop - start, plain=isinstance(out, np.ndarray)) as rows:
            for source, row in zip(sources, rows, strict=True):
                source.part(start, stop, row)
            out = torch.empty(stop - start) if out is None else out
            return out if native.variance(list(rows), out) else out.copy_(_variance(rows))

    return in_slices(entries[0].shape, part, plain=all(map(is_plain, sources)))


def _variance(stack: Tensor) -> Tensor:
    """(k, n) -> (n,): the mean of squares around the mean, one expert after another, in scratch."""
    mean, away, found = (scratch(name, stack.shape[1], device=stack.device) for name in ("mean", "away", "found"))
    mean.zero_(), found.zero_()
    for change in stack:
        mean += change
    mean /= len(stack)
    for change in stack:
        found += torch.sub(change, mean, out=away).square_()
    return found.div_(len(stack))
