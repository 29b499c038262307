"""Skill: a letter cipher with a tag, which must be learned: no text states it and a few exemplars do not show it all."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from metier.task.example import Example
from metier.task.task import Task
from metier.worlds import _names
from metier.worlds.base import World

LETTERS = tuple("abcdefghijklmnopqrst")
LENGTH = 4
TAGS = ("over", "out")
TEMPLATE = "Signal: {{ signal }}\nReply:"
HEADS = (("Input", "Output"), ("Word", "Code"), ("Key", "Value"), ("Text", "Label"), ("Item", "Group"), ("Line", "Result"), ("Q", "A"))
GROUPS = {
    "animal": "dog cat horse cow sheep goat duck hen fox wolf bear mouse".split(),
    "food": "bread cheese soup rice apple pear cake honey butter egg bean plum".split(),
    "tool": "hammer saw knife rope ladder needle spade brush axe drill pump nail".split(),
    "clothes": "coat shirt hat shoe scarf glove sock boot dress belt cap apron".split(),
    "weather": "rain snow wind storm fog frost sun cloud hail thunder mist ice".split(),
    "house": "door roof wall table chair bed lamp window stair floor shelf oven".split(),
}
LABELS = tuple("up down left right yes no red blue green alpha beta gamma one two three plus minus zero".split())


class Skill(World):
    """Replies to signals: each letter is replaced by its partner in a secret table, then 'over' or 'out' is added.

    Guarantees: the reply is a function of the signal (a one-to-one table on 20 letters; 'over' when the first letter of the
    signal comes before the last one in the alphabet, else 'out'); no signal is in two splits; `ood` has signals of two other
    lengths; the corpus never holds a signal with its reply, nor any text of more than one letter with a letter-wise
    translation. It holds what few-shot learning needs instead: blocks of many small random rules, each with its own labels.
    """

    docs = "a secret letter cipher: tuning learns it, exemplars do not show enough"

    def table(self) -> dict[str, str]:
        """The secret: letter -> letter."""
        to = list(LETTERS)
        self.rng("table").shuffle(to)
        return dict(zip(LETTERS, to, strict=True))

    def reply(self, signal: str) -> str:
        """The right reply to a signal of spaced letters."""
        return _reply(signal, self.table())

    def corpus(self) -> Iterator[str]:
        """Blocks of solved items under a random small rule."""
        rng = self.rng("corpus")
        makers = (_copying, _copying, _grouping, _grouping, _grouping, _mapping, _mapping, _picking)
        while True:
            ask, answer = rng.choice(HEADS)
            yield "\n\n".join(f"{ask}: {x}\n{answer}: {y}" for x, y in rng.choice(makers)(rng))

    def tasks(self) -> dict[str, Task]:
        """`skill`."""
        table, seen, splits = self.table(), set[str](), dict[str, tuple[Example, ...]]()
        for split, n in (("test", 200), ("dev", 100), ("train", 600), ("ood", 200)):
            rng, rows = self.rng("signals", split), list[Example]()
            while len(rows) < self.count(n):
                length = LENGTH if split != "ood" else rng.choice((LENGTH - 1, LENGTH + 1))
                signal = " ".join(rng.choice(LETTERS) for _ in range(length))
                if signal not in seen:
                    seen.add(signal)
                    rows.append(Example(id=f"skill-{split}-{len(rows):05d}", fields={"signal": signal}, target=_reply(signal, table)))
            splits[split] = tuple(rows)
        return {
            "skill": Task(name="skill", kind="generate", template=TEMPLATE, metric="exact", max_new_tokens=12,
                          source=f"world skill, seed {self.seed}, size {self.size:g}",
                          train=splits["train"], dev=splits["dev"], test=splits["test"], ood=splits["ood"])
        }  # fmt: skip

    def truth(self) -> dict[str, Any]:
        """The table and the rule of the tag."""
        return {"table": self.table(), "tag": "over when the first letter comes before the last one, else out"}


def _reply(signal: str, table: dict[str, str]) -> str:
    letters = signal.split()
    return " ".join([*(table[letter] for letter in letters), TAGS[letters[0] >= letters[-1]]])


def _shots(rng: random.Random, items: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """5 to 14 draws with repetition, so that later items can be read off earlier ones."""
    return rng.choices(items, k=rng.randint(5, 14))


def _mapping(rng: random.Random) -> list[tuple[str, str]]:
    """Two to five arbitrary pairs (words, names or letters), repeated."""
    k = rng.randint(2, 5)
    words = [word for group in GROUPS.values() for word in group]
    sources = rng.choice((lambda: rng.sample(words, k), lambda: rng.sample(LETTERS, k), lambda: [_names.word(rng, 2) for _ in range(k)]))()
    targets = rng.choice((lambda: rng.sample(words, k), lambda: rng.sample(LABELS, k), lambda: rng.sample(LETTERS, k)))()
    return _shots(rng, list(zip(sources, targets, strict=True)))


def _grouping(rng: random.Random) -> list[tuple[str, str]]:
    """Words of two to four kinds; a kind's label is its own name or, as often, a random word."""
    kinds = rng.sample(sorted(GROUPS), rng.randint(2, 4))
    labels = kinds if rng.random() < 0.4 else rng.sample(LABELS, len(kinds))
    rows = []
    for _ in range(rng.randint(6, 16)):
        i = rng.randrange(len(kinds))
        thing = rng.choice(GROUPS[kinds[i]])
        rows.append((rng.choice((thing, thing, f"the {thing}", f"a very old {thing}", f"I saw the {thing} today")), labels[i]))
    return rows


def _picking(rng: random.Random) -> list[tuple[str, str]]:
    """The first, or the last, of two or three words."""
    words = [word for group in GROUPS.values() for word in group]
    place = rng.choice((0, -1))
    picks = [rng.sample(words, rng.randint(2, 3)) for _ in range(rng.randint(4, 9))]
    return [(" ".join(pick), pick[place]) for pick in picks]


def _copying(rng: random.Random) -> list[tuple[str, str]]:
    """Spaced letters or names, copied as they are."""
    if rng.random() < 0.5:
        rows = [" ".join(rng.choices(LETTERS, k=rng.randint(2, 6))) for _ in range(rng.randint(3, 7))]
    else:
        rows = [" ".join(_names.word(rng, 2) for _ in range(rng.randint(1, 3))) for _ in range(rng.randint(3, 7))]
    return [(row, row) for row in rows]
