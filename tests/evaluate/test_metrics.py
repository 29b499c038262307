from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metier.evaluate import metrics
from metier.evaluate.record import Record


def made(scores: list[float], confidences: list[float | None] | None = None, **changes: object) -> list[Record]:
    confidences = confidences or [None] * len(scores)
    base = {"digest": "0", "task": "t", "split": "test", "output": "x", "target": "x"} | changes
    return [Record(example=f"e{i}", score=s, confidence=c, **base) for i, (s, c) in enumerate(zip(scores, confidences, strict=True))]  # type: ignore[arg-type]


def chosen(output: str, target: str, probabilities: list[float]) -> Record:
    logs = [math.log(p) if p else float("-inf") for p in probabilities]
    choices = list("abc"[: len(probabilities)])
    return Record(
        example=output + target,
        digest="0",
        task="t",
        split="test",
        output=output,
        target=target,
        score=float(output == target),
        choices=choices,
        logprobs=logs,
    )


def test_score_is_the_mean_or_the_corpus_total() -> None:
    assert metrics.score(made([1, 0, 0.5, 0.5])) == 0.5
    rows = made([1, 0], stats=[2.0, 8.0])
    assert metrics.score(rows, lambda summed: summed[0] / summed[1]) == 4 / 16
    assert metrics.score(made([1, 0]), lambda summed: 0.0) == 0.5, "no stats: the mean"
    with pytest.raises(ValueError, match="no records"):
        metrics.score([])


def test_ece_by_hand() -> None:
    rows = made([1, 0, 1, 1], [0.9, 0.9, 0.6, 0.55])
    # 15 bins: 0.9 twice in (0.867, 0.933]: |0.5 - 0.9|; 0.6 in (0.533, 0.6] with 0.55: |1 - 0.575|
    assert metrics.ece(rows) == pytest.approx(0.5 * 0.4 + 0.5 * 0.425)
    assert [(b["n"], b["confidence"]) for b in metrics.reliability(rows)] == [(2, pytest.approx(0.575)), (2, pytest.approx(0.9))]
    assert metrics.ece(made([1, 0])) is None


def test_bins_are_closed_above_and_the_first_one_below() -> None:
    rows = made([0, 0, 0, 0], [0.0, 0.2, 0.2 + 1e-9, 1.0])
    assert [(round(b["low"], 1), b["n"]) for b in metrics.reliability(rows, bins=5)] == [(0.0, 2), (0.2, 1), (0.8, 1)]


def test_adaptive_ece_by_hand() -> None:
    rows = made([1, 1, 0, 1], [0.9, 0.8, 0.3, 0.4])
    assert metrics.adaptive_ece(rows, bins=2) == pytest.approx(0.5 * abs(0.5 - 0.35) + 0.5 * abs(1 - 0.85))


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.floats(0, 1)), min_size=1, max_size=30), st.integers(1, 20))
def test_calibration_errors_bound(pairs: list[tuple[float, float]], bins: int) -> None:
    rows = made([s for s, _ in pairs], [c for _, c in pairs])
    overall = abs(sum(s - c for s, c in pairs)) / len(pairs)
    for value in (metrics.ece(rows, bins), metrics.adaptive_ece(rows, bins)):
        assert value is not None
        assert overall - 1e-9 <= value <= 1 + 1e-9, "at least the overall gap (triangle inequality), at most one"


def test_perfect_and_certain_is_zero() -> None:
    rows = [chosen("a", "a", [1.0, 0.0]), chosen("b", "b", [0.0, 1.0])]
    assert metrics.brier(rows) == 0
    assert metrics.nll(rows) == 0
    assert metrics.macro_f1(rows) == metrics.score(rows) == 1


def test_brier_and_nll_by_hand() -> None:
    rows = [chosen("a", "a", [0.7, 0.2, 0.1]), chosen("a", "b", [0.6, 0.4, 0.0])]
    assert metrics.brier(rows) == pytest.approx(((0.3**2 + 0.2**2 + 0.1**2) + (0.6**2 + 0.6**2)) / 2)
    assert metrics.nll(rows) == pytest.approx(-(math.log(0.7) + math.log(0.4)) / 2)
    outside = [chosen("a", "none of these", [0.5, 0.5])]
    assert metrics.brier(outside) == pytest.approx(0.5)
    assert metrics.nll(outside) is None
    assert metrics.nll([chosen("a", "b", [1.0, 0.0])]) == math.inf


def test_flips_by_hand() -> None:
    found = metrics.flips(made([1, 1, 0, 0, 0.6]), made([1, 0, 1, 0, 0.4])[::-1])
    assert (found.negative, found.positive, found.n) == (["e1", "e4"], ["e2"], 5)
    assert (found.negative_rate, found.positive_rate, found.negative_of_right) == (0.4, 0.2, pytest.approx(2 / 3))
    with pytest.raises(ValueError, match="only in the first: e1"):
        metrics.flips(made([1, 1]), made([1]))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_flips_account_for_the_difference(pairs: list[tuple[bool, bool]]) -> None:
    base, new = made([float(b) for b, _ in pairs]), made([float(c) for _, c in pairs])
    found = metrics.flips(base, new)
    assert found.positive_rate - found.negative_rate == pytest.approx(metrics.score(new) - metrics.score(base))


def test_macro_f1_by_hand() -> None:
    rows = [chosen("a", "a", [0.5, 0.5]), chosen("a", "b", [0.5, 0.5]), chosen("b", "b", [0.5, 0.5]), chosen("c", "b", [0.5, 0.5])]
    assert metrics.macro_f1(rows) == pytest.approx((2 / 3 + 2 / 4) / 2), "'c' is never wanted, so it is no class"


def test_summary_tokens_and_latency() -> None:
    rows = made([1, 0], [0.5, 0.5], tokens_in=10, tokens_out=3, seconds=0.25)
    found = metrics.summary(rows)
    assert found["tokens"] == {"in": 20, "out": 6, "in_per_answer": 10, "out_per_answer": 3}
    assert found["latency"] == {"mean": 0.25, "median": 0.25, "p95": 0.25}
    assert (found["n"], found["score"], found["ece"], found["brier"], found["macro_f1"]) == (2, 0.5, 0.0, None, None)
