"""Is a base worse calibrated after full tuning than after LoRA? A study: no paper says it, the question is this project's.

Experiment: full tuning and LoRA on reviews, five seeds, one budget that pays for their searches too (by accuracy on dev, then
likelihood); test, and the twin in which a cue of the training data turns false.
Effects:    expected calibration error (15 bins of equal width) after full tuning minus after LoRA, paired by example and seed.
The error is biased upwards in resamples; both sides are, so that their difference is less so, but an interval may sit off
its value.
"""

from __future__ import annotations

from metier.claims.claim import Claim
from metier.claims.lab import Lab, calibration, contrast, effect
from metier.claims.result import Effect, Found
from metier.evaluate import stats
from metier.evaluate.record import Record
from metier.worlds import world

CLAIM = Claim(
    row=None,
    title="Calibration after full tuning and after LoRA",
    statement="Full tuning leaves a model worse calibrated than LoRA does, on the task's distribution and off it.",
    reported="none: a question of this project's",
    experiment="Reviews, 600 training, 400 test and 400 shifted examples; full tuning and LoRA of rank 8 with 3000 examples each, step size searched "
    "on dev; five seeds.",
    rule={"calibration error of full tuning minus LoRA's": 0.0, "the same, out of distribution": 0.0},
    limits="One task, one small base, one kind of shift. The step size is chosen by accuracy, so that either side may trade calibration for it.",
    seeds=5,
    trials=3,
)

BUDGET = "3000ex"


def run(lab: Lab) -> Found:
    """Full tuning and LoRA, with the plain base beside them."""
    task = lab.cut(world("classification", size=2.0).task("reviews"), train=600, dev=100, test=400, ood=400)
    plain = lab.run("zero-shot", task)
    full = lab.run("full", task, budget=BUDGET)
    lora = lab.run("lora", task, budget=BUDGET, settings={"rank": 8})
    effects = [
        worse("calibration error of full tuning minus LoRA's", full.records(), lora.records()),
        worse("the same, out of distribution", full.records("ood"), lora.records("ood")),
        worse("calibration error of full tuning minus the base's", full.records(), plain.records()),
        contrast("score of full tuning minus LoRA's", [(1.0, full.scores())], [(1.0, lora.scores())]),
        contrast("score of full tuning minus LoRA's, out of distribution", [(1.0, full.scores("ood"))], [(1.0, lora.scores("ood"))]),
    ]
    errors = {
        name: [calibration(t.records(s)).per_seed().mean() for s in ("test", "ood")]
        for name, t in (("full", full), ("lora", lora), ("base", plain))
    }
    said = ", ".join(f"{name} {test:.3f} and {ood:.3f}" for name, (test, ood) in errors.items())
    return Found(effects=effects, remarks=[f"calibration error on test and out of distribution: {said}."])


def worse(name: str, new: dict[int, list[Record]], base: dict[int, list[Record]]) -> Effect:
    """Calibration error of `new` minus that of `base`."""
    left, right = calibration(base), calibration(new)
    return effect(name, stats.difference(left, right), right.per_seed() - left.per_seed())
