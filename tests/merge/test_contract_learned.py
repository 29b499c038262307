"""The merges that learn or need data keep the contract of methods."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.merge.learning import noise, saved, with_head
from tests.tiny import tiny_causal, tiny_encoder, tiny_seq2seq, tiny_task

from metier.contract import check_method
from metier.model import Base, WeightChange
from metier.train import Budget

BASES: dict[str, Callable[[], Base]] = {"causal": tiny_causal, "seq2seq": tiny_seq2seq, "encoder": tiny_encoder}
TWO: dict[str, dict[str, Any]] = {
    "atlas": {"batch_size": 8},
    "adamerging": {"batch_size": 8},
    "fisher": {"examples": 2},
    "regmean": {"examples": 2},
}
ONE: dict[str, dict[str, Any]] = {"graft": {"batch_size": 8, "density": 0.1}, "portllm": {}}
SAFE: dict[str, dict[str, Any]] = {"somf": {"batch_size": 8}, "realign": {"steps": 2, "warmup": 1, "prompts": 4}}


def safety(place: Path) -> str:
    """A file of questions with answers, as the behaviour that is to be kept."""
    task = tiny_task("generate")
    for split in ("train", "dev", "test"):
        rows = [{"question": e.fields["question"], "answer": e.answer} for e in task.split(split)]
        (place / f"{split}.jsonl").write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
    return str(place)


def settings_of(name: str, base: Base, place: Path) -> dict[str, Any]:
    """Experts of the base, one with a head for the task."""
    task = tiny_task("choose")
    experts = [with_head(base, noise(base, 1), task, 1), WeightChange(noise(base, 2))]
    given = {**TWO, **ONE, **SAFE}[name]
    if name in SAFE:
        (place / "safety").mkdir()
        given = {**given, "safety": safety(place / "safety")}
    return {**given, "experts": saved(base, place, experts if name in TWO else experts[:1])}


CASES = [(n, "causal", "choose") for n in (*TWO, *ONE, *SAFE)] + [
    ("atlas", "seq2seq", "generate"), ("adamerging", "encoder", "choose"), ("fisher", "encoder", "choose"),
    ("regmean", "seq2seq", "generate"), ("graft", "encoder", "choose"), ("portllm", "encoder", "choose"), ("somf", "seq2seq", "generate"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "family", "kind"), CASES)
def test_keeps_the_contract(name: str, family: str, kind: str, tmp_path: Path) -> None:
    base = BASES[family]()
    check_method(name, base=base, task=tiny_task(kind), settings=settings_of(name, base, tmp_path), budget=Budget(16))
