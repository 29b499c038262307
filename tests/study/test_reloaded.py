"""What is saved is read again and compared: the gap, and the perplexity that tells gibberish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import tiny_causal, tiny_encoder, tiny_task

from metier.delta import Delta, Dense
from metier.errors import Failed
from metier.merge._verdict import note
from metier.model import Specialist, WeightChange
from metier.study.content import digest
from metier.study.job import Job
from metier.study.reloaded import reloaded
from metier.study.trial import run_trial
from metier.train import Budget

TASK = tiny_task("choose")
NAME = "model.norm.weight"


def job(name: str, **settings: Any) -> Job:
    return Job(name, TASK, 0, Budget(48), "float32", {name: settings})


def specialist(scale: float = 1.0) -> Specialist:
    base = tiny_causal()
    value = scale * torch.randn(base.model.get_parameter(NAME).shape, generator=torch.Generator().manual_seed(0))
    return Specialist(base, (WeightChange(Delta({NAME: Dense(value)}, base.fingerprint)),))


@pytest.mark.slow
def test_a_change_of_weights_is_verified_and_gibberish_warned_of(tmp_path: Path) -> None:
    base, said = tiny_causal(), []
    specialist().save(tmp_path / "expert")
    asked = job("task-arithmetic", experts=(str(tmp_path / "expert"),), scale=1000.0)
    card = run_trial(asked, base, tmp_path, say=said.append)
    found = card["verified"]
    assert card["status"] == "done" and found["equal"] and found["gap"] == 0 and found["perplexity"] > 4 * found["base_perplexity"]
    assert said == card["remarks"] == [f"colours task-arithmetic seed 0: {found['warnings'][0]}"]
    assert said[0].endswith("it may write gibberish. Lower scale or coef.")
    assert json.loads((tmp_path / "trials" / card["key"] / "specialist" / "metier.json").read_text())["verified"] == found
    quiet = run_trial(job("lora", lr=1e-3), base, tmp_path)
    assert quiet["verified"]["equal"] and quiet["verified"]["warnings"] == [] and quiet["remarks"] == []
    assert run_trial(job("zero-shot"), base, tmp_path)["verified"] is None
    other = run_trial(job("lora", lr=1e-3), tiny_encoder(), tmp_path)["verified"]
    assert other["equal"] and other["perplexity"] is None and other["warnings"] == []


def test_what_says_something_else_when_read_again_is_refused(tmp_path: Path) -> None:
    """Also where no likelihood of the task's can tell: a task of ranking."""
    task = tiny_task("rank")
    specialist(2.0).save(tmp_path / "other")
    assert reloaded(specialist(2.0), tmp_path / "other", task, ["lora"])[0] is None
    with pytest.raises(Failed, match="does not say what it should: outputs differ by"):
        reloaded(specialist(), tmp_path / "other", task, ["lora"])
    assert not json.loads((tmp_path / "other" / "metier.json").read_text())["verified"]["equal"]


def test_what_verification_said_is_no_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("weights")
    before = digest(tmp_path)
    note(tmp_path, None, reload_gap=1e-7)
    assert (tmp_path / "metier.json").is_file() and digest(tmp_path) == before
    (tmp_path / "a").write_text("others")
    assert digest(tmp_path) != before
