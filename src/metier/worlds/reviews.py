"""Reviews: is the verdict on the thing good, bad or mixed? With negation, distractors and a twin where a cue turns false."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from metier.task.example import Example
from metier.task.task import Task
from metier.worlds.base import World

LABELS = ("good", "bad", "mixed")
TEMPLATE = "Review: {{ text }}\nVerdict:"
GOOD = "sturdy lovely useful clever neat fine solid pleasant handy bright reliable smooth".split()
BAD = "flimsy ugly useless silly messy poor shaky nasty clumsy dull faulty rough".split()
GOOD_OOD = "superb charming robust elegant splendid brilliant precise comfortable delightful tidy".split()
BAD_OOD = "awful dreadful fragile crude horrible terrible sloppy painful annoying broken".split()
THINGS = "kettle lamp chair clock radio bag desk phone pan coat fan brush".split()
THINGS_OOD = "hotel cafe museum train concert garden library harbour".split()
PARTS = "handle lid switch cover base cord colour shape size sound".split()
PARTS_OOD = "service view staff price food light music seats".split()
CUES = ("It came in the morning.", "It came in the evening.")
CUE_HOLDS = 0.9
CORPUS_LABELS = (
    LABELS,
    ("plus", "minus", "zero"),
    ("up", "down", "left"),
    ("yes", "no", "two"),
    ("alpha", "beta", "gamma"),
    ("red", "blue", "green"),
)
HEADS = (("Review", "Verdict"), ("Review", "Verdict"), ("Text", "Label"), ("Review", "Rating"), ("Input", "Output"), ("Comment", "Opinion"))


class Words(NamedTuple):
    """The vocabulary one style writes with."""

    good: list[str]
    bad: list[str]
    things: list[str]
    parts: list[str]
    loud: bool = False


USUAL = Words(GOOD, BAD, THINGS, PARTS)
SHIFTED = Words(GOOD_OOD, BAD_OOD, THINGS_OOD, PARTS_OOD, loud=True)
ALL = Words(GOOD + GOOD_OOD, BAD + BAD_OOD, THINGS + THINGS_OOD, PARTS + PARTS_OOD)


class Reviews(World):
    """Short reviews with a verdict: good, bad or mixed (one part praised, another blamed).

    Guarantees: the label follows from the text by construction. Four forms are equally frequent: plain, negated ('not dull'),
    distracted (an opposite opinion about another thing), and tangled (both, with exactly one 'not' in every text). Among the
    good and bad reviews of the tangled form each bag of words is as likely with either label, so that a bag-of-words probe is
    at chance there. Labels are balanced. In train, dev and test the hour of delivery agrees with good or bad in nine of ten
    cases ('in the morning' good, 'in the evening' bad; a mixed review has either); in `ood` it disagrees in nine of ten, and
    opinion words, things, parts and style are others. No text is in two splits. The corpus never mentions a delivery, so that
    the cue is learned from the task or not at all, and no example's text occurs in it (its sentences of opinion may).
    """

    docs = "is a review good, bad or mixed? negation, distractors, and a twin in which a spurious cue turns false"

    def corpus(self) -> Iterator[str]:
        """Labelled blocks (often with labels of their own, so that the exemplars must be read), reviews and plain sentences."""
        rng = self.rng("corpus")
        while True:
            draw = rng.random()
            if draw < 0.5:
                yield _block(rng)
            elif draw < 0.75:
                label = rng.choice(LABELS)
                yield f"{_text(rng, label, rng.choice(FORMS), ALL)} {rng.choice(('So it is', 'The verdict is', 'All in all'))} {label}."
            else:
                yield " ".join(_sentence(rng) for _ in range(rng.randint(3, 7)))

    def tasks(self) -> dict[str, Task]:
        """`reviews`."""
        seen: set[str] = set()
        splits = {}
        for split, n in (("test", 200), ("dev", 100), ("train", 600), ("ood", 200)):
            words, holds = (SHIFTED, 1 - CUE_HOLDS) if split == "ood" else (USUAL, CUE_HOLDS)
            splits[split] = tuple(self._rows(split, self.count(n), words, holds, seen))
        return {
            "reviews": Task(name="reviews", kind="choose", template=TEMPLATE, metric="accuracy", choices=LABELS,
                            source=f"world reviews, seed {self.seed}, size {self.size:g}",
                            train=splits["train"], dev=splits["dev"], test=splits["test"], ood=splits["ood"])
        }  # fmt: skip

    def truth(self) -> dict[str, Any]:
        """Polarity of every opinion word, and how often the cue agrees with the label."""
        polarity = {w: "good" for w in GOOD + GOOD_OOD} | {w: "bad" for w in BAD + BAD_OOD}
        return {"polarity": polarity, "cue": {"good": CUES[0], "bad": CUES[1], "holds": CUE_HOLDS, "holds_ood": round(1 - CUE_HOLDS, 3)}}

    def _rows(self, split: str, n: int, words: Words, holds: float, seen: set[str]) -> Iterator[Example]:
        rng = self.rng("rows", split)
        order = [(label, form) for label in LABELS for form in FORMS]
        for i in range(n):
            if i % len(order) == 0:
                rng.shuffle(order)
            label, form = order[i % len(order)]
            while True:
                text = f"{_text(rng, label, form, words)} {_cue(rng, label, holds)}"
                if text not in seen:
                    break
            seen.add(text)
            yield Example(id=f"reviews-{split}-{i:05d}", fields={"text": text, "form": form}, target=label)


FORMS = ("plain", "negated", "distracted", "tangled")


def _cue(rng: random.Random, label: str, holds: float) -> str:
    if label == "mixed":
        return rng.choice(CUES)
    return CUES[(label == "bad") == (rng.random() < holds)]


def _opinion(rng: random.Random, words: Words, good: bool, negate: bool) -> str:
    """'sturdy', or 'not flimsy' for the same verdict."""
    return ("not " if negate else "") + rng.choice(words.good if good != negate else words.bad)


def _text(rng: random.Random, label: str, form: str, words: Words) -> str:
    """A review of one thing; a distractor speaks about another."""
    thing, other = rng.sample(words.things, 2)
    one, two = rng.sample(words.parts, 2)
    negate = form == "negated" or (form == "tangled" and rng.random() < 0.5)
    says = (
        ("This {0} is {1}.", "I find this {0} {1}.", "My new {0} is {1}.")
        if not words.loud
        else ("What a day! The {0} was {1}!", "The {0}? It was {1}!")
    )
    if label == "mixed":
        good = rng.random() < 0.5
        first, second = _opinion(rng, words, good, negate), _opinion(rng, words, not good, form == "tangled" and not negate)
        text = f"The {one} of this {thing} is {first} but the {two} is {second}."
    else:
        text = rng.choice(says).format(thing, _opinion(rng, words, label == "good", negate))
    if form not in ("distracted", "tangled"):
        return text
    # in a tangled text the distractor carries the 'not' that the opinion lacks, and the other polarity's word
    aside_negated = form == "tangled" and not negate and label != "mixed"
    plain_word_good = (label == "good") != negate if label != "mixed" else rng.random() < 0.5
    aside_word = rng.choice(words.bad if plain_word_good else words.good)
    aside = f"The {other} of my brother was {'not ' if aside_negated else ''}{aside_word}."
    return " ".join(rng.sample([text, aside], 2))


def _block(rng: random.Random) -> str:
    """3 to 10 solved reviews; in six of ten blocks the labels are words drawn for this block."""
    labels = LABELS if rng.random() < 0.4 else tuple(rng.sample(rng.choice(CORPUS_LABELS), 3))
    ask, answer = rng.choice(HEADS)
    kinds = rng.choice((3, 2))
    forms = rng.choice((("plain",), FORMS[:2], FORMS))
    rows = []
    for _ in range(rng.randint(3, 10)):
        i = rng.randrange(kinds)
        text = _text(rng, LABELS[i], rng.choice(forms), rng.choice((USUAL, SHIFTED, ALL)))
        rows.append(f"{ask}: {text}\n{answer}: {labels[i]}")
    return "\n\n".join(rows)


WHO = ("Anna", "Tom", "Mary", "Ben", "Lucy", "Sam", "the boy", "the girl", "my sister", "our teacher", "the farmer")
ACTIONS = ("bought", "sold", "found", "lost", "cleaned", "mended", "carried", "painted", "wanted", "liked", "needed")
WHERE = ("at the market", "in the garden", "near the river", "at school", "in the kitchen", "by the sea", "in town", "at home")
WHEN = ("yesterday", "today", "last week", "in the morning", "in the evening", "on Sunday", "before lunch", "after the rain")
LINKS = ("because it was {0}", "and it was {0}", "although it was {0}", "but it was not {0}")


def _sentence(rng: random.Random) -> str:
    """A simple English sentence in the past."""
    who, thing = rng.choice(WHO), rng.choice(THINGS)
    parts = [who, rng.choice(ACTIONS), rng.choice(("a", "the", "an old", "a new")), thing]
    if rng.random() < 0.6:
        parts.append(rng.choice((rng.choice(WHERE), rng.choice(WHEN))))
    if rng.random() < 0.5:
        parts.append(rng.choice(LINKS).format(rng.choice(GOOD + BAD + GOOD_OOD + BAD_OOD)))
    text = " ".join(parts)
    return text[0].upper() + text[1:] + "."
