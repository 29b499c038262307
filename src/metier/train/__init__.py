"""The one training loop."""

from metier.train.loop import Fit, fit
from metier.train.run import Budget, Run, Spent
from metier.train.trainable import Trainable

__all__ = ["Budget", "Fit", "Run", "Spent", "Trainable", "fit"]
