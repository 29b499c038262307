"""Streamed merges of checkpoints: equal to those in memory bit for bit, all or nothing, safe to kill."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from metier import lazy
from metier.delta import Checkpoint, Delta, Dense, Merge, Sparse, diff, full, identity, merged, per_tensor, run
from metier.delta.execute import apply
from metier.delta.parts import drop, elect_sign_mean, mean, total
from metier.delta.pool import Pool
from metier.delta.scratch import scratch
from metier.errors import KeyMismatch, ShapeMismatch, Unwritable, UserError
from metier.merge.linear import linear
from metier.merge.ties import ties

SHAPES = {"embed.weight": (40, 8), "h.0.w": (8, 9), "h.0.norm": (8,), "h.1.w": (1, 9), "h.1.b": (), "h.1.none": (0, 3)}
INTS = {"buffer": torch.arange(5), "flag": torch.tensor([True, False]), "step": torch.tensor(3)}
TYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def state(seed: int, dtype: torch.dtype | None = torch.bfloat16, near: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Weights; `dtype` None: another type for every tensor."""
    g = torch.Generator().manual_seed(seed)
    found = {}
    for i, (name, shape) in enumerate(SHAPES.items()):
        value = torch.randn(shape, generator=g, dtype=torch.float64)
        value = near[name].double() + 0.1 * value if near else value * (torch.rand(shape, generator=g) < 0.8)
        found[name] = torch.where(value == 0, -0.0, value).to(dtype or TYPES[i % 4])
    return found | INTS


def write(folder: Path, weights: dict[str, Tensor], shards: int = 1, config: dict[str, object] | None = None) -> Checkpoint:
    folder.mkdir(parents=True, exist_ok=True)
    names = list(weights)
    where = {
        n: f"model-{i % shards + 1:05d}-of-{shards:05d}.safetensors" if shards > 1 else "model.safetensors" for i, n in enumerate(names)
    }
    for file in sorted(set(where.values())):
        save_file({n: weights[n].contiguous() for n in names if where[n] == file}, folder / file, metadata={"format": "pt"})
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    (folder / "config.json").write_text(json.dumps(config or {"architectures": ["Tiny"]}))
    (folder / "tokenizer.json").write_text("{}")
    return Checkpoint(folder)


def loaded(folder: Path) -> dict[str, Tensor]:
    return {n: t for f in sorted(folder.glob("*.safetensors")) for n, t in load_file(f).items()}


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert set(a) == set(b)
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape, name
        assert bytes(a[name].reshape(-1).view(torch.uint8).numpy()) == bytes(b[name].reshape(-1).view(torch.uint8).numpy()), name


WAYS = {
    "linear": linear,
    "ties": lambda: ties(density=0.3),
    "ties model": lambda: ties(density=0.3, scope="model"),
    "dare": lambda: Merge(drop(0.5, seed=1), elect_sign_mean, identity()),
    "whole": lambda: Merge(per_tensor(lambda t: t * 0.5), total, identity()),
    "not sliced": lambda: Merge(identity(), mean, identity(), elementwise=False),
}


@settings(max_examples=24, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(WAYS)), st.sampled_from([*TYPES, None]), st.integers(1, 3), st.integers(0, 99))
def test_streamed_equals_in_memory(
    tmp_path_factory: pytest.TempPathFactory, way: str, dtype: torch.dtype | None, shards: int, seed: int
) -> None:
    place = tmp_path_factory.mktemp("m")
    base = write(place / "base", state(seed, dtype), shards)
    experts = [write(place / f"e{i}", state(seed + i + 1, dtype, dict(base)), 1 + i) for i in range(3)]
    deltas = [diff(base, e) for e in experts]
    report = run(WAYS[way](), base, deltas, place / "out", coefs=[0.5, 1.0, 0.25])
    want = merged(WAYS[way](), deltas, coefs=[0.5, 1.0, 0.25]).read().apply({n: t.clone() for n, t in base.items()})
    same_bits(loaded(place / "out"), want)
    assert sorted(p.name for p in (place / "out").iterdir()) == sorted([*(p.name for p in (place / "base").iterdir()), "metier.json"])
    assert sorted(p.name for p in place.iterdir()) == ["base", "e0", "e1", "e2", "out"]
    assert report.tensors == len(base) and list(Checkpoint(place / "out")) == list(base)


def test_rounding_is_correct_and_once(tmp_path: Path) -> None:
    """bf16 in: the mean of the weights in float64, rounded to nearest, is what comes out, but for the float32 sum's own error."""
    weights = [torch.randn(200, 100).bfloat16() for _ in range(4)]
    base, *experts = (write(tmp_path / str(i), {"w": w}) for i, w in enumerate(weights))
    run(linear(), base, [diff(base, e) for e in experts], tmp_path / "out")
    exact = torch.stack([w.double() for w in weights[1:]]).mean(0)
    got = loaded(tmp_path / "out")["w"]
    half_ulp = exact.abs().log2().floor().exp2() * 2.0**-8
    assert bool(((got.double() - exact).abs() <= half_ulp + 2.0**-20).all())


def test_slices_of_large_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    weights = {"w": torch.randn(700, 1000).bfloat16(), "v": torch.randn(300_000)}
    base = write(tmp_path / "base", weights)
    experts = [write(tmp_path / f"e{i}", {n: (t + 0.01 * torch.randn(t.shape)).to(t.dtype) for n, t in weights.items()}) for i in range(3)]
    deltas = [diff(base, e) for e in experts]
    for way in (ties(density=0.2), WAYS["dare"](), linear()):
        run(way, base, deltas, tmp_path / "out", force=True)
        one = merged(way, deltas).read()
        same_bits(loaded(tmp_path / "out"), one.apply(dict(base)))
        run(way, base, deltas, tmp_path / "out", workers=1, force=True)
        same_bits(loaded(tmp_path / "out"), one.apply(dict(base)))


def test_a_merge_of_merges() -> None:
    """Slices of an inner merge are formed while the stack of the outer one is filled."""
    a, b, c, d = (Delta({"w": Dense(torch.randn(300, generator=torch.Generator().manual_seed(i)))}) for i in range(4))
    add = Merge(identity(), total, identity())
    got = merged(add, [c, merged(add, [a, b]), d])["w"].part(0, 300)
    assert torch.equal(got, c["w"].dense() + (a["w"].dense() + b["w"].dense()) + d["w"].dense())


def test_progress_is_told(tmp_path: Path) -> None:
    base, told = write(tmp_path / "base", state(0), 2), []  # type: ignore[var-annotated]
    run(linear(), base, [diff(base, base)], tmp_path / "out", advance=told.append)
    assert sum(told) == base.bytes() and len(told) > 1


REPLACED = """
import os, signal, sys
from pathlib import Path
from metier.delta import Checkpoint, diff, place as placing, run
from metier.merge.linear import linear
place, left, rename = Path(sys.argv[1]), [int(sys.argv[3])], os.rename
def dies(*paths):
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    rename(*paths)
os.rename = dies
if sys.argv[2] == "cannot":
    placing._exchanged = lambda *_: False
base = Checkpoint(place / "base")
run(linear(), base, [diff(base, Checkpoint(place / "e"))], place / "out", force=True)
"""


@pytest.mark.parametrize(
    ("disk", "moment"), [("swaps", 0), *(pytest.param("cannot", moment, marks=pytest.mark.slow) for moment in range(3))]
)
@pytest.mark.slow
def test_killed_while_an_older_output_is_replaced(tmp_path: Path, disk: str, moment: int) -> None:
    """The older output or the new one is there, whole; where a disk cannot swap, the older one is back at the next run."""
    base, expert = write(tmp_path / "base", state(0)), write(tmp_path / "e", state(1))
    run(linear(), base, [diff(base, base)], tmp_path / "out")
    old = loaded(tmp_path / "out")
    words = [sys.executable, "-c", REPLACED, str(tmp_path), disk, str(moment)]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    with pytest.raises(UserError, match="is there already"):
        run(linear(), base, [diff(base, expert)], tmp_path / "out")
    new = merged(linear(), [diff(base, expert)]).read().apply(dict(base))
    swapped = (disk, moment) in (("swaps", 0), ("cannot", 2)) and sys.platform == "linux"
    same_bits(loaded(tmp_path / "out"), new if swapped else old)
    run(linear(), base, [diff(base, expert)], tmp_path / "out", force=True)
    same_bits(loaded(tmp_path / "out"), new)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "e", "out"]


def test_no_change_is_the_base_to_the_bit(tmp_path: Path) -> None:
    base = write(tmp_path / "base", state(0, None), 2)
    for i, deltas in enumerate(([diff(base, base)], [Delta({})], [Delta({"h.0.w": Dense(torch.zeros(8, 9))})])):
        run(linear(), base, deltas, tmp_path / f"out{i}")
        same_bits(loaded(tmp_path / f"out{i}"), dict(base))


def test_apply_gives_the_tuned_model_back(tmp_path: Path) -> None:
    base, tuned = write(tmp_path / "base", state(0)), write(tmp_path / "tuned", state(1, near=state(0)))
    apply(base, diff(base, tuned), tmp_path / "out")
    same_bits({n: t + 0 for n, t in loaded(tmp_path / "out").items()}, {n: t + 0 for n, t in dict(tuned).items()})
    sparse = Delta({"h.0.w": Sparse(torch.tensor([3]), torch.tensor([1.0]), torch.Size((8, 9)))})
    apply(base, sparse, tmp_path / "sparse")
    assert int((loaded(tmp_path / "sparse")["h.0.w"] != base["h.0.w"]).sum()) == 1


def test_weights_themselves(tmp_path: Path) -> None:
    base, other = write(tmp_path / "base", state(0)), write(tmp_path / "b", state(1))
    run(Merge(identity(), mean, identity(), weights="full"), base, [full(base), full(other)], tmp_path / "out")
    got, want = loaded(tmp_path / "out")["h.0.w"], ((base["h.0.w"].float() + other["h.0.w"].float()) / 2).bfloat16()
    assert torch.equal(got, want)


def test_tied_output_layers(tmp_path: Path) -> None:
    weights = {"model.embed_tokens.weight": torch.randn(6, 4), "lm_head.weight": torch.randn(6, 4)}
    base = write(tmp_path / "base", weights)
    tied = write(tmp_path / "tied", {"model.embed_tokens.weight": torch.ones(6, 4)}, config={"tie_word_embeddings": True})
    got = diff(base, tied)
    assert torch.equal(got["lm_head.weight"].dense(), 1 - weights["lm_head.weight"])
    with pytest.raises(KeyMismatch, match=r"'lm_head.weight' of .*base.* is a tensor of its own, in the base .*tied it is"):
        diff(tied, base)
    same = weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    assert list(diff(tied, write(tmp_path / "same", same))) == ["model.embed_tokens.weight"]
    write(tmp_path / "loose", {"model.embed_tokens.weight": torch.ones(6, 4)})
    with pytest.raises(KeyMismatch, match=r"loose: lacks 'lm_head.weight'"):
        diff(base, Checkpoint(tmp_path / "loose"))


def test_mismatches_come_before_any_output(tmp_path: Path) -> None:
    base = write(tmp_path / "base", state(0), 2)
    odd = state(1)
    cases = {
        "lacks 'h.0.w'": {n: t for n, t in odd.items() if n != "h.0.w"},
        r"'h.0.w' has shape \(2, 2\) in .*e\d/model.safetensors, \(8, 9\) in .*base/model-": odd | {"h.0.w": torch.ones(2, 2)},
        r"'buffer' of .*model.safetensors holds whole numbers that differ": odd | {"buffer": torch.arange(5) + 1},
        "'head' is a tensor that the base does not have": odd | {"head": torch.ones(2)},
    }
    for i, (message, weights) in enumerate(cases.items()):
        with pytest.raises((KeyMismatch, ShapeMismatch, UserError), match=message):
            run(linear(), base, [diff(base, write(tmp_path / f"e{i}", weights))], tmp_path / "out")
    with pytest.raises(KeyMismatch, match="is a Other, the base .* a Tiny"):
        diff(base, write(tmp_path / "o", odd, config={"architectures": ["Other"]}))
    assert not [p for p in tmp_path.iterdir() if "out" in p.name]


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    base = write(tmp_path / "base", state(0))
    bad = state(1)
    bad["h.0.w"][1, 1] = float("nan")
    for way in (linear(), ties()):
        with pytest.raises(UserError, match="'h.0.w'"):
            run(way, base, [diff(base, write(tmp_path / "bad", bad))], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run(linear(), base, [diff(base, write(tmp_path / "good", state(1)))], tmp_path / "out")


def test_a_refusal_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half-written shards go; whole ones stay where a next run may go on with them: after a full disk, not after what will be refused again."""
    base, bad = write(tmp_path / "base", state(0), 2), state(1)
    last = next(iter(base.shards[1].facts))
    bad[last] = torch.full_like(bad[last], float("nan"))
    deltas = [diff(base, write(tmp_path / "bad", bad))]
    before = {"bad", "base"}
    with pytest.raises(UserError, match=f"'{last}'"):
        run(linear(), base, deltas, tmp_path / "out", recipe={"method": "linear"}, workers=1)
    assert {p.name for p in tmp_path.iterdir()} == before

    stops = set(base)

    def full(self: object, name: str, *_: object) -> None:
        if name in stops:
            raise OSError(errno.ENOSPC, "No space left on device")

    good = [diff(base, write(tmp_path / "good", state(1)))]
    monkeypatch.setattr("metier.delta.write.ShardWriter.write", full)
    for left in (set(), {".out.part"}):
        with pytest.raises(Unwritable, match="the disk is full"):
            run(linear(), base, good, tmp_path / "out", recipe={"method": "linear"}, workers=1)
        assert {p.name for p in tmp_path.iterdir()} == before | {"good"} | left
        stops = {last}


def test_float16_overflow_is_told(tmp_path: Path) -> None:
    base, big = write(tmp_path / "base", {"w": torch.ones(3).half()}), Delta({"w": Dense(torch.full((3,), 1e6))})
    with pytest.raises(UserError, match="beyond what float16 can hold"):
        apply(base, big, tmp_path / "out")


def test_an_output_that_is_there(tmp_path: Path) -> None:
    base = write(tmp_path / "base", state(0))
    apply(base, Delta({}), tmp_path / "out")
    with pytest.raises(UserError, match="is there already"):
        apply(base, Delta({}), tmp_path / "out")
    with pytest.raises(UserError, match="is read for this result"):
        apply(base, Delta({}), tmp_path / "base", force=True)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "x.safetensors"}}, "cannot be read"), ({"weight_map": {"a": "../model.safetensors"}}, "no table weight_map"),
        ({"weight_map": {"zz": "model.safetensors"}}, "'zz' is in model.safetensors"), ({}, "no table weight_map"),
        ({"weight_map": {"h.0.w": "model.safetensors"}}, "does not name"),
    ],
)  # fmt: skip
def test_damaged_indices(tmp_path: Path, index: object, message: str) -> None:
    write(tmp_path / "m", state(0))
    (tmp_path / "m/model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=message):
        Checkpoint(tmp_path / "m")


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        Checkpoint(tmp_path / "none")
    with pytest.raises(UserError, match="no safetensors file"):
        Checkpoint(tmp_path)


KILLED = """
import sys, time
from pathlib import Path
from metier.delta import Checkpoint, diff, run
from metier.delta import write
from metier.merge.ties import ties
slow = write.ShardWriter.write
def crawl(self, *a):
    time.sleep(0.02)
    slow(self, *a)
write.ShardWriter.write = crawl if sys.argv[2] == "slow" else slow
place = Path(sys.argv[1])
base = Checkpoint(place / "base")
print("kept", run(ties(), base, [diff(base, Checkpoint(place / "e"))], place / "out", recipe={"method": sys.argv[3]}).kept, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", [1, 3])
def test_killed_and_run_again(tmp_path: Path, moment: int) -> None:
    base = write(tmp_path / "base", {f"w{i}": torch.randn(20, 20).bfloat16() for i in range(40)}, shards=4)
    tuned = write(tmp_path / "e", {n: t + 0.1 for n, t in base.items()})
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), "slow", "ties"], stdout=subprocess.PIPE)
    draft = tmp_path / ".out.part"
    while child.poll() is None and len(list(draft.glob("*.safetensors"))) < moment:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert not (tmp_path / "out").exists() and sorted(p.name for p in tmp_path.iterdir()) == [".out.part", "base", "e"]
    again = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), "fast", "ties"], capture_output=True, text=True, check=True)
    assert int(again.stdout.split()[1]) >= moment
    same_bits(loaded(tmp_path / "out"), merged(ties(), [diff(base, tuned)]).read().apply(dict(base)))
    assert not draft.exists()


def test_another_recipe_keeps_nothing(tmp_path: Path) -> None:
    base = write(tmp_path / "base", state(0), 2)
    delta = diff(base, write(tmp_path / "e", state(1)))
    draft = tmp_path / ".out.part"
    draft.mkdir()
    (draft / "metier.json").write_text("{}")
    save_file({"x": torch.ones(3)}, draft / base.shards[0].path.name)
    assert run(linear(), base, [delta], tmp_path / "out").kept == 0
    same_bits(loaded(tmp_path / "out"), merged(linear(), [delta]).read().apply(dict(base)))


def test_without_a_recipe_nothing_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ways of merging into one place, the first stopped half-way: the second must not take its shards."""
    base = write(tmp_path / "base", state(0), 2)
    delta = diff(base, write(tmp_path / "e", state(1)))
    with monkeypatch.context() as m:
        m.setattr("metier.delta.write.renamed", lambda *_: (_ for _ in ()).throw(RuntimeError("stopped")))
        with pytest.raises(RuntimeError, match="stopped"):
            run(ties(density=0.1), base, [delta], tmp_path / "out")
    assert run(linear(), base, [delta], tmp_path / "out").kept == 0
    same_bits(loaded(tmp_path / "out"), merged(linear(), [delta]).read().apply(dict(base)))


@pytest.mark.slow
@pytest.mark.ray
def test_on_ray_the_bytes_are_the_same(tmp_path: Path) -> None:
    """Every shard in a worker of its own; the finished ones of a stopped run are kept; an error there is an error here."""
    base = write(tmp_path / "base", state(0), 3)
    deltas = [diff(base, write(tmp_path / f"e{i}", state(i + 1, near=state(0)), 1 + i)) for i in range(2)]
    way = ties(density=0.3, scope="model")

    def stopped(done: int) -> None:
        if (tmp_path / ".out.part" / base.shards[0].path.name).exists():
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        run(way, base, deltas, tmp_path / "out", recipe={"merge": "ties"}, advance=stopped)
    assert run(way, base, deltas, tmp_path / "out", recipe={"merge": "ties"}, ray="local").kept == 1
    run(way, base, deltas, tmp_path / "here")
    same_bits(loaded(tmp_path / "out"), loaded(tmp_path / "here"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "e0", "e1", "here", "out"]
    bad = Delta({"h.0.w": Dense(torch.full((8, 9), float("inf")))})
    with pytest.raises(UserError, match="'h.0.w' would hold values that are infinite"):
        run(linear(), base, [bad], tmp_path / "bad", ray="local")
    assert not (tmp_path / "bad").exists()


def test_where_no_cluster_answers(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    base = write(tmp_path / "base", state(0))
    for address, says in (("nobody", "write HOST:PORT"), ("127.0.0.1:1", "nobody answers there")):
        with pytest.raises(UserError, match=says):
            run(linear(), base, [diff(base, base)], tmp_path / "out", ray=address)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base"]


def test_devices(tmp_path: Path) -> None:
    base = write(tmp_path / "base", state(0))
    deltas = [diff(base, write(tmp_path / f"e{i}", state(i + 1))) for i in range(2)]
    run(ties(), base, deltas, tmp_path / "here")
    run(ties(), base, deltas, tmp_path / "named", device="cpu")
    same_bits(loaded(tmp_path / "here"), loaded(tmp_path / "named"))
    if torch.cuda.is_available():
        run(ties(), base, deltas, tmp_path / "there", device="cuda")
        for name, value in loaded(tmp_path / "here").items():
            torch.testing.assert_close(loaded(tmp_path / "there")[name], value, atol=1e-2, rtol=1e-2)
    else:
        with pytest.raises(UserError, match="--device cuda: torch has no such device here"):
            run(ties(), base, deltas, tmp_path / "out", device="cuda")
    with pytest.raises(UserError, match="--device gpu: torch has no such device here"):
        run(ties(), base, deltas, tmp_path / "out", device="gpu")
    assert not (tmp_path / "out").exists()


MEMORY = """
import sys, threading, time
from pathlib import Path
import torch
from metier.delta import Checkpoint, Merge, diff, identity, per_tensor, run
from metier.delta.parts import total
from metier.delta.parts.drop_by_rank import drop_by_rank
place = Path(sys.argv[1])
way = {
    "whole": Merge(per_tensor(lambda t: t.mul(2)), total, identity()),
    "one by one": Merge(identity(), total, identity(), elementwise=False),
    "rows": Merge(drop_by_rank(0.5, 0.1), total, identity()),
}[sys.argv[2]]
base = Checkpoint(place / "base")
deltas = [diff(base, Checkpoint(place / f"e{i}")) for i in range(6)]
def own():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
most, before, ended = [0], own(), threading.Event()
def look():
    while not ended.wait(0.002):
        most[0] = max(most[0], own())
thread = threading.Thread(target=look)
thread.start()
run(way, base, deltas, place / sys.argv[2], workers=2)
ended.set()
thread.join()
print(most[0] - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="anonymous pages are counted as Linux tells them")
@pytest.mark.parametrize("way", ["whole", "one by one", "rows"])
def test_memory_does_not_grow_with_the_experts(tmp_path: Path, way: str) -> None:
    """Six experts, whole tensors: at most 100 MB and three times the largest tensor, where six copies in float32 take twelve times that."""
    n = 12_000_000
    weights = {"model.layers.0.w": torch.randn(n // 1000, 1000).bfloat16(), "model.layers.1.w": torch.randn(n // 1000, 1000).bfloat16()}
    write(tmp_path / "base", weights)
    for i in range(6):
        write(tmp_path / f"e{i}", {k: (v.float() + 0.01 * (i + 1)).bfloat16() for k, v in weights.items()})
    found = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path), way], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 100e6 + 3 * 2 * n


def test_scratch_made_while_inferring_can_be_used_again() -> None:
    with torch.inference_mode():
        scratch("of this test", 3)
    assert scratch("of this test", 3).zero_().tolist() == [0.0] * 3


def test_torch_has_one_thread_in_a_thread_of_the_pool() -> None:
    before, seen = torch.get_num_threads(), list[int]()
    with Pool(2) as pool:
        for _ in range(4):
            pool.submit(lambda: seen.append(lazy.torch.get_num_threads()))
        pool.wait()
    assert seen == [1] * 4 and torch.get_num_threads() == before
