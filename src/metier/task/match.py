"""Comparing texts: SQuAD normalisation and token F1, ROUGE-L, and the number a text ends with."""

from __future__ import annotations

import re
import string
from collections import Counter
from fractions import Fraction

_PUNCTUATION = frozenset(string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WORD = re.compile(r"\w+")
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"(?<![\w.,])(?P<sign>[-−])?\s?[$€£]?(?:(?P<whole>\d+)[ ](?=\d+/\d))?(?P<top>{_DIGITS})(?:\s?/\s?(?P<bottom>[1-9]\d*)(?![\d.]))?"
    rf"|(?P<late>{_DIGITS})"
)


def normalise(text: str) -> str:
    """SQuAD's normalisation: lower case, no punctuation, no English articles, single spaces."""
    kept = "".join(c for c in text.lower() if c not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def token_f1(output: str, answer: str) -> float:
    """SQuAD's F1 over normalised tokens; 1 where both are empty."""
    mine, gold = normalise(output).split(), normalise(answer).split()
    if not mine or not gold:
        return float(mine == gold)
    common = sum((Counter(mine) & Counter(gold)).values())
    return 2 * common / (len(mine) + len(gold))


def rouge_l(output: str, answer: str) -> float:
    """ROUGE-L: F-measure of the longest common subsequence of lower-case words (no stemming)."""
    mine, gold = _WORD.findall(output.lower()), _WORD.findall(answer.lower())
    if not mine or not gold:
        return float(mine == gold)
    return 2 * _common_subsequence(mine, gold) / (len(mine) + len(gold))


def _common_subsequence(a: list[str], b: list[str]) -> int:
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


def answer_number(text: str) -> Fraction | None:
    """The number a text answers with: the first after its first '####' (GSM8K), else its last; None if there is none.

    Reads 1,000 and -2.5, $3, 3/4 and 1 3/4; a minus counts only where it does not join two things ('5-3' ends with 3).
    """
    before, mark, after = text.partition("####")
    tail = after if mark else before
    found = [n for match in _NUMBER.finditer(tail) if (n := _fraction(match)) is not None]
    if not found:
        return None
    return found[0] if mark else found[-1]


def same_number(a: Fraction, b: Fraction) -> bool:
    """Equal to one part in a million (so that 0.3333333 is 1/3)."""
    return abs(a - b) <= Fraction(1, 10**6) * max(Fraction(1), abs(b))


def is_number(text: str) -> bool:
    """Whether a target is a number: '12', '1,000.5', '34 (minutes)', '$3', '50%', or a solution ending in '#### n'."""
    if "####" in text:
        return answer_number(text) is not None
    bare = re.sub(r"\([^)]*\)\s*$", "", text).strip().rstrip("%.")
    return bool(_NUMBER.fullmatch(bare)) and answer_number(bare) is not None


def target_number(text: str) -> Fraction | None:
    """The number of a target; a unit in brackets after it does not count ('5 (1/2 cups)' is 5)."""
    return answer_number(re.sub(r"(?<=[\d%])\s*\([^)]*\)\s*$", "", text))


def _fraction(match: re.Match[str]) -> Fraction | None:
    if match["late"] is not None:
        return Fraction(match["late"].replace(",", ""))
    value = Fraction(match["top"].replace(",", ""))
    if match["bottom"] is not None:
        value /= Fraction(match["bottom"])
    if match["whole"] is not None:
        value += Fraction(match["whole"])
    return -value if match["sign"] else value
