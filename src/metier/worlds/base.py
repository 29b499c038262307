"""World: a generated place whose truth is known: text to pretrain on, tasks to specialise to, and the facts behind them."""

from __future__ import annotations

import abc
import random
from collections.abc import Iterator
from typing import Any

from metier import check
from metier.task.task import Task


class World(abc.ABC):
    """One generated world; the same seed gives the same bytes on every machine and under every hash seed.

    `size` scales the number of examples (1.0: about 600 train, 100 dev, 200 test), never what the world's facts and
    rules are: a small world asks fewer questions about the same truth. The embedded bases were pretrained on seed 0.
    """

    docs: str = ""  # one line for listings

    def __init__(self, seed: int = 0, size: float = 1.0) -> None:
        self.seed = check.integer("seed", seed, low=0)
        self.size = check.number("size", size, above=0, high=100)

    @abc.abstractmethod
    def corpus(self) -> Iterator[str]:
        """Documents to pretrain on, without end: take as many as needed (`itertools.islice`). Test items never occur in it."""

    @abc.abstractmethod
    def tasks(self) -> dict[str, Task]:
        """The world's tasks by name."""

    @abc.abstractmethod
    def truth(self) -> dict[str, Any]:
        """What is true in this world, as JSON-able values: the answer sheet."""

    def rng(self, *key: object) -> random.Random:
        """A generator of its own for each purpose: drawing more of one thing never moves another."""
        return random.Random(":".join(map(str, (type(self).__name__, self.seed, *key))))

    def count(self, n: int) -> int:
        """`n` scaled by the world's size, at least 1."""
        return max(1, round(n * self.size))
