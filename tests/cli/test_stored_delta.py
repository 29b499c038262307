"""Stored deltas on the command line that are damaged, stand for what no memory holds, or refer to others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.cli.conftest import Run
from tests.delta.stored import edit
from tests.merge.models import checkpoint, noise
from tests.tiny import tiny_causal

from metier.delta import Checkpoint, Delta, Packed, Ref, Sparse, load, save
from metier.delta.stored import Stored
from metier.model import Base

NAME = "model.layers.1.mlp.up_proj.weight"
VERBS = {
    "show": "delta show d", "fold": "delta fold start d -o out", "unfold": "delta unfold tuned d -o out", "overlap": "delta overlap d e",
    "sum": "delta sum d e -o out --no-verify", "scale": "delta scale d 2 -o out --no-verify", "to-lora": "delta to-lora d --rank 2 -o out --no-verify",
    "compress": "delta compress d --method bitdelta -o out --no-verify", "merge": "merge ties d e --base start -o out --no-verify",
    "to-peft": "delta to-peft low -o out --no-verify",
}  # fmt: skip


@pytest.fixture
def base() -> Base:
    """start, tuned; d and e: changes of start; low: d in factors."""
    base, inside = tiny_causal(), noise(1)
    checkpoint(base, Path("start"))
    checkpoint(base, Path("tuned"), lambda n, t: inside(n, t) if "layers" in n else t)
    return base


def made(run: Run) -> None:
    assert run("delta", "diff", "start", "tuned", "-o", "d", "--no-verify").code == 0
    save(load("d") * 2.0, "e")
    assert run("delta", "to-lora", "d", "--rank", 2, "-o", "low", "--no-verify").code == 0


@pytest.mark.parametrize("verb", VERBS)
def test_one_changed_byte_stops_every_verb(run: Run, base: Base, verb: str) -> None:
    made(run)
    folder = "low" if verb == "to-peft" else "d"
    place = Path(folder, "delta.safetensors")
    content = bytearray(place.read_bytes())
    facts = Stored(place).facts
    first = next(f for n, f in facts.items() if n.startswith(NAME))
    content[Stored(place).start + first.begin] ^= 1  # the last bit of one number
    place.write_bytes(content)
    seen = run(*VERBS[verb].split())
    assert seen.code == 2 and f"{place}: delta: '{NAME}' is not what was written" in seen.err and "make the change again" in seen.err, (
        seen.err
    )
    assert not Path("out").exists() and not seen.out


@pytest.mark.parametrize("verb", [v for v in VERBS if v != "to-peft"])
@pytest.mark.parametrize(("kind", "shape"), [("sparse", [1 << 45]), ("sparse", [512, 1 << 40]), ("packed", [1 << 61])])
def test_few_bytes_for_a_huge_tensor_stop_every_verb(run: Run, base: Base, verb: str, kind: str, shape: list[int]) -> None:
    one = torch.tensor([1])
    small = torch.Size((8,))
    entry = Sparse(one, torch.ones(1), small) if kind == "sparse" else Packed.of(one, torch.tensor([True]), 0.5, small)
    for folder in "de":
        save(Delta({NAME: entry}), folder)
        edit(Path(folder), lambda table: table["entries"][NAME].update(shape=shape))
    seen = run(*VERBS[verb].split())
    assert seen.code == 2 and f"d/delta.json: '{NAME}'" in seen.err and str(shape)[1:-1] in seen.err, seen.err
    assert not Path("out").exists()


def test_references_are_found_beside_a_delta(run: Run, base: Base) -> None:
    made(run)
    low = load("low")
    from metier.delta.reader import identity

    key = identity("low")
    save(Delta({n: Ref(key, n, 0.5, low.shape(n)) for n in low}, low.base, low.provenance), "half")
    shown = json.loads(run("delta", "show", "half", "--json").out)["tensors"]
    assert {r["kind"] for r in shown} == {"ref"} and all(r["nonzero"] for r in shown)
    assert run("delta", "fold", "start", "half", "-o", "folded").code == 0
    want = (0.5 * low).apply(Checkpoint("start"))
    assert all(torch.allclose(Checkpoint("folded")[n], want[n], atol=1e-7) for n in want)
    assert run("merge", "linear", "half", "low", "--base", "start", "-o", "merged", "--no-verify").code == 0
    assert run("delta", "scale", "half", 2, "-o", "far/again").code == 0, "what is written does not refer to what may not be beside it"
    assert all(torch.equal(load("far/again")[n].dense(), low[n].dense()) for n in low)
    Path("low").rename("far/low")
    seen = run("delta", "fold", "start", "half", "-o", "out")
    assert seen.code == 2 and f"refers to the delta {key[:16]}" in seen.err and "Put its folder beside this one's" in seen.err
    assert not Path("out").exists()
