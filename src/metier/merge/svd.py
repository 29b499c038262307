"""SVD: of every matrix's change, keep the strongest directions, as two factors.

Paper:       Ryu et al. 2023, arXiv:2305.18425 (the low-rank part of Efficient Residual Encoding); Eckart and Young 1936: nearest in squares.
Formula:     D = U diag(s) V^T, s descending; D' = (U_r sqrt(s_r)) (sqrt(s_r) V_r^T), the first r parts.
Shapes:      every matrix (out, in); its factors (out, r) and (r, in). Vectors and tensors that the base does not have stay as they are.
Units:       rank, a count.
Randomness:  none.
Cost:        one decomposition of each matrix, which is in memory as a whole; rank * (out + in) float32 numbers for each are stored.
Deviations:  the factors are not quantised, and one rank holds for all matrices (the paper also has ranks by layer); a change of lower rank
             keeps its own. A rank beyond out * in / (out + in) takes more bytes than the matrix itself. Embeddings count as matrices.
Errors:      UserError where rank is not at least 1, or no matrix of the delta changes.

    >>> import torch
    >>> from metier.delta import Delta, Dense
    >>> [round(x, 4) for x in compressed(Delta({"w": Dense(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))}), 1)["w"].dense().flatten().tolist()]
    [3.0, 0.0, 0.0, 0.0]
"""

from __future__ import annotations

from dataclasses import dataclass

from metier import check
from metier.delta import Delta
from metier.errors import UserError
from metier.merge._convert import to_lora
from metier.merge._experts import opened_expert
from metier.method import About
from metier.model import Specialist, WeightChange
from metier.task import Task
from metier.train import Run

ABOUT = About(place="weights", reads=("experts",), experts=(1, 1), search={"rank": (4, 16, 64)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of compression by SVD."""

    experts: tuple[str, ...]
    """The one expert whose change is compressed: folder of a delta, specialist, PEFT adapter or full checkpoint."""
    rank: int = 16
    """How many directions of every matrix's change are kept."""

    def __post_init__(self) -> None:
        if len(self.experts) != 1:
            raise UserError(f"experts: svd compresses exactly one expert; got {len(self.experts)}.")
        check.integer("rank", self.rank, low=1)


def svd(start: Specialist, task: Task, settings: Settings, run: Run) -> WeightChange:
    """Shrink an expert's change to two factors a matrix."""
    expert = opened_expert(settings.experts[0], start.base)
    return WeightChange(compressed(expert.delta, settings.rank), expert.labels)


def compressed(delta: Delta, rank: int | None = None, *, energy: float | None = None) -> Delta:
    """The matrices' changes as factors of rank `rank`, or of the lowest rank with the fraction `energy` of the squared norm."""
    return to_lora(delta, rank, energy=energy)
