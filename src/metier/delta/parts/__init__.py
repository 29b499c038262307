"""The parts that transforms and merges are made of, one file each."""

from metier.delta.parts.drop import drop
from metier.delta.parts.elect import elect_sign_mean
from metier.delta.parts.mask import mask
from metier.delta.parts.project import project
from metier.delta.parts.scale import by_depth, scale, scale_by
from metier.delta.parts.total import mean, total
from metier.delta.parts.trim import trim, trim_outliers
from metier.delta.parts.truncate import truncate

__all__ = [
    "by_depth", "drop", "elect_sign_mean", "mask", "mean", "project", "scale", "scale_by", "total", "trim", "trim_outliers", "truncate",
]  # fmt: skip
