from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.evaluate import stats
from metier.evaluate.record import Record


def made(scores: list[float], stats: list[list[float]] | None = None) -> list[Record]:
    extra = stats or [None] * len(scores)  # type: ignore[list-item]
    return [
        Record(example=f"e{i}", digest="0", task="t", split="test", output="", target="", score=s, stats=k)
        for i, (s, k) in enumerate(zip(scores, extra, strict=True))
    ]


def of(*runs: list[float]) -> stats.Scores:
    return stats.scores({seed: made(list(run)) for seed, run in enumerate(runs)})


def draws(n: int, p: float, seed: int = 0) -> list[float]:
    return (np.random.default_rng(seed).random(n) < p).astype(float).tolist()


def test_wilson_closed_form() -> None:
    low, high = stats.wilson(8, 10)  # Wilson's interval for 8 of 10, computed by hand from the formula with z = 1.959964
    assert (low, high) == (pytest.approx(0.490162, abs=1e-6), pytest.approx(0.943318, abs=1e-6))
    assert stats.wilson(0, 10)[0] == 0
    assert stats.wilson(10, 10)[1] == 1
    for p in stats.wilson(8, 10):  # its ends solve |p̂ - p| = z sqrt(p (1 - p) / n)
        assert abs(0.8 - p) == pytest.approx(1.959964 * math.sqrt(p * (1 - p) / 10), abs=1e-6)
    with pytest.raises(ValueError, match="between 0 and n"):
        stats.wilson(11, 10)


def test_bootstrap_interval_agrees_with_the_normal_one() -> None:
    scores = np.random.default_rng(1).random(400).tolist()
    found = stats.interval(of(scores))
    half = 1.96 * np.std(scores) / math.sqrt(400)
    assert found.value == pytest.approx(np.mean(scores))
    assert (found.low, found.high) == (pytest.approx(found.value - half, abs=0.004), pytest.approx(found.value + half, abs=0.004))
    assert found.how == "bootstrap over examples"
    assert found == stats.interval(of(scores)), "the same seed, the same interval"
    assert found != stats.interval(of(scores), seed=1)


def test_bootstrap_draws_are_the_naive_ones() -> None:
    counts = np.concatenate(list(stats._counts(7, 50, 3)))
    assert counts.shape == (50, 7)
    assert (counts.sum(1) == 7).all()
    values = np.arange(7.0)
    assert stats._metric(of((values / 7).tolist()), counts)[:, 0] == pytest.approx(
        [np.repeat(values / 7, c.astype(int)).mean() for c in counts]
    )


def test_few_or_unanimous_scores_get_wilson() -> None:
    assert stats.interval(of([1.0] * 300)).low == pytest.approx(stats.wilson(300, 300)[0])
    assert stats.interval(of([1.0, 0.0, 1.0])).how == "Wilson"
    several = stats.interval(of([1.0] * 20, [1.0] * 20))
    assert (several.how[:5], several.low) == ("wider", pytest.approx(stats.wilson(20, 20)[0]))


def test_more_seeds_of_the_same_answers_do_not_narrow_the_interval() -> None:
    run = draws(200, 0.5)
    one, three = stats.interval(of(run)), stats.interval(of(run, run, run))
    assert (one.low, one.high) == (three.low, three.high), "shared examples are not independent"
    apart = stats.interval(of([1.0] * 150 + [0.0] * 50, [0.0] * 150 + [1.0] * 50))
    assert apart.high - apart.low > 0.4, "seeds that disagree widen it"


@pytest.mark.slow
def test_coverage_over_examples_and_seeds() -> None:
    rng, hits = np.random.default_rng(0), 0
    for trial in range(100):
        ability, difficulty = rng.normal(0, 0.05, (5, 1)), rng.normal(0, 0.2, (1, 150))
        runs = np.clip(0.5 + ability + difficulty + rng.normal(0, 0.1, (5, 150)), 0, 1)
        found = stats.interval(of(*runs.tolist()), draws=400, seed=trial)
        hits += found.low <= 0.5 <= found.high
    assert hits >= 80, "nominally 95 %; percentile intervals over five seeds fall a little short"


def test_quick() -> None:
    values = of(*(draws(1000, 0.6, s) for s in range(3)))
    start = time.perf_counter()
    stats.interval(values)
    assert time.perf_counter() - start < 5, "2,000 draws over 1,000 examples and 3 seeds; about 0.1 s on an idle core"


def test_mcnemar_is_the_binomial_test() -> None:
    for better, worse in itertools.product(range(8), repeat=2):
        n = better + worse
        tail = sum(math.comb(n, k) for k in range(min(better, worse) + 1)) / 2**n
        assert stats.mcnemar(better, worse) == pytest.approx(min(1.0, 2 * tail))


@given(st.lists(st.integers(-5, 5).map(lambda x: x / 4), max_size=9))
@settings(max_examples=60, deadline=None)
def test_sign_flip_is_the_full_enumeration(gaps: list[float]) -> None:
    seen = abs(sum(gaps))
    hits = [
        abs(sum(s * g for s, g in zip(signs, gaps, strict=True))) >= seen - 1e-12 for signs in itertools.product((1, -1), repeat=len(gaps))
    ]
    assert stats.sign_flip(np.array(gaps)) == pytest.approx(sum(hits) / len(hits))


@given(st.integers(0, 6), st.integers(0, 6))
def test_sign_flip_of_units_is_mcnemar(better: int, worse: int) -> None:
    gaps = np.array([1.0] * better + [-1.0] * worse)
    assert stats.sign_flip(gaps) == pytest.approx(stats.mcnemar(better, worse))


def test_sampled_sign_flip_is_close_to_the_exact_one() -> None:
    gaps = np.array([1.0] * 14 + [-1.0] * 6)
    assert stats.sign_flip(gaps) == pytest.approx(stats.mcnemar(14, 6), abs=0.015)


def test_paired_difference() -> None:
    base, new = draws(300, 0.5, 1), draws(300, 0.6, 2)
    found = stats.paired(made(base), made(new)[::-1])
    gaps = np.array(new) - np.array(base)
    half = 1.96 * gaps.std() / math.sqrt(300)
    assert found.value == pytest.approx(gaps.mean())
    assert (found.low, found.high) == (pytest.approx(found.value - half, abs=0.012), pytest.approx(found.value + half, abs=0.012))
    assert (found.test, found.p) == ("exact McNemar", pytest.approx(stats.mcnemar(int((gaps > 0).sum()), int((gaps < 0).sum()))))
    with pytest.raises(ValueError, match="only in the second: e300"):
        stats.paired(made(base), made([*new, 1.0]))


def test_pairing_takes_the_examples_noise_out() -> None:
    hard = np.random.default_rng(0).random(200)
    found = stats.paired(made((0.9 * hard).tolist()), made((0.9 * hard + 0.02).tolist()))
    assert found.high - found.low < 1e-9, "a constant gain on every example is certain"
    assert found.test == "sign-flip permutation"
    assert found.p < 0.001


def test_seeds_are_paired_where_both_have_them() -> None:
    base = stats.scores({0: made([0.0] * 4), 1: made([1.0] * 4)})
    new = stats.scores({1: made([1.0] * 4), 2: made([0.5] * 4)})
    assert stats.difference(base, new).value == 0, "seed 1 only"
    alone = stats.difference(base, new.take([2]))
    assert (alone.value, alone.low, alone.high) == (0.0, -0.5, 0.5), "no seed in common: the base's seeds are resampled too"


def test_corpus_scores() -> None:
    def total(summed: object) -> float:
        return summed[0] / summed[1]  # type: ignore[index]

    base = made([0.0] * 60, [[1.0, 4.0]] * 60)
    new = made([0.0] * 60, [[2.0, 4.0]] * 59 + [[0.0, 400.0]])
    found = stats.paired(base, new, total)
    assert found.value == pytest.approx(118 / 636 - 0.25)
    assert found.test == "permutation of corpus statistics"
    assert stats.interval(stats.scores({0: base}, total)).value == 0.25
    assert stats.paired(base, base, total).p == 1


def test_holm_by_hand() -> None:
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_only_raises(p: list[float]) -> None:
    adjusted = stats.holm(p)
    assert all(a >= q and a <= 1 for a, q in zip(adjusted, p, strict=True))
    assert max(adjusted) <= max(min(1.0, len(p) * q) for q in p)
    ranked = [adjusted[i] for i in np.argsort(p, kind="stable")]
    assert ranked == sorted(ranked)
