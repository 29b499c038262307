"""The draws that drop entries: numpy's own SFC64 gives the same bits; a place has its draw however a tensor is cut; bits look like chance."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from metier.delta.chance import Draws

KEY = "0|1|layer.weight"


def literally(key: str, chunk: int) -> NDArray[np.uint32]:
    """The 1024 draws of a chunk, by eight generators of numpy's."""
    said = hashlib.sha256(key.encode()).digest()
    words = [int.from_bytes(said[i : i + 8], "little") for i in (0, 8, 16)]
    numbers = []
    for own in range(8):
        source = np.random.SFC64()
        begin = np.array([words[0], words[1], (words[2] + 8 * chunk + own) % 2**64, 1], np.uint64)
        source.state = source.state | {"state": {"state": begin}, "has_uint32": 0}
        numbers.append(source.random_raw(12 + 64)[12:])
    return np.stack(numbers, axis=1).reshape(-1).astype("<u8").view("<u4")


@pytest.fixture(params=["1", "0"], ids=["loops", "numpy"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiled loops, and without."""
    monkeypatch.setenv("METIER_NATIVE", request.param)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("chunk", [0, 1, 70_000])
def test_draws_are_those_of_numpys_generators(chunk: int) -> None:
    got = Draws.of(KEY, 1024 * chunk).into(np.empty(2048, np.uint32))
    assert np.array_equal(got, np.concatenate([literally(KEY, chunk), literally(KEY, chunk + 1)]))


@pytest.mark.parametrize("native", ["1", "0"])
@settings(max_examples=40)
@given(st.integers(0, 5000), st.integers(0, 3000))
def test_a_place_has_its_draw_however_a_tensor_is_cut(native: str, start: int, n: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METIER_NATIVE", native)
        whole = Draws.of(KEY, 0).into(np.empty(8000, np.uint32))
        assert np.array_equal(Draws.of(KEY, start).into(np.empty(n, np.uint32)), whole[start : start + n])


@pytest.mark.slow
def test_bits_look_like_chance() -> None:
    """Within 5 standard errors: each bit's share, bytes' chi-squared, and how often bits agree over any distance that the layout knows."""
    n = 1 << 20
    draws = Draws.of(KEY, 0).into(np.empty(n, np.uint32))
    bits = (draws[:, None] >> np.arange(32, dtype=np.uint32)) & np.uint32(1)
    assert np.abs(bits.mean(0) - 0.5).max() < 5 * 0.5 / math.sqrt(n)
    counts = np.bincount(draws.view(np.uint8), minlength=256)
    chi2 = float(((counts - 4 * n / 256) ** 2 / (4 * n / 256)).sum())
    assert abs(chi2 - 255) < 5 * math.sqrt(2 * 255)
    for far in (1, 2, 3, 8, 16, 32, 1024, 2048, 8192):  # halves, neighbours, rounds, chunks
        equal = (bits[far:] == bits[:-far]).mean()
        assert abs(equal - 0.5) < 5 * 0.5 / math.sqrt(32 * (n - far)), far
    other = Draws.of("0|2|layer.weight", 0).into(np.empty(n, np.uint32))
    assert abs(np.corrcoef(draws, other)[0, 1]) < 5 / math.sqrt(n)
