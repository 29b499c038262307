"""LoRA on a steered model: what is trained is what is saved, also where a hook sits on a map that the adapter wraps."""

from __future__ import annotations

import pytest
import torch
from tests.tiny import tiny_causal, tiny_task

from metier.method import find
from metier.model import Specialist
from metier.model.sites import sites
from metier.steer.lofit import Interventions
from metier.train import Budget, Run
from metier.tune.how import lora


def test_trained_as_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    task, base, live = tiny_task("choose"), tiny_causal(), []
    every = {n: tuple(range(s.heads)) for n, s in sites(base.model).items()}
    offsets = {n: torch.ones(s.heads, s.size) for n, s in sites(base.model).items()}
    start = Specialist(base, (Interventions(every, offsets=offsets),))
    fit = lora.fit

    def watched(what, run, **options):
        done = fit(what, run, keep_best=False, **options)
        live.extend(what.now().choose(task, task.dev))
        return done

    monkeypatch.setattr(lora, "fit", watched)
    change = lora.lora(start, task.sealed(), find("lora").configure({"lr": 0.05}), Run(budget=Budget(160)))
    saved = start.then(change).choose(task, task.dev)
    plain = start.choose(task, task.dev)
    assert max(float((a - b).abs().max()) for a, b in zip(live, saved, strict=True)) < 1e-4
    assert max(float((a - b).abs().max()) for a, b in zip(plain, saved, strict=True)) > 1e-3
