"""Checkpoints of unfinished training: safetensors and JSON, whole or not there; a finished run leaves none."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from metier import atomic

EVERY_SECONDS = 30.0


@dataclass
class Best:
    """The best dev value so far, its step, and the parameters then."""

    dev: float
    step: int
    values: list[Tensor]


def save(place: Path, loop: Any) -> None:
    """Write everything from which `loop` goes on to the same end."""
    tensors: dict[str, Tensor] = {"rng": torch.get_rng_state()}
    for i, p in enumerate(loop.what.parameters.values()):
        tensors[f"p{i}"] = p.detach()
        tensors |= {f"s{i}|{k}": v for k, v in loop.optimizer.state[p].items() if torch.is_tensor(v)}
    tensors |= {f"b{i}": v for i, v in enumerate(loop.best.values)}
    spent = loop.run.spent
    facts = {
        "key": loop.key, "bad": loop.bad, "least": loop.least,
        "step": loop.step, "order": loop.order, "shuffler": loop.rng.getstate(), "best": [loop.best.dev, loop.best.step], "micro": loop.micro,
        "first_loss": loop.first_loss, "smooth": loop.smooth, "curve": loop.run.curve, "spent": [spent.examples, spent.tokens, spent.flops],
    }  # fmt: skip
    with atomic.folder(place / "checkpoint") as draft:
        save_file({k: v.cpu().contiguous().clone() for k, v in tensors.items()}, draft / "state.safetensors")
        (draft / "state.json").write_text(json.dumps(facts), encoding="utf-8")


def key(loop: Any) -> list[Any]:
    """What a checkpoint must agree on with the run that goes on from it: parameters, learning rates, batch size, rows, seed."""
    groups = [[n, list(p.shape), loop.tops[n]] for n, p in loop.what.parameters.items()]
    content = hashlib.sha256(repr([(r.ids, r.labels) for r in loop.rows]).encode()).hexdigest()
    return [groups, loop.size, content, loop.run.seed, loop.run.precision, str(loop.run.budget)]


def load(place: Path, loop: Any) -> bool:
    """Put the loop where it was when the checkpoint was written. False where there is none, or one of another run."""
    folder = place / "checkpoint"
    if not folder.exists():
        return False
    facts = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if facts["key"] != loop.key:
        return False
    tensors = load_file(folder / "state.safetensors")
    torch.set_rng_state(tensors["rng"])
    with torch.no_grad():
        for i, p in enumerate(loop.what.parameters.values()):
            p.copy_(tensors[f"p{i}"])
            state = {k.partition("|")[2]: v.clone() for k, v in tensors.items() if k.startswith(f"s{i}|")}
            if state:
                loop.optimizer.state[p] = state
    kind, numbers, gauss = facts["shuffler"]
    loop.rng = random.Random()
    loop.rng.setstate((kind, tuple(numbers), gauss))
    values = [tensors[f"b{i}"].to(p.device) for i, p in enumerate(loop.what.parameters.values())] if "b0" in tensors else []
    loop.best = Best(facts["best"][0], facts["best"][1], values)
    loop.step, loop.order, loop.micro = facts["step"], facts["order"], facts["micro"]
    loop.first_loss, loop.smooth, loop.bad, loop.least = facts["first_loss"], facts["smooth"], facts["bad"], facts["least"]
    loop.run.curve[:] = facts["curve"]
    loop.run.spent.examples, loop.run.spent.tokens, loop.run.spent.flops = facts["spent"]
    return True


def planned(place: Path) -> int | None:
    """The number of steps that an interrupted run had planned for its seconds."""
    file = place / "plan.json"
    return int(json.loads(file.read_text())["steps"]) if file.exists() else None


def write_plan(place: Path, steps: int) -> None:
    """Remember how many steps the seconds pay for, so that a resumed run plans the same."""
    atomic.write_json(place / "plan.json", {"steps": steps})


def clear(place: Path | None) -> None:
    """Remove the checkpoint of a run that has ended."""
    if place is not None:
        shutil.rmtree(place / "checkpoint", ignore_errors=True)
