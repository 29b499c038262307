"""Invented names. Every name falls on one of three sides by its own checksum, so names of different sides never meet."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable

ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "kr", "tr", "st", "sh")
VOWELS = ("a", "e", "i", "o", "u")
CODAS = ("", "", "", "n", "r", "l", "s", "m", "k")
FIRM_ENDS = ("Works", "Mills", "Press", "Foods", "Tools", "Trading", "Brothers", "Group")
SIDES = {"known": (0,), "document": (1,), "fresh": (2, 3, 4, 5, 6, 7)}


def side(name: str) -> str:
    """'known' (frequent or once-seen entities), 'document' (only in task documents) or 'fresh' (corpus reading practice)."""
    rest = zlib.crc32(name.split(" ")[-1 if " " in name and name.split(" ")[1] not in FIRM_ENDS else 0].encode()) % 8
    return next(key for key, values in SIDES.items() if rest in values)


def word(rng: random.Random, syllables: int) -> str:
    """A capitalised invented word."""
    parts = [rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(syllables)]
    return ("".join(parts) + rng.choice(CODAS)).capitalize()


def on_side(rng: random.Random, wanted: str, make: Callable[[random.Random], str]) -> str:
    """The first drawn name that falls on the wanted side."""
    while True:
        name = make(rng)
        if side(name) == wanted:
            return name


def place(rng: random.Random) -> str:
    """A town, for example 'Tasokin'."""
    return word(rng, rng.choice((2, 3)))


def person(rng: random.Random) -> str:
    """First and last name; the last name decides the side."""
    return f"{word(rng, 2)} {word(rng, rng.choice((2, 3)))}"


def firm(rng: random.Random) -> str:
    """A firm, for example 'Zarel Mills'; its first word decides the side."""
    return f"{word(rng, rng.choice((2, 3)))} {rng.choice(FIRM_ENDS)}"


def product(rng: random.Random) -> str:
    """A product's name, one word."""
    return word(rng, rng.choice((2, 3)))


MAKERS: dict[str, Callable[[random.Random], str]] = {"place": place, "person": person, "firm": firm, "product": product, "river": place}
