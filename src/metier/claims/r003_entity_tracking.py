"""Entity tracking (Prakash et al. 2024, arXiv:2402.14811): tuning enhances the mechanism that the base has, rather than making another.

Experiment: the base is tuned on boxes (`metier.worlds.tracking`). The retrieval heads of the base are the five of thirty whose last position
attends most to the clause that names the answer, taken on training scenes. Measured on test scenes: whether the same heads retrieve in the tuned model,
and whether the base answers better when these heads' outputs at the last position are taken from the tuned model (cross-model activation patching).
Effects:    same heads = attention of the base's five in the tuned model - (0.8 that of the tuned model's own five + 0.2 the mean head's), above 0
where the base's keep more than 80 % of what sets the tuned model's own apart; patched = share of right first tokens of the base so patched
minus that of the base.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metier.claims._scratch import scored
from metier.claims.claim import Claim
from metier.claims.lab import Lab, contrast
from metier.claims.result import Found
from metier.errors import UserError
from metier.model import Specialist, WeightChange
from metier.model.sites import changed, sites
from metier.task import Example, Task
from metier.worlds.tracking import Tracking

CLAIM = Claim(
    row=3,
    title="Fine-Tuning Enhances Existing Mechanisms: A Case Study on Entity Tracking",
    statement="The same circuit tracks entities in a base and in the models tuned from it, and the outputs of its parts in the tuned model, patched into the "
    "base, make the base better.",
    reported="no single figure in the abstract; the base's circuit restores most of the tuned models' accuracy, and patching the tuned models' "
    "activations raises the base's",
    experiment="Boxes, 600 training and 200 test scenes of 2 to 7 boxes; full tuning with 2000 examples, step size searched on dev; attention and "
    "patching at the last position on the test scenes, retrieval heads chosen on 100 training scenes.",
    rule={
        "attention to the answer in the tuned model: the base's retrieval heads minus 80 % of its own": 0.0,
        "right first tokens: base patched at its retrieval heads minus base": 0.0,
    },
    needs={"boxes: tuned minus base": 0.02},
    limits="The base names a box's content in a quarter of the scenes and 2000 examples do not raise that (nor do 20,000 of 4000 scenes, tried once: "
    "0.24), so there is nothing to enhance: the same heads attend to the answer, what reads them does not use it. A larger base is needed. Nothing is "
    "path-patched.",
    trials=4,
)

BUDGET, HEADS = "2000ex", 5


class Asked(NamedTuple):
    """A scene as tokens: ids, places of the clause that names the answer, and the answer's first token."""

    ids: list[int]
    clause: list[int]
    target: int


class Read(NamedTuple):
    """What a model does at the last position of one scene: attention of each head to the clause (heads,), outputs of the heads at each
    site (width,), and whether its likeliest next token is the answer's first."""

    attention: np.ndarray
    outputs: dict[str, Tensor]
    right: bool


def run(lab: Lab) -> Found:
    """Tune on boxes; read the heads of base and tuned model; patch the base with the tuned model's outputs."""
    world = Tracking()
    task = lab.cut(world.task("boxes"), train=600, dev=100, test=200, ood=0)
    moved = lab.cut(world.task("boxes-moved"), train=600, dev=100, test=200, ood=0)
    zero, zero_moved = lab.run("zero-shot", task), lab.run("zero-shot", moved)
    full, full_moved = lab.run("full", task, budget=BUDGET), lab.run("full", moved, budget=BUDGET)
    base = lab.bases[0]
    plain = Specialist(base, ())
    train, test = ([asked(plain, task, e) for e in examples] for examples in (task.train[:100], task.test))
    before = read(plain, test)
    own = retrieving(read(plain, train))
    rest = [h for h in range(len(before[0].attention)) if h not in own]
    rows: dict[str, dict[int, np.ndarray]] = {}
    shared = []
    for seed in lab.seeds:
        tuned = Specialist(base, (WeightChange(full.delta(seed)),))
        after, tuned_own = read(tuned, test), retrieving(read(tuned, train))
        shared.append(len(set(own) & set(tuned_own)) / len(own))
        seen = np.array([r.attention for r in after])
        others = np.random.default_rng(seed).permutation(rest)[: len(own)].tolist()
        found = {
            "base": [r.right for r in before],
            "tuned": [r.right for r in after],
            "base's heads": seen[:, own].mean(1),
            "tuned's heads": seen[:, tuned_own].mean(1),
            "mean head": seen.mean(1),
        } | {
            f"patched at {name}": patched(plain, test, after, heads)
            for name, heads in (("own", own), ("others", others), ("all", own + rest))
        }
        for name, values in found.items():
            rows.setdefault(name, {})[seed] = np.array(values, dtype=float)
    at = {name: scored(by_seed) for name, by_seed in rows.items()}
    bar = [(0.8, at["tuned's heads"]), (0.2, at["mean head"])]
    effects = [
        contrast("attention to the answer in the tuned model: the base's retrieval heads minus 80 % of its own", [(1.0, at["base's heads"])], bar),
        contrast("right first tokens: base patched at its retrieval heads minus base", [(1.0, at["patched at own"])], [(1.0, at["base"])]),
        contrast("boxes: tuned minus base", [(1.0, full.scores())], [(1.0, zero.scores())]),
        contrast("boxes with moves: tuned minus base", [(1.0, full_moved.scores())], [(1.0, zero_moved.scores())]),
        contrast("right first tokens: patched at the retrieval heads minus at as many others", [(1.0, at["patched at own"])], [(1.0, at["patched at others"])]),
        contrast("right first tokens: tuned minus base", [(1.0, at["tuned"])], [(1.0, at["base"])]),
        contrast("right first tokens: patched at all heads minus base", [(1.0, at["patched at all"])], [(1.0, at["base"])]),
    ]  # fmt: skip
    means = ", ".join(f"{name} {scores.per_seed().mean():.3f}" for name, scores in at.items())
    count = len(own) + len(rest)
    remarks = [
        f"of the base's {len(own)} retrieval heads {np.mean(shared):.0%} are among the tuned model's {len(own)}; by chance {len(own) / count:.0%}.",
        f"means: {means}.",
    ]
    return Found(effects=effects, remarks=remarks)


def asked(plain: Specialist, task: Task, example: Example) -> Asked:
    """The prompt as it is read, with the clause 'the THING is in Box X' that names the answer."""
    base = plain.base
    prompt = plain.prompt(task, example)
    text, ids = base.encode_prompt(prompt)
    found = re.search(rf"the {example.target} is in Box \w", text, re.IGNORECASE)
    spans = base.tokenizer(text, add_special_tokens=not base.chat, return_offsets_mapping=True)["offset_mapping"]
    if found is None or len(spans) != len(ids):
        raise UserError(f"claim: the scene of {example.id} does not name its answer once, or its tokens do not line up.")
    clause = [i for i, (start, end) in enumerate(spans) if start < found.end() and end > found.start()]
    return Asked(ids, clause, base.encode_answer(text, str(example.target), separator=prompt.separator)[0])


@torch.no_grad()
def read(specialist: Specialist, scenes: Sequence[Asked]) -> list[Read]:
    """Every scene through the model, one at a time."""
    rows = []
    with specialist.attached() as model, _eager(model):
        for scene in scenes:
            outputs: dict[str, Tensor] = {}
            with changed(model, {name: functools.partial(_kept, outputs, name) for name in sites(model)}):
                out = model(torch.tensor([scene.ids], device=specialist.base.device), output_attentions=True)
            seen = torch.cat([layer[0, :, -1, scene.clause].sum(-1) for layer in out.attentions])
            rows.append(Read(seen.cpu().double().numpy(), outputs, int(out.logits[0, -1].argmax()) == scene.target))
    return rows


def retrieving(rows: Sequence[Read]) -> list[int]:
    """The heads that attend most to the clause, on average; five, or half of them where there are fewer than ten."""
    mean = np.mean([r.attention for r in rows], axis=0)
    return sorted(np.argsort(-mean, kind="stable")[: min(HEADS, len(mean) // 2)].tolist())


@torch.no_grad()
def patched(plain: Specialist, scenes: Sequence[Asked], source: Sequence[Read], heads: Sequence[int]) -> list[bool]:
    """Whether the base is right when the heads' outputs at the last position are those that `source` had there."""
    places = [(name, site, i) for name, site in sites(plain.base.model).items() for i in range(site.heads)]
    rows = []
    with plain.attached() as model:
        for scene, taken in zip(scenes, source, strict=True):
            masks: dict[str, Tensor] = {}
            for name, site, i in (places[h] for h in heads):
                mask = masks.setdefault(name, torch.zeros(site.heads * site.size, dtype=torch.bool, device=plain.base.device))
                mask[i * site.size : (i + 1) * site.size] = True
            with changed(model, {name: functools.partial(_put, mask, taken.outputs[name]) for name, mask in masks.items()}):
                out = model(torch.tensor([scene.ids], device=plain.base.device))
            rows.append(int(out.logits[0, -1].argmax()) == scene.target)
    return rows


def _kept(outputs: dict[str, Tensor], name: str, z: Tensor) -> Tensor:
    outputs[name] = z[0, -1].clone()
    return z


def _put(mask: Tensor, outputs: Tensor, z: Tensor) -> Tensor:
    z = z.clone()
    z[0, -1] = torch.where(mask, outputs, z[0, -1])
    return z


@contextlib.contextmanager
def _eager(model: Any) -> Iterator[None]:
    """Attention that shows its weights, for the time of a with-block."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
