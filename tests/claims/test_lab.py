"""The lab's arithmetic: contrasts, joins, and calibration as statistics that add up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metier.claims.lab import Lab, calibration, contrast, join, mix
from metier.evaluate import Record, stats
from metier.evaluate.metrics import ece
from metier.evaluate.stats import Scores
from metier.worlds import world


def record(i: int, score: float, confidence: float | None) -> Record:
    return Record(example=f"e{i}", digest="", task="t", split="test", output="", target="", score=score, confidence=confidence)


def drawn(seed: int, seeds: int = 3, n: int = 20) -> Scores:
    values = np.random.default_rng(seed).integers(0, 2, (seeds, n)).astype(float)
    return Scores(tuple(f"e{i}" for i in range(n)), tuple(range(seeds)), values)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=40))
def test_calibration_adds_up_to_ece(rows: list[tuple[bool, float]]) -> None:
    records = [record(i, float(right), confidence) for i, (right, confidence) in enumerate(rows)]
    assert calibration({0: records}).per_seed()[0] == pytest.approx(ece(records), abs=1e-12)


def test_calibration_needs_confidences() -> None:
    with pytest.raises(ValueError, match="needs a confidence"):
        calibration({0: [record(0, 1.0, 0.5), record(1, 1.0, None)]})


def test_a_calibration_difference_has_its_sign() -> None:
    rng = np.random.default_rng(0)
    right = rng.integers(0, 2, 200).astype(float)
    sure = [record(i, r, 0.99) for i, r in enumerate(right)]
    honest = [record(i, r, 0.5) for i, r in enumerate(right)]
    found = stats.difference(calibration({0: honest}), calibration({0: sure}))
    assert found.low > 0.2
    assert found.value == pytest.approx(ece(sure) - ece(honest))  # type: ignore[operator]


@given(st.integers(0, 50), st.floats(0, 1))
def test_a_contrast_is_the_weighted_difference(seed: int, weight: float) -> None:
    a, b, c = drawn(seed), drawn(seed + 1), drawn(seed + 2)
    found = contrast("x", [(1.0, a)], [(weight, b), (1 - weight, c)])
    wanted = a.values.mean() - weight * b.values.mean() - (1 - weight) * c.values.mean()
    assert found.value == pytest.approx(wanted)
    assert np.mean(found.per_seed) == pytest.approx(wanted)
    assert found.low <= found.high
    assert (found.n, found.seeds) == (20, 3)


def test_joined_tasks_count_every_example_the_same() -> None:
    a, b = drawn(0, n=10), drawn(1, n=30)
    both = join({"a": a, "b": b})
    assert len(set(both.ids)) == 40
    assert both.per_seed().mean() == pytest.approx((10 * a.values.mean() + 30 * b.values.mean()) / 40)


def test_scores_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="same examples"):
        mix([(1.0, drawn(0, n=10)), (1.0, drawn(0, n=12))])
    with pytest.raises(ValueError, match="same seeds"):
        join({"a": drawn(0, seeds=2), "b": drawn(0, seeds=3)})


def test_a_quick_lab_cuts_every_split(tmp_path: Any) -> None:
    task = Lab((), (0,), tmp_path, quick=True).cut(world("classification").task("groups-0"), train=200, test=5)
    assert (len(task.train), len(task.dev), len(task.test)) == (32, 8, 5)
