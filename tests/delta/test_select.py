"""Exact selection against a stable sort, on values with many ties, and with every way of finding the threshold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metier.delta import Dense, select
from metier.errors import UserError


def kept_by_sorting(values: list[Tensor], count: int) -> list[Tensor]:
    flat = torch.cat([v.reshape(-1) for v in values])
    order = flat.abs().sort(descending=True, stable=True).indices[: max(count, 0)]
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[order] = True
    result = torch.where(mask, flat, 0.0)
    return [r.view(v.shape) for r, v in zip(result.split([v.numel() for v in values]), values, strict=True)]


def kept(values: list[Tensor], count: int) -> list[Tensor]:
    found = select.cuts({f"t{i}": Dense(v) for i, v in enumerate(values)}, count)
    return [found[f"t{i}"].keep(0, v.reshape(-1).clone()).view(v.shape) for i, v in enumerate(values)]


def draw(seed: int, n: int, kind: str) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, generator=g)
    match kind:
        case "ties":
            return (x * 2).round()
        case "coarse":
            return (x * 0.01).bfloat16().float()
        case "sparse":
            return x * (torch.rand(n, generator=g) < 0.1)
        case "sorted":
            return x.sort().values
        case "rows":  # neighbours are alike: a sample of runs says less than its size
            return x * torch.rand(-(-n // 1000), 1, generator=g).expand(-1, 1000).reshape(-1)[:n] ** 4
        case "zero":
            return x * 0
        case _:
            return x


@given(st.integers(0, 99), st.lists(st.integers(0, 40), min_size=1, max_size=4), st.sampled_from(["", "ties", "zero"]), st.data())
def test_small(seed: int, sizes: list[int], kind: str, data: st.DataObject) -> None:
    values = [draw(seed + i, n, kind) for i, n in enumerate(sizes)]
    count = data.draw(st.integers(0, sum(sizes) + 1))
    assert all(torch.equal(a, b) for a, b in zip(kept(values, count), kept_by_sorting(values, count), strict=True))


def test_several_counts_in_one_pass() -> None:
    for kind in ("", "coarse", "sparse", "rows"):
        entries = {"a": Dense(draw(3, 400_000, kind)), "b": Dense(draw(4, 80_000, kind))}
        counts = [0, 4_800, 100_000, 4_800, 480_000]
        assert select.cuts_at(entries, counts) == [select.cuts(entries, c) for c in counts]


@pytest.mark.parametrize("kind", ["", "ties", "coarse", "sparse", "sorted", "rows", "zero"])
@pytest.mark.parametrize("density", [0.001, 0.05, 0.2, 0.5, 0.999])
def test_large(kind: str, density: float) -> None:
    values = [draw(1, 300_000, kind), draw(2, 70_000, kind) * 3]
    count = round(density * 370_000)
    got, want = kept(values, count), kept_by_sorting(values, count)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@settings(max_examples=12)
@given(st.integers(0, 99), st.sampled_from(["", "ties", "coarse", "sparse"]), st.floats(0.0001, 0.9999))
def test_ways_agree(seed: int, kind: str, density: float) -> None:
    """The bracket may fail or hold too much: the histogram then finds the same."""
    values, count = draw(seed, 100_000, kind), round(density * 100_000)
    entries, sizes = {"a": Dense(values)}, {"a": 100_000}
    blocks = [("a", s, min(s + 30_000, 100_000)) for s in range(0, 100_000, 30_000)]
    read = select._reader(select._Opened(entries))
    if not 0 < count < 100_000:
        return
    ways = [select._direct(blocks, read, count), select._histogram(blocks, read, count)]
    cuts = [select._spread(blocks, read, sizes, *w)["a"].keep(0, values.clone()) for w in ways]
    assert ways[0][:2] == ways[1][:2] and torch.equal(*cuts)
    assert torch.equal(cuts[0], kept_by_sorting([values], count)[0])


def test_slices_equal_the_whole() -> None:
    values = draw(0, 5000, "ties")
    cut = select.cuts({"a": Dense(values)}, 700)["a"]
    whole = cut.keep(0, values.clone())
    assert torch.equal(torch.cat([cut.keep(s, values[s : s + 37].clone()) for s in range(0, 5000, 37)]), whole)
    assert int(torch.count_nonzero(whole)) == 700 - int((values.abs().sort(descending=True).values[:700] == 0).sum())


@pytest.mark.parametrize("n", [10, 200_000])
def test_values_that_are_not_numbers_are_refused(n: int) -> None:
    values = torch.randn(n)
    values[n // 2] = float("nan")
    with pytest.raises(UserError, match="'a' holds values that are not numbers"):
        select.cuts({"a": Dense(values)}, n // 5)


def test_the_smallest_numbers() -> None:
    values = torch.from_numpy(np.array([1e-45, -1e-45, 0.0, 3e-45], np.float32))
    assert kept([values], 2)[0].tolist() == [values[0].item(), 0.0, 0.0, values[3].item()]


@given(st.integers(0, 99), st.integers(1, 50), st.sampled_from(["", "ties", "zero"]), st.sampled_from([-3.0, 0.0, 3.0]))
def test_largest(seed: int, n: int, kind: str, middle: float) -> None:
    values = draw(seed, n, kind) + middle
    counts = [1, n // 4 + 1, n // 2 + 1, n]
    assert select.largest(Dense(values), counts) == [float(values.abs().sort(descending=True).values[c - 1]) for c in counts]


def test_largest_of_many() -> None:
    values = draw(0, 600_000, "coarse")
    counts = [1, 150_000, 299_999, 300_000, 450_000, 600_000]
    assert select.largest(Dense(values), counts) == [float(values.abs().sort(descending=True).values[c - 1]) for c in counts]
