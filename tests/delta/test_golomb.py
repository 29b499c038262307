"""Golomb-Rice coding: exact round trip, near the entropy, damage refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metier.delta import golomb
from metier.errors import UserError


@given(st.sets(st.integers(0, 5000), max_size=300), st.integers(0, 100))
def test_round_trip(positions: set[int], beyond: int) -> None:
    indices = np.array(sorted(positions), np.int64)
    code, r = golomb.encode(indices)
    assert np.array_equal(golomb.decode(code, len(indices), r, max(positions, default=0) + 1 + beyond), indices)


@pytest.mark.parametrize("n", [0, 1, 9])
def test_all_positions_take_no_code(n: int) -> None:
    code, r = golomb.encode(np.arange(n))
    assert len(code) == 0 and np.array_equal(golomb.decode(code, n, r, n + 3), np.arange(n))
    spelled = np.packbits(np.zeros(n, np.uint8))  # as written before there was the empty code
    assert np.array_equal(golomb.decode(spelled, n, 0, n), np.arange(n))
    with pytest.raises(UserError, match="damaged"):
        golomb.decode(code, n + 1, 0, n)


def test_length_is_near_the_entropy() -> None:
    chosen = np.flatnonzero(np.random.default_rng(0).random(1_000_000) < 0.05)
    code, _ = golomb.encode(chosen)
    entropy = -(0.05 * math.log2(0.05) + 0.95 * math.log2(0.95)) * 1_000_000 / 8
    assert len(code) < 1.05 * entropy


@given(st.binary(max_size=60), st.integers(0, 100), st.integers(0, 70), st.integers(0, 1000))
def test_any_bytes_give_positions_or_an_error(code: bytes, count: int, r: int, span: int) -> None:
    try:
        found = golomb.decode(np.frombuffer(code, np.uint8), count, r, span)
    except UserError:
        return
    assert len(found) == count and (count == 0 or (found[0] >= 0 and found[-1] < span and bool((np.diff(found) > 0).all())))


def test_signs() -> None:
    flags = np.array([True, False, True] * 5)
    assert np.array_equal(golomb.unbits(golomb.bits(flags), 15), flags)
    with pytest.raises(UserError, match="bytes of signs"):
        golomb.unbits(golomb.bits(flags), 17)
