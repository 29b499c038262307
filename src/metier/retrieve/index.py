"""Indexes: passages of documents, lexical and dense scores, and rankings fused. Ties go to the passage that comes first by id."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metier.task import Document

_ALONE = "぀-ヿ㐀-䶿一-鿿豈-﫿"  # kana and Han characters: written without spaces, so each counts as a word
_WORD = re.compile(rf"[{_ALONE}]|[^\s{_ALONE}]+")
_TERM = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+")
K1, B = 1.5, 0.75  # BM25's saturation and length correction: what Lucene's users and bm25s take


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


def terms(text: str) -> list[str]:
    """What BM25 matches: lower-case words of letters and digits, and single Chinese and Japanese characters."""
    return _TERM.findall(text.lower())


class Lexical:
    """BM25 over texts, by bm25s: sum over the query's terms of idf(t) tf / (tf + K1 (1 - B + B length / mean length)).

    idf(t) = ln(1 + (n - df + 1/2) / (df + 1/2)), as in Lucene; a term that the query repeats counts each time.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # its import sets DEBUG
        held = [terms(t) for t in texts]
        self.size, self.known = len(texts), {t for row in held for t in row}
        self.index = bm25s.BM25(k1=K1, b=B, method="lucene", backend="numpy")
        if self.known:
            self.index.index(held, show_progress=False)

    def scores(self, query: str) -> Tensor:
        """(texts,) float32; 0 where a text shares no term with the query."""
        asked = [t for t in terms(query) if t in self.known]
        return torch.from_numpy(self.index.get_scores(asked)) if asked else torch.zeros(self.size)


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
