"""Project: keep the part of a change that lies in a subspace, or the part that lies outside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from metier import check
from metier.delta.transform import Transform
from metier.errors import ShapeMismatch
from metier.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def project(subspaces: Mapping[str, Tensor], *, onto: bool = True, side: Literal["out", "in"] = "in") -> Transform:
    """Matrices onto (or away from) the span of the columns of a basis; tensors without a basis stay as they are.

    subspaces: name -> (d, r), d the tensor's size on `side` (rows: 'out', columns: 'in'); columns need not be orthonormal.
    Raises ShapeMismatch where a basis does not fit.
    """
    check.one_of("project: side", side, ("out", "in"))

    def prepare(delta: object) -> dict[str, Tensor]:
        return {name: orthonormal(basis) for name, basis in subspaces.items()}

    def apply(bases: dict[str, Tensor], name: str, tensor: Tensor) -> Tensor:
        if name not in bases:
            return tensor
        Q, size = bases[name].to(tensor.device), tensor.shape[0 if side == "out" else -1] if tensor.ndim == 2 else 0
        if len(Q) != size:
            raise ShapeMismatch(f"project: '{name}' has shape {tuple(tensor.shape)}, its basis {tuple(subspaces[name].shape)}.")
        inside = Q @ (Q.T @ tensor) if side == "out" else (tensor @ Q) @ Q.T
        return inside if onto else tensor - inside

    return Transform(prepare, apply)


def orthonormal(basis: Tensor) -> Tensor:
    """An orthonormal basis of the span of the columns, (d, r') float32; columns that add nothing are dropped."""
    U, S, _ = torch.linalg.svd(basis.double(), full_matrices=False)
    tolerance = float(S[0]) * max(basis.shape) * 1e-7 if len(S) else 0.0
    return U[:, tolerance < S].float()
