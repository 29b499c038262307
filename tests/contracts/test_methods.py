"""Every method in the catalogue keeps the contract, on every kind of base and task that it says it works on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import tiny_causal, tiny_encoder, tiny_seq2seq, tiny_task

from metier.contract import check_method
from metier.method import Method, catalogue
from metier.model import Base
from metier.train import Budget

BASES: dict[str, Callable[[], Base]] = {"causal": tiny_causal, "seq2seq": tiny_seq2seq, "encoder": tiny_encoder}

# Settings of methods that need something from outside the task, or would take long.
NEEDED: dict[str, Callable[[Path], dict[str, Any]]] = {
    "emulated-fine-tuning": lambda _: {"small": tiny_causal(seed=1, hidden=16).path},
    "somf": lambda place: {"safety": safety(place)},
    "realign": lambda place: {"safety": safety(place), "steps": 2, "warmup": 1, "prompts": 4},
    "fisher": lambda _: {"examples": 2},
    "regmean": lambda _: {"examples": 2},
    "graft": lambda _: {"density": 0.1},
    "wudi": lambda _: {"steps": 20},
}


def safety(place: Path) -> str:
    """A folder of questions with answers, as the behaviour that is to be kept."""
    task = tiny_task("generate")
    for split in ("train", "dev", "test"):
        rows = [{"question": e.fields["question"], "answer": e.answer} for e in task.split(split)]
        (place / f"{split}.jsonl").write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
    return str(place)


def suitable() -> list[tuple[str, str, str]]:
    """(method, family, kind): all that a method claims, but what no method can do: an encoder writes no text."""
    return [
        (name, family, kind)
        for name, method in catalogue().items()
        if method.room != "outside"
        for family in method.about.families
        for kind in method.about.kinds
        if not (family == "encoder" and kind == "generate")
    ]


FIRST = {name: (name, *on) for name, *on in reversed(suitable())}  # what the fast run asks of a method


@pytest.mark.parametrize(
    ("name", "family", "kind"), [pytest.param(*asked, marks=[pytest.mark.slow] * (FIRST[asked[0]] != asked)) for asked in suitable()]
)
def test_keeps_the_contract(name: str, family: str, kind: str, tmp_path: Path) -> None:
    method: Method = catalogue()[name]
    settings = NEEDED[name](tmp_path) if name in NEEDED else {}
    if "batch_size" in {s.name for s in method.settings}:
        settings = {"batch_size": 8, **settings}
    check_method(method, base=BASES[family](), task=tiny_task(kind), settings=settings, budget=Budget(16))


def test_every_place_is_taken() -> None:
    assert {m.about.place for m in catalogue().values()} == {"in", "activations", "weights", "out"}
