"""Metrics: pure functions of records. Scores, calibration, flips and cost, each with its source.

Units: scores, probabilities, errors and rates in [0, 1]; likelihoods in nats; time in seconds. A metric that records
cannot answer (no probabilities were kept) is None, never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metier.evaluate.record import Record, align

Total = Callable[[Sequence[float]], float]  # corpus score from summed `stats`
RIGHT = 0.5  # a graded score from here on counts as right in flips


def score(records: Sequence[Record], total: Total | None = None) -> float:
    """Mean score; or, where a scorer has a corpus score and all records carry `stats`, `total` of the summed stats."""
    if not records:
        raise ValueError("score: no records.")
    stats = [r.stats for r in records if r.stats is not None]
    if total is not None and len(stats) == len(records):
        return float(total(np.sum(stats, axis=0).tolist()))
    return math.fsum(r.score for r in records) / len(records)


def ece(records: Sequence[Record], bins: int = 15) -> float | None:
    """Expected calibration error, equal-width bins: Σ_b n_b/n |mean score - mean confidence| (Guo et al. 2017, arXiv:1706.04599, eq. 3).

    A bin is (low, high], the first one closed. Graded scores take the place of correctness. None without confidences.
    """
    return _gap(reliability(records, bins))


def adaptive_ece(records: Sequence[Record], bins: int = 15) -> float | None:
    """Adaptive calibration error of the answered class: as `ece`, with bins of equal mass (Nixon et al. 2019, arXiv:1904.01685).

    Records are sorted by confidence (stably) and cut into `bins` parts whose sizes differ by at most one.
    """
    conf, right = _confidences(records)
    order = np.argsort(conf, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return sum(abs(float(right[p].mean() - conf[p].mean())) * len(p) for p in parts) / len(conf) if parts else None


def reliability(records: Sequence[Record], bins: int = 15) -> list[dict[str, float]]:
    """The table behind a reliability diagram: for each non-empty bin of confidence low, high, n, mean confidence, mean score."""
    conf, right = _confidences(records)
    place = np.digitize(conf, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    table = []
    for b in np.unique(place):
        here = place == b
        row = {"low": b / bins, "high": (b + 1) / bins, "n": int(here.sum())}
        table.append({**row, "confidence": float(conf[here].mean()), "score": float(right[here].mean())})
    return table


def brier(records: Sequence[Record]) -> float | None:
    """Multi-class Brier score in [0, 2]: mean of Σ_k (p_k - [k is the target])² (Brier 1950, Mon. Weather Rev. 78:1).

    A target that is not among the choices counts as no choice at all (every p_k is then error).
    """
    scored = [r for r in records if r.logprobs is not None and r.choices]
    if not scored:
        return None
    total = 0.0
    for r in scored:
        p, y = np.exp(np.asarray(r.logprobs)), np.array([choice == r.target for choice in r.choices or ()], float)
        total += float(((p - y) ** 2).sum())
    return total / len(scored)


def nll(records: Sequence[Record]) -> float | None:
    """Mean negative log-likelihood of the target among the choices, nats. Records whose target is no choice are left out."""
    losses = [-r.logprobs[r.choices.index(r.target)] for r in records if r.logprobs and r.choices and r.target in r.choices]
    return sum(losses) / len(losses) if losses else None


@dataclass(frozen=True, slots=True)
class Flips:
    """Answers that changed sides. Ids in the base's order; rates are shares of all n examples."""

    negative: list[str]
    positive: list[str]
    n: int
    negative_rate: float
    positive_rate: float
    negative_of_right: float | None  # share of what the base had right


def flips(base: Sequence[Record], new: Sequence[Record], right: float = RIGHT) -> Flips:
    """Negative flips: right before, wrong now; positive ones the other way (Yan et al. 2021, arXiv:2011.09161, 'negative flip rate').

    Right is score >= `right`. Raises ValueError where ids do not pair up.
    """
    pairs = align(base, new)
    if not pairs:
        raise ValueError("flips: no records.")
    negative = [b.example for b, c in pairs if b.score >= right > c.score]
    positive = [b.example for b, c in pairs if b.score < right <= c.score]
    had = sum(b.score >= right for b, _ in pairs)
    n = len(pairs)
    return Flips(negative, positive, n, len(negative) / n, len(positive) / n, len(negative) / had if had else None)


def tokens(records: Sequence[Record]) -> dict[str, float]:
    """Tokens read and written: totals, and means per answer."""
    read, written = sum(r.tokens_in for r in records), sum(r.tokens_out for r in records)
    n = max(len(records), 1)
    return {"in": read, "out": written, "in_per_answer": read / n, "out_per_answer": written / n}


def latency(records: Sequence[Record]) -> dict[str, float | None]:
    """Seconds per answer: mean, median, 95th percentile of each record's share of its batch."""
    seconds = np.array([r.seconds for r in records])
    if not len(seconds):
        return {"mean": None, "median": None, "p95": None}
    return {"mean": float(seconds.mean()), "median": float(np.median(seconds)), "p95": float(np.quantile(seconds, 0.95))}


def macro_f1(records: Sequence[Record]) -> float | None:
    """Unweighted mean F1 over the classes that occur as targets (a class never answered has F1 0). None where a target is no text."""
    if not records or not all(isinstance(r.target, str) for r in records):
        return None
    values = []
    for label in {r.target for r in records}:
        hit = sum(r.target == label == r.output for r in records)
        values.append(2 * hit / (sum(r.target == label for r in records) + sum(r.output == label for r in records)))
    return math.fsum(values) / len(values)


def summary(records: Sequence[Record], total: Total | None = None) -> dict[str, Any]:
    """Every metric here that needs one list of records, by name; macro F1 only where there are choices."""
    return {
        "n": len(records),
        "score": score(records, total),
        "macro_f1": macro_f1(records) if records and all(r.choices for r in records) else None,
        "ece": ece(records),
        "adaptive_ece": adaptive_ece(records),
        "brier": brier(records),
        "nll": nll(records),
        "n_confidence": sum(r.confidence is not None for r in records),
        "tokens": tokens(records),
        "latency": latency(records),
    }


def _confidences(records: Sequence[Record]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n,) confidences and (n,) scores of the records that have a confidence."""
    kept = [r for r in records if r.confidence is not None]
    return np.array([r.confidence for r in kept], float), np.array([r.score for r in kept], float)


def _gap(table: list[dict[str, float]]) -> float | None:
    n = sum(row["n"] for row in table)
    return sum(row["n"] * abs(row["score"] - row["confidence"]) for row in table) / n if n else None
