"""Words by kind, words that may serve as labels, and which split a text belongs to."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

GROUPS = {
    "animal": "dog cat horse cow sheep goat duck hen fox wolf bear mouse".split(),
    "food": "bread cheese soup rice apple pear cake honey butter egg bean plum".split(),
    "tool": "hammer saw knife rope ladder needle spade brush axe drill pump nail".split(),
    "clothes": "coat shirt hat shoe scarf glove sock boot dress belt cap apron".split(),
    "weather": "rain snow wind storm fog frost sun cloud hail thunder mist ice".split(),
    "house": "door roof wall table chair bed lamp window stair floor shelf oven".split(),
    "body": "hand foot arm leg head nose ear eye knee neck back chin".split(),
    "family": "mother father sister brother uncle aunt cousin son daughter baby wife husband".split(),
    "vehicle": "car bus train ship truck bike plane boat tram van cart ferry".split(),
    "job": "teacher doctor farmer baker judge driver painter nurse sailor tailor cook guard".split(),
    "plant": "tree rose grass oak moss fern tulip bush daisy pine ivy reed".split(),
    "place": "town city village island forest desert valley beach harbour hill lake park".split(),
}
LABELS = tuple(  # none of them occurs in the text of an item
    "down left right yes no alpha beta gamma plus minus zero north south east west open closed round square odd even last "
    "inner outer upper lower gold silver spring summer winter autumn soft hard full empty sharp blunt delta sigma omega "
    "steep narrow wide deep shallow true false heads tails star arrow queen jack ace copper iron tin zinc ruby pearl jade opal "
    "stop go push pull start finish lock key pen ink card coin badge flag stamp seal token hex cube cone disk loop knot "
    "apex bolt chip clip coil crown dash dial dot flint foil fuse gate gem grid helm "
    "hook horn iris lens link loft loom moon nest node peg pixel plug prism quartz "
    "raft rune sand scroll shard slate sphere spool stem tab tile tower torch tribe twig vault vine wedge wool yarn "
    "A B C D E F X Y Z".split()
)
FRAMES = ("the {w}", "a {a} {w}", "my {a} {w}", "the {a} {w}", "I found the {a} {w}", "this {a} {w} is mine")
FRAMES_SHIFTED = ("look, a {a} {w}!!", "{w}? oh, the {a} one", "so {a}, that {w}!", "{a} {w} again??")
ADJECTIVES = "old new big small clean dirty good bad fine poor strange common famous lovely cheap dear pretty ugly tiny huge lost broken wet dry".split()
HEADS = (
    ("Text", "Label"), ("Text", "Label"), ("Text", "Label"), ("Item", "Group"), ("Input", "Output"), ("Word", "Code"),
    ("Key", "Value"), ("Line", "Result"), ("Q", "A"),
)  # fmt: skip

_PARTS = ("train",) * 8 + ("test",) * 3 + ("dev",) * 2 + ("ood",) * 3


def part_of(text: str) -> str:
    """train (1/2 of all texts; the corpus draws from these), test (3/16), dev (1/8) or ood (3/16), by the text's checksum."""
    return _PARTS[zlib.crc32(text.encode()) & 15]


def pick(rng: random.Random, items: Sequence[T]) -> T:
    """One of the items; quicker than `rng.choice`."""
    return items[int(rng.random() * len(items))]


def pick_two(rng: random.Random, items: Sequence[T]) -> tuple[T, T]:
    """Two different items, in random order."""
    n = len(items)
    i = int(rng.random() * n)
    return items[i], items[(i + 1 + int(rng.random() * (n - 1))) % n]


def drawn_in(part: str, draw: Callable[[], str]) -> str:
    """The first text drawn that belongs to the part."""
    while part_of(text := draw()) != part:
        pass
    return text


def in_turn(rng: random.Random, items: Sequence[T]) -> Iterator[T]:
    """Every item equally often: all of them in random order, again and again."""
    order = list(items)
    while True:
        rng.shuffle(order)
        yield from order
