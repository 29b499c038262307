"""Indexes: passages of documents, lexical and dense scores, and rankings fused. Ties go to the passage that comes first by id."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from metier.task import Document
from metier.task.lexical import ALONE

_WORD = re.compile(rf"[{ALONE}]|[^\s{ALONE}]+")


@dataclass(frozen=True, slots=True)
class Passage:
    """Some words of a document; `part` counts its passages from 0. Its text begins with the document's title."""

    document: str
    part: int
    text: str


def passages(documents: Iterable[Document], *, words: int, overlap: int) -> list[Passage]:
    """Documents cut into passages of at most `words` words, each sharing `overlap` words with the one before; sorted by id.

    White space inside a passage stays as it is. A Chinese or Japanese character counts as a word. Raises ValueError where
    `overlap` is not smaller than `words`.
    """
    if not 0 <= overlap < words:
        raise ValueError(f"passages: overlap must be at least 0 and less than words; got {overlap} and {words}.")
    made = []
    for document in documents:
        spans = [m.span() for m in _WORD.finditer(document.text)]
        starts = range(0, max(1, len(spans) - overlap), words - overlap)
        for part, start in enumerate(starts if spans else ()):
            held = spans[start : start + words]
            text = document.text[held[0][0] : held[-1][1]]
            made.append(Passage(document.id, part, f"{document.title}: {text}" if document.title else text))
    return sorted(made, key=lambda p: (p.document, p.part))


def ranking(scores: Tensor, *, above: float = -math.inf) -> list[int]:
    """Positions of the scores greater than `above`, best first; equal scores in their order."""
    order = scores.argsort(descending=True, stable=True)
    return order[scores[order] > above].tolist()


def fuse(rankings: Sequence[Sequence[int]], *, k: int = 60) -> list[int]:
    """Reciprocal rank fusion (Cormack et al. 2009): by sum over rankings of 1 / (k + rank), ranks from 1; ties by position."""
    total: dict[int, float] = {}
    for ranked in rankings:
        for rank, item in enumerate(ranked, 1):
            total[item] = total.get(item, 0.0) + 1.0 / (k + rank)
    return sorted(total, key=lambda item: (-total[item], item))
