"""The loops in C beside those of torch: the same bits, whatever the values; and what happens without a compiler."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from metier.delta import Between, Checkpoint, Delta, Merge, compiled, diff, full, merged, native, run, select
from metier.delta.parts import drop, elect_sign_mean, span
from metier.delta.parts.drop_by_rank import drop_by_rank
from metier.delta.select import Cut
from metier.delta.shape import Shape
from metier.delta.transform import At
from metier.errors import UserError
from metier.merge.breadcrumbs import breadcrumbs
from metier.merge.breadcrumbs_ties import breadcrumbs_ties
from metier.merge.dare_ties import dare_ties
from metier.merge.della import della
from metier.merge.karcher import karcher
from metier.merge.linear import linear
from metier.merge.model_stock import model_stock
from metier.merge.passthrough import passthrough
from metier.merge.ram import ram
from metier.merge.sce import _combine, _Plan, sce
from metier.merge.slerp import slerp
from metier.merge.task_arithmetic import task_arithmetic
from metier.merge.ties import ties

SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-40, -1e-40, 3.3e38, 65504.0, 2.0**-7, 0.1]
needs_loops = pytest.mark.skipif(compiled.loops() is None, reason="no C compiler, or METIER_NATIVE=0: torch does the work")


def draw(seed: int, n: int, *, sparse: float = 0.0, special: bool = True) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, generator=g) * 0.01
    x[torch.rand(n, generator=g) < sparse] = 0.0
    if special and n:
        places = torch.randint(n, (len(SPECIAL),), generator=g)
        x[places] = torch.tensor(SPECIAL)
    return x


def both(monkeypatch: pytest.MonkeyPatch, work: Callable[[], Tensor]) -> None:
    """The same bits (of numbers; of zeros the sign may differ) with the loops and without."""
    monkeypatch.delenv("METIER_NATIVE", raising=False)
    with_loops = work()
    monkeypatch.setenv("METIER_NATIVE", "0")
    assert compiled.loops() is None
    assert torch.equal(with_loops, work())


@needs_loops
@pytest.mark.parametrize("n", [0, 1, 7, 1023, 1025, 5000])
def test_difference_sum_and_rounding(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = draw(1, n).bfloat16(), draw(2, n).bfloat16()
    both(monkeypatch, lambda: Between(base, tuned).part(0, n))
    monkeypatch.delenv("METIER_NATIVE")
    change, out = draw(3, n, sparse=0.3), torch.empty(n, dtype=torch.bfloat16)
    assert native.added(base, change, out) is True
    assert torch.equal(out.view(torch.int16), torch.where(change == 0, base, (base.float() + change).bfloat16()).view(torch.int16))
    assert native.rounded(change, out) is True
    assert torch.equal(out.view(torch.int16), change.bfloat16().view(torch.int16))


@needs_loops
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1))
def test_rounding_to_bfloat16_is_that_of_torch(bits: int, base: int) -> None:
    value = torch.tensor([bits], dtype=torch.uint32).view(torch.float32)
    out = torch.empty(1, dtype=torch.bfloat16)
    finite = native.rounded(value, out)
    assert torch.equal(out, value.bfloat16()) or bool(value.isnan())
    assert finite == bool(value.bfloat16().isfinite())
    before = torch.tensor([base], dtype=torch.uint16).view(torch.bfloat16)
    native.added(before, value, out)
    want = before if value == 0 else (before.float() + value).bfloat16()
    assert torch.equal(out.view(torch.int16), want.view(torch.int16)) or bool(want.isnan() & out.isnan())


@needs_loops
@settings(max_examples=60)
@given(
    st.integers(0, 99), st.integers(1, 3000), st.sampled_from([0.0, 0.9, 1.0]), st.booleans(), st.booleans(), st.floats(0, 0.02),
    st.floats(0, 0.02),
)  # fmt: skip
def test_looking_at_a_bracket(seed: int, n: int, sparse: float, low_apart: bool, high_apart: bool, a: float, b: float) -> None:
    values = draw(seed, n, sparse=sparse).bfloat16().float()
    low, high = sorted((float(torch.tensor(a).bfloat16()), float(torch.tensor(b).bfloat16())))
    ends = [native.Ends(low, high, low_apart, high_apart), native.Ends(high, math.inf, True, True)]
    looked = native.look(values, ends, np.empty((2, n), np.float32))
    assert looked is not None
    seen, other = looked
    m = values.abs()
    inside = ((m > low) | ((m == low) & (not low_apart))) & ((m < high) | ((m == high) & (not high_apart)))
    assert other[:4] == (0, 0, 0, int((m == high).sum())) and np.array_equal(other.held, m[m > high].numpy())
    assert seen[:4] == (0, int((m > high).sum()), int((m == high).sum()), int((m == low).sum()))
    assert np.array_equal(seen.held, m[inside].numpy())


@needs_loops
@given(st.integers(0, 99), st.integers(1, 3000), st.integers(1, 40), st.booleans())
def test_the_place_of_a_tie(seed: int, n: int, kept: int, stored: bool) -> None:
    base, tuned = draw(seed, n, sparse=0.5).bfloat16(), draw(seed, n, sparse=0.9).bfloat16()
    change = tuned.float() - base.float()
    value = float(change.abs()[n // 2])
    pair = native.Pair(*(t.view(torch.uint16).numpy() for t in (base, tuned)))
    places = torch.nonzero(change.abs() == value).flatten().tolist()
    want = (places[kept - 1], 0) if len(places) >= kept else (n - 1, kept - len(places))
    assert native.tied(pair if stored else change, value, kept) == want == select._tied(change.abs().numpy(), value, kept)


@needs_loops
@pytest.mark.parametrize("coefs", [(1.0,), (0.5, 0.5, 0.5), (0.1, 0.1, 0.1, 0.1), (0.3, -0.3), (0.7, -0.2, 0.1), (0.0, 0.0), (1.0, 0.0)])
@pytest.mark.parametrize("n", [1, 1024, 4099])
def test_electing(coefs: tuple[float, ...], n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = torch.stack([draw(i, n, sparse=0.5, special=False) for i in range(len(coefs))])
    stack[:, :1] = 0.25  # an entry that all agree on
    both(monkeypatch, lambda: elect_sign_mean(At("t", 0, torch.Size([n])), stack.clone(), coefs).clone())


@needs_loops
@pytest.mark.parametrize("density", [0.001, 0.2, 0.5, 0.999, 1 - 2**-12])
@pytest.mark.parametrize("rescale", [True, False])
def test_dropping(density: float, rescale: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    values, part = draw(1, 300_000), drop(density, seed=3, rescale=rescale).part
    at = At("t", 1000, torch.Size([600_000]))  # a slice that begins and ends inside blocks of draws
    assert part is not None
    both(monkeypatch, lambda: part("0", at, values.clone()))


@needs_loops
@pytest.mark.parametrize("shape", [(7, 1), (5, 2), (40, 1536), (3, 70_000), (200_000,)])
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("coarse", [True, False])
def test_dropping_by_rank(shape: tuple[int, ...], rescale: bool, coarse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    n = torch.Size(shape).numel()
    values, part = draw(1, n, sparse=0.2), drop_by_rank(0.5, 0.4, seed=3, rescale=rescale).part
    values = values.bfloat16().float() if coarse else values
    assert part is not None
    both(monkeypatch, lambda: part("0", At("t", 0, torch.Size(shape)), values.clone()))


@needs_loops
@pytest.mark.parametrize("kind", ["plain", "alike in rows", "alike in columns", "sparse"])
def test_selecting_between_stored_weights(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample is another one, what is selected the same."""
    g = torch.Generator().manual_seed(0)
    base, change = torch.randn(400, 1024, generator=g).bfloat16(), torch.randn(400, 1024, generator=g) * 0.01
    match kind:
        case "alike in rows":
            change *= torch.rand(400, 1, generator=g) ** 4
        case "alike in columns":
            change *= torch.rand(1, 1024, generator=g) ** 4
        case "sparse":
            change *= torch.rand(400, 1024, generator=g) < 0.1
    entry = Between(base, (base.float() + change).bfloat16())
    counts = [1, 4_000, 80_000, 300_000]

    def found() -> Tensor:
        cuts = select.cuts_at({"t": entry}, counts)
        return torch.tensor([[c["t"].value, c["t"].last] for c in cuts], dtype=torch.float64)

    both(monkeypatch, found)
    order = entry.dense().reshape(-1).abs().sort(descending=True, stable=True)
    assert found()[:, 0].tolist() == [float(order.values[k - 1]) for k in counts]


@needs_loops
@settings(max_examples=60)
@given(st.integers(0, 99), st.lists(st.integers(0, 3000), min_size=1, max_size=4), st.floats(0, 1), st.booleans())
def test_ranks_over_parts(seed: int, lengths: list[int], share: float, coarse: bool) -> None:
    parts = [draw(seed + i, n, sparse=0.3).abs() for i, n in enumerate(lengths)]
    arrays = [(p.bfloat16().float() if coarse else p).numpy() for p in parts]
    values = np.sort(np.concatenate(arrays))[::-1]
    rank = round(share * len(values))
    found = native.ranked(arrays, rank)
    if rank == 0:
        assert found is None
        return
    above, equal = int((values > values[rank - 1]).sum()), int((values == values[rank - 1]).sum())
    assert found == (float(values[rank - 1]), rank - above, equal)


@needs_loops
def test_divergences_of_rows() -> None:
    g = torch.Generator().manual_seed(0)
    first = torch.randn(40, 1537, generator=g) * torch.logspace(-4, 2, 40)[:, None]  # up to probabilities of 0 and of 1
    second, found = first + torch.randn(40, 1537, generator=g) * 0.1, np.empty(40, np.float32)
    assert native.divergence(first.view(-1), second.view(-1), 1537, 1e-8, found)
    p, q = second.double().softmax(-1) + 1e-8, first.double().softmax(-1) + 1e-8
    torch.testing.assert_close(torch.from_numpy(found), (p * (p / q).log()).sum(-1).float(), rtol=2e-5, atol=2e-7)


@needs_loops
def test_stored_tensors_are_looked_at_as_their_floats_are() -> None:
    first, second = (draw(i, 40 * 37, special=False).bfloat16() for i in (1, 2))
    pair = native.Pair(*(t.view(torch.uint16).numpy() for t in (first, second)))
    found, again = np.empty((2, 40), np.float32), np.empty((2, 1477), np.float32)
    native.divergence_stored(pair, 37, 1e-8, found[0])
    assert native.divergence(first.float(), second.float(), 37, 1e-8, found[1]) and np.array_equal(*found)
    native.weighed_stored(native.Pair(*(t[3:] for t in pair)), found[0], 37, 3, again[0])
    assert native.weighed(first[3:].float(), second[3:].float(), found[0], 37, 3, again[1]) and np.array_equal(*again)


@needs_loops
@pytest.mark.parametrize(("start", "width"), [(0, 7), (5, 7), (3, 1), (1000, 4096)])
def test_choosing_by_row(start: int, width: int) -> None:
    first, second, n = draw(1, 4099), draw(2, 4099), 4099
    of_row = np.random.default_rng(0).random((start + n) // width + 1, np.float32)
    importance = (second - first).abs() * torch.from_numpy(of_row)[torch.arange(start, start + n) // width]
    assert native.weighed(first, second, of_row, width, start, out := torch.empty(n)) and torch.equal(out, importance)
    least = float(importance.median())
    assert native.chosen(chosen := first.clone(), second, of_row, width, start, least)
    assert torch.equal(chosen, torch.where(importance >= least, second, first))


@needs_loops
@given(st.integers(0, 99), st.integers(1, 5), st.integers(1, 2100))
def test_inner_products_without_the_loops(seed: int, k: int, n: int) -> None:
    rows = [draw(seed + i, n).numpy() for i in range(k)]
    found, again = np.full((k, k), 0.5), np.full((k, k), 0.5)
    assert native.gram(rows, found)
    span._gram(rows, again)
    assert np.array_equal(found, again)


@needs_loops
@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("start", [0, 1000, 5000])
def test_what_varies_is_selected_and_the_weaker_sign_erased(k: int, start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.stack([draw(i, 4099, sparse=0.3, special=False).mul(100).round() for i in range(k)])  # many variances are equal
    rows[:, :2], rows[0, 2:4] = 0.0, 1.0
    least = float(rows.var(0, correction=0).median())
    plan = _Plan(Cut(least, 3000), [0.5, 0.0, 0.3, 0.2][:k])
    both(monkeypatch, lambda: _combine(At("t", start, torch.Size([20_000])), rows.clone(), [1.0] * k, plan).clone())


@needs_loops
@pytest.mark.parametrize(("start", "stop"), [(0, 70), (13, 57), (30, 31), (7, 14)])
def test_probabilities_of_part_of_a_row_are_those_of_the_row(start: int, stop: int) -> None:
    transform, values = drop_by_rank(0.5, 0.4, seed=3), draw(1, 70).bfloat16().float()
    assert transform.part is not None and transform.step is not None
    at = At("t", 0, Shape((10, 7)))
    whole = transform.part("0", at, values.clone())
    step = transform.step("0", at._replace(start=start), stop, lambda a, b, out: values[a:b].numpy())
    divisors = torch.from_numpy(step.divisors)
    assert torch.equal(torch.where(divisors == 0, 0.0, values[start:stop] / divisors), whole[start:stop])


def checkpoints(where: Path) -> tuple[Checkpoint, list[Delta], list[Delta]]:
    g = torch.Generator().manual_seed(0)
    names = {"model.layers.0.w": (300, 1024), "model.layers.1.w": (70, 33), "norm": (33,), "lm_head.weight": (40, 33)}
    base = {n: torch.randn(s, generator=g).bfloat16() for n, s in names.items()}
    base["norm"][:3] = torch.tensor([-0.0, 0.0, 1e-40])
    made = [base, *({n: (t.float() + torch.randn(t.shape, generator=g) * 0.01).bfloat16() for n, t in base.items()} for _ in range(3))]
    for i, weights in enumerate(made):
        (where / str(i)).mkdir(parents=True)
        save_file(weights, where / str(i) / "model.safetensors", metadata={"format": "pt"})
    found = [Checkpoint(where / str(i)) for i in range(4)]
    return found[0], [diff(found[0], t) for t in found[1:]], [full(t) for t in found[1:]]


@needs_loops
@pytest.mark.parametrize(
    "merge", [linear(), task_arithmetic(scale=0.3), ties(density=0.2), dare_ties(density=0.3), breadcrumbs(density=0.2),
              breadcrumbs_ties(density=0.2), slerp(t=0.3), karcher(), model_stock(), ram(boost=0.3), ram(), sce(density=0.2),
              della(density=0.5)],
    ids=["linear", "task_arithmetic", "ties", "dare_ties", "breadcrumbs", "breadcrumbs_ties", "slerp", "karcher", "model_stock", "ram_plus",
         "ram", "sce", "della"],
)  # fmt: skip
def test_whole_merges_give_the_same_bytes(merge: Merge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, changes, weights = checkpoints(tmp_path)
    experts = weights[:2] if merge.weights == "full" else changes
    digests = []
    for setting in ("1", "0"):
        monkeypatch.setenv("METIER_NATIVE", setting)
        run(merge, base, experts, tmp_path / f"out{setting}")
        digests.append(hashlib.sha256((tmp_path / f"out{setting}" / "model.safetensors").read_bytes()).hexdigest())
    assert digests[0] == digests[1]


@pytest.mark.parametrize("setting", ["1", "0"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_damaged_weights_are_told_either_way(setting: str, bad: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METIER_NATIVE", setting)
    base = {"w": torch.ones(200_000).bfloat16()}
    tuned = {"w": base["w"].clone()}
    tuned["w"][123_456] = bad
    for name, weights in (("base", base), ("tuned", tuned)):
        (tmp_path / name).mkdir()
        save_file(weights, tmp_path / name / "model.safetensors")
    found = Checkpoint(tmp_path / "base")
    for merge in (linear(), ties(density=0.2)):
        with pytest.raises(UserError, match=r"'w'.*not numbers"):
            run(merge, found, [diff(found, Checkpoint(tmp_path / "tuned"))], tmp_path / "out")
    assert not (tmp_path / "out").exists()


PROGRAM = """
import warnings, torch
warnings.simplefilter("error" if {quiet} else "always")
from metier.delta import Between, compiled
x = Between(torch.ones(3).bfloat16(), torch.full((3,), 2.0).bfloat16())
assert x.dense().tolist() == [1.0] * 3 and x.dense().tolist() == [1.0] * 3
assert compiled.loops() is None
"""


@pytest.mark.slow
@pytest.mark.parametrize("quiet", [True, False])
def test_without_a_compiler_torch_does_it_and_it_is_said_once(quiet: bool, tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(Path(native.__file__).parents[2])}
    if quiet:
        environment["METIER_NATIVE"] = "0"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(quiet=quiet)], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("METIER_NATIVE=0 to hear no more") == (0 if quiet else 1)


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken-cc").write_text("#!/bin/sh\necho 'broken-cc: no such processor' >&2\nexit 1\n")
    (tmp_path / "broken-cc").chmod(0o755)
    monkeypatch.setenv("CC", str(tmp_path / "broken-cc"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.warns(UserWarning, match="no such processor"):
        assert compiled._made.__wrapped__() is None
    assert not list((tmp_path / "cache").rglob("*.so"))


def with_and_without_torch(words: list[str], where: Path) -> None:
    """The command's results in the folders 'out', by the loops where torch cannot be imported, and 'again', by torch."""
    for program, out, native_loops in ((NO_TORCH, "out", "1"), (NO_TORCH.replace('sys.modules["torch"]', "ignored"), "again", "0")):
        environment = os.environ | {"PYTHONPATH": str(Path(native.__file__).parents[2]), "METIER_NATIVE": native_loops}
        call = [sys.executable, "-c", program, *words, "-o", out, "--no-verify"]
        done = subprocess.run(call, cwd=where, env=environment, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr


NO_TORCH = """
import sys
sys.modules["torch"] = None  # an import of it fails
from metier.cli.main import main
main()
"""


@pytest.mark.slow
@needs_loops
@pytest.mark.parametrize("words", ["linear", "slerp --t 0.3", "ties --density 0.2", "dare-ties --density 0.3", "breadcrumbs --density 0.2", "karcher",
                                   "model-stock", "ram", "arcee-fusion", "nearswap", "passthrough", "passthrough --scale 0.5", "sce --density 0.2",
                                   "sce --density 1", "della --density 0.5", "della-linear --density 0.4"])  # fmt: skip
def test_merges_of_stored_weights_need_no_torch(words: str, tmp_path: Path) -> None:
    checkpoints(tmp_path)
    name, *flags = words.split()
    models = {"slerp": "12", "arcee-fusion": "12", "nearswap": "1", "passthrough": "1"}.get(name, "123")
    with_and_without_torch(["merge", name, *models, "--base", "0", *flags], tmp_path)
    outs = [Checkpoint(tmp_path / out) for out in ("out", "again")]
    if name == "arcee-fusion":  # whose exponentials differ in their last bits: an entry at the limit may be another expert's
        assert all(float((a.float() != b.float()).float().mean()) < 1e-3 for a, b in zip(*(o.values() for o in outs), strict=True))
    else:
        assert all(torch.equal(a, b) for a, b in zip(*(o.values() for o in outs), strict=True))


def test_passthrough_is_the_expert_bit_for_bit(tmp_path: Path) -> None:
    """Its zeros keep their sign, and what the base's size would round away stays."""
    for folder, value in ((0, [1.0, 0.0, -0.0, 3e4, 1.0]), (1, [2.0, -0.0, 0.0, 1e-30, 1.0])):
        (tmp_path / str(folder)).mkdir()
        save_file({"w": torch.tensor(value, dtype=torch.bfloat16)}, tmp_path / str(folder) / "model.safetensors")
    merge, expert = passthrough(), Checkpoint(tmp_path / "1")
    run(merge, Checkpoint(tmp_path / "0"), [full(expert)], tmp_path / "out")
    found = Checkpoint(tmp_path / "out")["w"]
    assert torch.equal(found.view(torch.int16), expert["w"].view(torch.int16))
    with pytest.raises(UserError, match="takes no coef of its experts"):
        merged(merge, [full(expert)], coefs=[0.5])["w"].dense()


@pytest.mark.slow
@needs_loops
@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "slerp", "ties"])
def test_recipes_of_stored_weights_need_no_torch(method: str, tmp_path: Path) -> None:
    checkpoints(tmp_path)
    recipe: dict[str, Any] = {"merge_method": method, "base_model": "0", "models": [{"model": "1"}, {"model": "2"}]}
    if method == "slerp":
        recipe |= {"base_model": "1", "parameters": {"t": 0.4}}
    else:
        for model, weight in zip(recipe["models"], ([0.3, 0.7], 0.5), strict=True):
            model["parameters"] = {"weight": weight} | ({"density": 0.2} if method == "ties" else {})
    (tmp_path / "recipe.yml").write_text(json.dumps(recipe))
    with_and_without_torch(["merge", "from-mergekit", "recipe.yml"], tmp_path)
    outs = [Checkpoint(tmp_path / out) for out in ("out", "again")]
    assert all(torch.equal(a, b) for a, b in zip(*(o.values() for o in outs), strict=True))
    assert set(outs[0]) == set(Checkpoint(tmp_path / "0"))
