"""The algebra of weight changes."""

from metier.delta.delta import Delta, Dense, LowRank, New, Sparse, diff
from metier.delta.file import pack, unpack

__all__ = ["Delta", "Dense", "LowRank", "New", "Sparse", "diff", "pack", "unpack"]
