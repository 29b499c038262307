"""Lexical likeness: BM25 over texts, for whoever looks things up by shared words."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Sequence

import numpy as np

ALONE = "぀-ヿ㐀-䶿一-鿿豈-﫿"  # kana and Han characters: written without spaces, so each counts as a word
_TERM = re.compile(rf"[{ALONE}]|[^\W{ALONE}]+")
K1, B = 1.5, 0.75  # BM25's saturation and length correction: what Lucene's users and bm25s take


def terms(text: str) -> list[str]:
    """What BM25 matches: lower-case words of letters and digits, and single Chinese and Japanese characters."""
    return _TERM.findall(text.lower())


@functools.lru_cache(maxsize=2)
def lexical(texts: tuple[str, ...]) -> Lexical:
    """`Lexical` of the texts; the last two are kept, so that a search over settings indexes a corpus once."""
    return Lexical(texts)


class Lexical:
    """BM25 over texts, by bm25s: sum over the query's terms of idf(t) tf / (tf + k1 (1 - b + b length / mean length)).

    idf(t) = ln(1 + (n - df + 1/2) / (df + 1/2)), as in Lucene; a term that the query repeats counts each time.
    """

    def __init__(self, texts: Sequence[str], *, k1: float = K1, b: float = B) -> None:
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # its import sets DEBUG
        held = [terms(t) for t in texts]
        self.size, self.known = len(texts), {t for row in held for t in row}
        self.index = bm25s.BM25(k1=k1, b=b, method="lucene", backend="numpy")
        if self.known:
            self.index.index(held, show_progress=False)

    def scores(self, query: str) -> np.ndarray:
        """(texts,) float32; 0 where a text shares no term with the query."""
        asked = [t for t in terms(query) if t in self.known]
        return self.index.get_scores(asked) if asked else np.zeros(self.size, dtype=np.float32)
