"""Tasks of ../shared/data that exist in more than one language, and plain text of those languages.

A word of a sentence is marked: which part of speech, or what kind of name, is it? The original tasks label every word.
"""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metier.task import Example, Task

DATA = Path(os.environ.get("METIER_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
LONGEST, DEV = 30, 40  # words of a sentence, examples of dev
SIZES = {"train": 2000, "dev": DEV, "test": 300}
Row = dict[str, Any]


class Pair(NamedTuple):
    """A task in the language that it is learnt in, the same in the other language, and that language's text."""

    name: str
    here: Task
    there: Task
    text: Task


def rows_of(name: str, split: str, **which: str) -> Iterator[Row]:
    """Rows of a split whose fields are as given, sentences of 4 to LONGEST words only."""
    with gzip.open(DATA / name / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = (r for r in map(json.loads, lines) if all(r[k] == v for k, v in which.items()))
        yield from (r for r in rows if "tokens" not in r or 4 <= len(r["tokens"]) <= LONGEST)


def choosing(name: str, make: Callable[[str], Iterable[Example]], fields: Sequence[str], choices: Sequence[str], template: str) -> Task:
    """A choice among labels, with at most SIZES examples a split; make: split -> examples."""
    splits = {split: tuple(e for e, _ in zip(make(split), range(count), strict=False)) for split, count in SIZES.items()}
    return Task(
        name=name, kind="choose", template=template, inputs=tuple(fields), metric="accuracy", choices=tuple(choices), **splits,  # type: ignore[arg-type]
    )  # fmt: skip


def marked(rows: Iterable[Row], label: Callable[[Row], list[str]]) -> Iterator[Example]:
    """One word of each sentence, drawn by the sentence's id: first a label that occurs, then a word that has it; '' is never drawn."""
    for row in rows:
        drawn, labels = random.Random(row["id"]), label(row)
        if not any(labels):
            continue
        asked = drawn.choice(sorted({x for x in labels if x}))
        at, words = drawn.choice([i for i, x in enumerate(labels) if x == asked]), row["tokens"]
        said = " ".join([*words[:at], "*", words[at], "*", *words[at + 1 :]])
        yield Example(str(row["id"]), {"sentence": said, "word": words[at]}, asked)


def plain(name: str, sentences: Iterable[str]) -> Task:
    """Sentences as text to be read, each once, the first DEV of them for dev."""
    rows = tuple(Example(f"{name}-{i}", {}, text) for i, text in enumerate(dict.fromkeys(sentences)))
    return Task(name=f"text-{name}", kind="generate", template="", separator="", metric="chrf", train=rows[DEV:], dev=rows[:DEV])


def _spoken(name: str, split: str, **which: str) -> Iterator[str]:
    return (" ".join(r["tokens"]) for r in rows_of(name, split, **which))


def english() -> Task:
    """Plain English text."""
    return plain("english", _spoken("ud_en_lines", "train"))


def _upos(row: Row) -> list[str]:
    return ["" if tag == "PUNCT" else tag for tag in row["upos"]]


def _kind(row: Row) -> list[str]:
    return ["none" if tag == "O" else tag[2:] for tag in row["ner_tags"]]


def ud() -> Pair:
    """Parts of speech, English to Afrikaans."""
    banks = "ud_en_lines", "ud_af_afribooms"
    tags = sorted({t for b in banks for r in rows_of(b, "train") for t in _upos(r) if t})
    here, there = (
        choosing(f"pos-{b}", lambda s, b=b: marked(rows_of(b, s), _upos), ("sentence", "word"), tags, "{{ sentence }} {{ word }}")  # type: ignore[misc]
        for b in banks
    )
    return Pair("ud", here, there, plain("afrikaans", _spoken("ud_af_afribooms", "train")))


def masakhaner() -> Pair:
    """Kinds of names, Swahili to Hausa: there are no English ones here."""
    kinds = ("DATE", "LOC", "ORG", "PER", "none")

    def task(lang: str) -> Task:
        rows = lambda split: marked(rows_of("masakhaner2", split, lang=lang), _kind)  # noqa: E731
        return choosing(f"names-{lang}", rows, ("sentence", "word"), kinds, "{{ sentence }} {{ word }}")

    return Pair("masakhaner", task("swa"), task("hau"), plain("hausa", _spoken("masakhaner2", "train", lang="hau")))


def americasnli() -> Pair:
    """Entailment, English (SICK) to Quechua, whose text is that of the dev split: there is no other."""
    labels = ("contradiction", "entailment", "neutral")

    def task(name: str, **which: str) -> Task:
        def rows(split: str) -> Iterator[Example]:
            read = () if which and split == "train" else rows_of(name, split, **which)
            return (Example(r["id"], {k: r[k] for k in ("premise", "hypothesis")}, r["label"]) for r in read)

        return choosing("-".join([name, *which.values()]), rows, ("premise", "hypothesis"), labels, "{{ premise }} [SEP] {{ hypothesis }}")

    said = (r[k] for r in rows_of("americasnli", "dev", lang="quy") for k in ("premise", "hypothesis"))
    return Pair("americasnli", task("sick"), task("americasnli", lang="quy"), plain("quechua", said))


PAIRS = {"ud": ud, "masakhaner": masakhaner, "americasnli": americasnli}
