"""The algebra of weight changes."""

from metier.delta.checkpoint import Checkpoint
from metier.delta.combine import merged
from metier.delta.delta import Delta, Lazy, added
from metier.delta.difference import diff, full
from metier.delta.entry import Entry, Seen
from metier.delta.execute import run
from metier.delta.file import load, pack, save, unpack
from metier.delta.kinds import Between, Dense, LowRank, New, Packed, Ref, Sparse
from metier.delta.transform import At, Merge, Transform, chain, elementwise, identity, masked, partition, per_tensor, transformed

__all__ = [
    "Delta", "Lazy", "added", "diff", "full", "Checkpoint",
    "Entry", "Dense", "Between", "Sparse", "LowRank", "Packed", "Ref", "Seen", "New",
    "At", "Merge", "Transform", "chain", "elementwise", "identity", "masked", "partition", "per_tensor", "transformed", "merged",
    "run", "save", "load", "pack", "unpack",
]  # fmt: skip
