"""Replies of known quality: requests with one right answer, replies made to be good or bad in four ways, and a judge that reads them."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable
from typing import NamedTuple

from metier.errors import UserError
from metier.worlds._classification_words import GROUPS, part_of, pick, pick_two

WEIGHTS = {"correct": 4, "format": 2, "polite": 1, "brief": 1}
DIMENSIONS = tuple(WEIGHTS)
LIMIT = 13  # words of a brief reply, at most
OPPOSITES = tuple(
    pair.split("/")
    for pair in (
        "hot/cold big/small old/new fast/slow high/low wet/dry hard/soft full/empty long/short light/heavy "
        "open/closed happy/sad rich/poor early/late clean/dirty loud/quiet thick/thin near/far strong/weak warm/cool"
    ).split()
)
COLOURS = "red blue green yellow black white brown pink".split()
FORMATS = {"capitals": "Write capitals.", "brackets": "Write [ ] around it.", "done": "End with done."}
COURTESIES = ("With pleasure.", "Gladly.", "Thank you for asking.")
RUDENESSES = ("What a silly question.", "Do not bother me.", "Look it up yourself.")
WORDINGS = ("{}", "It is {}", "The answer is {}", "I think that the answer is {}")  # in order of length
FLOURISH = "indeed,"
RAMBLING = "and now let me go on about it for a while longer"

_WORTH = {
    dimensions: sum(w for w, good in zip(WEIGHTS.values(), dimensions, strict=True) if good) / sum(WEIGHTS.values())
    for dimensions in itertools.product((False, True), repeat=len(WEIGHTS))
}
UNEQUAL = tuple((one, two) for one in _WORTH for two in _WORTH if _WORTH[one] > _WORTH[two])  # dimensions of a better and a worse reply
_OPPOSITE = {a: b for pair in OPPOSITES for a, b in (pair, pair[::-1])}
_THINGS = tuple(word for name in ("animal", "tool", "clothes") for word in GROUPS[name])


class Request(NamedTuple):
    """What is asked, in which format, with the right answer and a wrong one of the same sort."""

    text: str
    format: str
    right: str
    wrong: str


class Reply(NamedTuple):
    """A reply as it was made; `quality` is what its dimensions are worth, in [0, 1]."""

    text: str
    dimensions: tuple[bool, ...]
    flourish: bool

    @property
    def quality(self) -> float:
        """Weighted share of the dimensions in which it is good."""
        return worth(self.dimensions)

    @property
    def length(self) -> int:
        """Words."""
        return self.text.count(" ") + 1


def worth(dimensions: tuple[bool, ...]) -> float:
    """Weighted share of the dimensions that hold, in [0, 1]."""
    return _WORTH[dimensions]


def request(rng: random.Random, part: str) -> Request:
    """A request of the part, of one of five kinds, in one of three formats (digits have no capitals)."""
    while True:
        asked = pick(rng, _ASKED)(rng)
        form = pick(rng, tuple(FORMATS) if not asked[-2].isdigit() else ("brackets", "done"))
        if part_of(text := f"{asked} {FORMATS[form]}") == part:
            return read(text)


def read(text: str) -> Request:
    """What a request's text asks for. Raises UserError where the text is not one of this world's."""
    for form, said in FORMATS.items():
        for pattern, solve in _PATTERNS:
            if text.endswith(said) and (found := pattern.fullmatch(text.removesuffix(said).rstrip())):
                return Request(text, form, *solve(*found.groups()))
    raise UserError(f"preferences: only requests of this world can be judged; got {text[:80]!r}. Take the field 'request' of an example.")


def reply(rng: random.Random, asked: Request, dimensions: tuple[bool, ...], flourish: bool) -> Reply:
    """A reply that is good in exactly the dimensions said; its wording is free."""
    correct, formatted, polite, brief = dimensions
    parts = [pick(rng, COURTESIES if polite else RUDENESSES), *([FLOURISH] if flourish else [])]
    parts.append(pick(rng, WORDINGS).format(_written(asked.right if correct else asked.wrong, asked.format, formatted)))
    if not brief:
        parts.append(RAMBLING)
    if formatted and asked.format == "done":
        parts.append("done")
    return Reply(" ".join(parts), dimensions, flourish)


def best_replies(asked: Request) -> tuple[str, ...]:
    """All replies that are good in every dimension, those without a flourish first, the shorter first."""
    core, end = _written(asked.right, asked.format, True), " done" if asked.format == "done" else ""
    starts = [f"{courtesy}{flourish}" for flourish in ("", f" {FLOURISH}") for courtesy in COURTESIES]
    return tuple(f"{start} {wording.format(core)}{end}" for start in starts for wording in WORDINGS)


def judged(asked: Request, text: str) -> dict[str, bool]:
    """In which dimensions any text is good as a reply: read off the text, not remembered from its making.

    correct: the right answer stands in it and the wrong one does not; format: the answer is in capitals or brackets, or the
    text ends with 'done', as asked; polite: a courtesy and no rudeness; brief: at most thirteen words.
    """
    words = [w.strip("[].,!?") for w in text.split()]
    low = [w.lower() for w in words]
    formats = {
        "capitals": asked.right.upper() in words or asked.wrong.upper() in words,
        "brackets": f"[{asked.right}]" in text or f"[{asked.wrong}]" in text,
        "done": text.endswith(" done"),
    }
    return {
        "correct": asked.right in low and asked.wrong not in low,
        "format": formats[asked.format],
        "polite": any(c in text for c in COURTESIES) and not any(r in text for r in RUDENESSES),
        "brief": len(words) <= LIMIT,
    }


def stated(rng: random.Random) -> str:
    """A fact that requests ask about: an opposite, or a kind."""
    if rng.random() < 0.5:
        word = pick(rng, tuple(_OPPOSITE))
        return f"{word} is the opposite of {_OPPOSITE[word]}."
    kind = pick(rng, tuple(GROUPS))
    return f"{pick(rng, GROUPS[kind])} is of the kind {kind}."


def _written(answer: str, form: str, formatted: bool) -> str:
    if not formatted or form == "done":
        return answer
    return answer.upper() if form == "capitals" else f"[{answer}]"


def _ask_opposite(rng: random.Random) -> str:
    return f"What is the opposite of {pick(rng, tuple(_OPPOSITE))}?"


def _ask_colour(rng: random.Random) -> str:
    (one, two), (colour, other) = pick_two(rng, _THINGS), pick_two(rng, COLOURS)
    return f"The {one} is {colour}, the {two} is {other}. What colour is the {one if rng.random() < 0.5 else two}?"


def _ask_last(rng: random.Random) -> str:
    return f"Say the last word of this: {' '.join(rng.sample(_THINGS, 3))}."


def _ask_kind(rng: random.Random) -> str:
    one, two = pick_two(rng, tuple(GROUPS))
    return f"Is {pick(rng, GROUPS[one if rng.random() < 0.5 else two])} of the kind {one} or {two}?"


def _ask_more(rng: random.Random) -> str:
    first = int(rng.random() * 90) + 10
    return f"Which is more, {first} or {(first + int(rng.random() * 89) + 1 - 10) % 90 + 10}?"


def _solve_colour(one: str, colour: str, two: str, other: str, asked: str) -> tuple[str, str]:
    return (colour, other) if asked == one else (other, colour)


def _solve_kind(word: str, one: str, two: str) -> tuple[str, str]:
    return (one, two) if word in GROUPS[one] else (two, one)


def _solve_more(one: str, two: str) -> tuple[str, str]:
    return (one, two) if int(one) > int(two) else (two, one)


_ASKED = (_ask_opposite, _ask_colour, _ask_last, _ask_kind, _ask_more)
# text -> (right answer, wrong answer)
_PATTERNS: tuple[tuple[re.Pattern[str], Callable[..., tuple[str, str]]], ...] = (
    (re.compile(r"What is the opposite of (\w+)\?"), lambda word: (_OPPOSITE[word], word)),
    (re.compile(r"The (\w+) is (\w+), the (\w+) is (\w+)\. What colour is the (\w+)\?"), _solve_colour),
    (re.compile(r"Say the last word of this: (\w+) \w+ (\w+)\."), lambda first, last: (last, first)),
    (re.compile(r"Is (\w+) of the kind (\w+) or (\w+)\?"), _solve_kind),
    (re.compile(r"Which is more, (\d+) or (\d+)\?"), _solve_more),
)
