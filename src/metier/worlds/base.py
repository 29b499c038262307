"""World: a generated place whose truth is known: text to pretrain on, tasks to specialise to, and the facts behind them."""

from __future__ import annotations

import abc
import dataclasses
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from metier import check
from metier.errors import UserError, nearest
from metier.task.example import Example
from metier.task.task import SPLITS, Task


@dataclasses.dataclass(frozen=True, slots=True)
class Sheet:
    """A task before its examples are drawn.

    task   how it is shown and scored; its splits are empty
    sizes  split -> how many examples it has in a world of size 1 (a split that is not named has none)
    rows   split -> its examples, one after the other; without end, or until there are no more
    """

    task: Task
    sizes: Mapping[str, int]
    rows: Callable[[str], Iterator[Example]]


class World(abc.ABC):
    """One generated world; the same seed gives the same bytes on every machine and under every hash seed.

    `size` scales the number of examples, never what the world's facts and rules are: a small world asks fewer questions
    about the same truth. The embedded bases were pretrained on seed 0.
    """

    docs: str = ""  # one line for listings

    def __init__(self, seed: int = 0, size: float = 1.0) -> None:
        self.seed = check.integer("seed", seed, low=0)
        self.size = check.number("size", size, above=0, high=1e6)

    @property
    def name(self) -> str:
        """As listings say it: the file's."""
        return type(self).__module__.rpartition(".")[2]

    @abc.abstractmethod
    def corpus(self, era: int = 0) -> Iterator[str]:
        """Documents to pretrain on, without end: take as many as needed (`itertools.islice`). Test items never occur in it.

        Era 0 is what the embedded bases read first; era 1 is later text of the same world (news, and more of the same)."""

    @abc.abstractmethod
    def sheets(self) -> dict[str, Sheet]:
        """The world's tasks by name, before their examples are drawn."""

    @abc.abstractmethod
    def truth(self) -> dict[str, Any]:
        """What is true in this world, as JSON-able values: the answer sheet."""

    def tools(self) -> Sequence[Mapping[str, Any]]:
        """Functions that may be called in this world, as JSON schemas; most worlds have none."""
        return ()

    def tasks(self) -> dict[str, Task]:
        """The world's tasks by name, their examples drawn."""
        return {name: self.task(name) for name in self.sheets()}

    def sheet(self, name: str) -> Sheet:
        """One task before its examples are drawn; an unknown name is answered with the nearest. A world may know more than it lists."""
        if name not in (known := self.sheets()):
            raise UserError(f"world {self.name}: no task {name!r}.{nearest(name, known)}")
        return known[name]

    def task(self, name: str) -> Task:
        """One task, its examples drawn."""
        sheet = self.sheet(name)
        splits: dict[str, Any] = {split: tuple(self.rows(sheet, split)) for split in sheet.sizes}
        return dataclasses.replace(sheet.task, source=self.source(), **splits)

    def rows(self, sheet: Sheet, split: str) -> Iterator[Example]:
        """The split's examples in a world of this size, drawn one at a time."""
        if check.one_of("split", split, SPLITS) not in sheet.sizes:
            return iter(())
        return itertools.islice(sheet.rows(split), self.count(sheet.sizes[split]))

    def source(self) -> str:
        """Where a task comes from, in words."""
        return f"world {self.name}, seed {self.seed}, size {self.size:g}"

    def rng(self, *key: object) -> random.Random:
        """A generator of its own for each purpose: drawing more of one thing never moves another."""
        return random.Random(":".join(map(str, (type(self).__name__, self.seed, *key))))

    def count(self, n: int) -> int:
        """`n` scaled by the world's size, at least 1."""
        return max(1, round(n * self.size))
