"""Noise in traces (Havrilla & Iyer 2024, arXiv:2402.04004): tuning tolerates much static noise in chains of thought, and less dynamic noise.

Experiment: the base is tuned on traced sums (`metier.worlds.arithmetic`, `noised`) without noise, with static noise (what a step says is wrong,
the computation goes on rightly) and with dynamic noise (the error is carried on); test traces and answers are right ones.
Effects:    share of right answers. tolerated = static at the high rate - 80 % of that without noise; harder = static at the high rate - dynamic at a lower one.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

from metier.claims.claim import Claim
from metier.claims.lab import Lab, contrast
from metier.claims.result import Found
from metier.task import Example, Task
from metier.worlds._arithmetic.traces import NoiseKind
from metier.worlds.arithmetic import Arithmetic

CLAIM = Claim(
    row=74,
    title="Understanding the Effect of Noise in LLM Training Data with Algorithmic Chains of Thought",
    statement="Models tuned on traces tolerate high rates of static noise in them, and suffer from lower rates of dynamic noise.",
    reported="the abstract gives no single figure: much static noise hardly harms, less dynamic noise harms more",
    experiment="Traced addition, 600 training and 200 test examples; full tuning with 3000 examples on right traces, on static noise in 50 % and 75 % of the "
    "steps, on dynamic noise in 25 % and 50 %; step size searched on dev, which has no noise.",
    rule={
        "static noise in 75 % of steps minus 80 % of no noise": 0.0,
        "static noise in 75 % of steps minus dynamic noise in 50 %": 0.0,
    },
    needs={},
    limits="One operation, sums of four digits. 600 traces are seen five times, where the paper trains on far more: under static noise the right value is "
    "only the likeliest of those that a step shows, which so few traces may not tell, while dynamic noise leaves every step right given the last.",
    trials=6,
)

BUDGET, DIGITS = "3000ex", 4
ARMS: dict[str, tuple[NoiseKind, float]] = {
    "no noise": ("none", 0.0),
    "static 50 %": ("static", 0.5),
    "static 75 %": ("static", 0.75),
    "dynamic 25 %": ("dynamic", 0.25),
    "dynamic 50 %": ("dynamic", 0.5),
}


def run(lab: Lab) -> Found:
    """Zero-shot, and full tuning on each kind and rate of noise."""
    clean = lab.cut(summed("none", 0.0), train=600, dev=100, test=200, ood=0)
    zero = lab.run("zero-shot", clean).scores()
    at, wrong = {}, {}
    for arm, (noise, rate) in ARMS.items():
        task = lab.cut(summed(noise, rate), train=600, dev=100, test=200, ood=0)
        at[arm] = lab.run("full", task, budget=BUDGET, label=f"full tuning, {arm}").scores()
        wrong[arm] = sum(_answer(e.target) != _answer(c.target) for e, c in zip(task.train, clean.train, strict=True)) / len(clean.train)
    right = at["no noise"]
    effects = [
        contrast("static noise in 75 % of steps minus 80 % of no noise", [(1.0, at["static 75 %"])], [(0.8, right)]),
        contrast("static noise in 75 % of steps minus dynamic noise in 50 %", [(1.0, at["static 75 %"])], [(1.0, at["dynamic 50 %"])]),
        contrast("tuning on right traces minus zero-shot", [(1.0, right)], [(1.0, zero)]),
        contrast("static noise minus dynamic noise, both in 50 % of steps", [(1.0, at["static 50 %"])], [(1.0, at["dynamic 50 %"])]),
        *(contrast(f"no noise minus {arm}", [(1.0, right)], [(1.0, scores)]) for arm, scores in at.items() if arm != "no noise"),
    ]
    means = ", ".join(
        f"{arm} {scores.per_seed().mean():.3f} ({wrong[arm]:.0%} of the training answers wrong)" for arm, scores in at.items()
    )
    return Found(effects=effects, remarks=[f"right answers: zero-shot {zero.per_seed().mean():.3f}, {means}."])


def summed(noise: NoiseKind, rate: float) -> Task:
    """Traced sums of four digits, the training traces noised; the problems are the same for every noise."""
    world = Arithmetic()

    def rows(split: str, count: int, kind: NoiseKind) -> tuple[Example, ...]:
        traces = itertools.islice(world.traced("add", DIGITS, noise=kind, rate=rate, split=split), count)
        return tuple(Example(f"sum-{split}-{i:05d}", {"question": t.question}, t.text) for i, t in enumerate(traces))

    task = world.task("add-traced")
    splits: dict[str, Any] = {
        "train": rows("train", 600, noise),
        "dev": rows("dev", 100, "none"),
        "test": rows("test", 200, "none"),
        "ood": (),
    }
    return dataclasses.replace(task, name=f"sums-{noise}-{rate:g}", **splits)


def _answer(trace: object) -> str:
    return str(trace).rpartition("Answer: ")[2]
