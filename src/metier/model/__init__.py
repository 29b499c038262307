"""Bases, changes, specialists: generation and scoring in batches."""

from metier.model.base import Base
from metier.model.change import ActivationChange, Change, InputChange, OutputChange, WeightChange
from metier.model.loading import load_base
from metier.model.specialist import Answer, Specialist

__all__ = [
    "ActivationChange", "Answer", "Base", "Change", "InputChange", "OutputChange", "Specialist", "WeightChange", "load_base",
]  # fmt: skip
