"""WUDI: the merged change is moved, by gradient steps, to where it disturbs what each expert's change does to its own inputs the least.

Paper:       Cheng et al. 2025, arXiv:2503.08099, eq. 9 and algorithm 1.
Formula:     T = sum_i d_i at first, d_i = c_i (W_i - W0); Adam on sum_i |(T - d_i) d_i^T|^2 / |d_i|^2; W = W0 + scale * T for matrices;
             the mean of the changes for all else.
Shapes:      every expert's matrix (m, n), rows are outputs; T (m, n).
Units:       steps, a count; lr, a size of weights moved in one step; scale, a factor; coef, a factor for each expert.
Randomness:  none.
Cost:        steps products of (m, n) and (n, n) for each matrix; whole tensors and one (n, n) matrix in memory.
Deviations:  the gradient is formed directly, 2 (T A - B) with A = sum d_i^T d_i / |d_i|^2, B = sum d_i d_i^T d_i / |d_i|^2. The loss is
             quadratic; as in the authors' code it is not solved but stopped after `steps`, and what is not matrix is averaged.
             Tables of embeddings and the output layer are averaged. Fused experts (e, m, n) count as e matrices.
Errors:      UserError where steps is below 0, lr is not above 0, or scale is not a finite number.

    >>> from metier.merge.wudi import wudi
    >>> wudi(steps=10).elementwise
    False
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from metier import check
from metier.delta.transform import Merge
from metier.merge._matrices import of_matrices
from metier.method import About

ABOUT = About(place="weights", search={"lr": (0.00001, 0.0001)})


def wudi(
    *,
    steps: Annotated[int, "How many steps of Adam."] = 300,
    lr: Annotated[float, "Step size of Adam: about how far an entry moves in one step."] = 1e-5,
    scale: Annotated[float, "Factor of the merged change."] = 1.0,
) -> Merge:
    """The sum of the changes, moved to where the experts disturb each other the least, times scale."""
    check.integer("wudi: steps", steps, low=0)
    check.number("wudi: lr", lr, above=0)

    def combine(stack: Tensor) -> Tensor:
        merged = stack.sum(0)
        energies = stack.square().sum((1, 2))
        there = [change / energy.sqrt() for change, energy in zip(stack, energies, strict=True) if energy > 0]
        lengths = energies[energies > 0].sqrt()
        if not there:
            return merged
        A = torch.stack([u.T @ u for u in there]).sum(0)  # (n, n)
        B = torch.stack([length * (u @ (u.T @ u)) for u, length in zip(there, lengths, strict=True)]).sum(0)  # (m, n)
        optimizer = torch.optim.Adam([merged], lr=lr)
        for _ in range(steps):
            merged.grad = 2 * (merged @ A - B)
            optimizer.step()
        return merged

    return of_matrices(combine, scale)
