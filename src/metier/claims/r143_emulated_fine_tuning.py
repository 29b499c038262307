"""Emulated fine-tuning (Mitchell et al. 2023, arXiv:2310.12962): tune a small model, and let a larger one speak with what it learnt.

Experiment: the small base is tuned, and what tuning changed in its predictions is added to those of the larger base, which is not
touched. Two tasks: reviews (a choice), and index cards, a form of question that no base has seen, about facts that pretraining
stated; the facts of the test are not those of train, so tuning can teach the form only, and the base must bring the facts.
Effects:    score of the emulation minus that of the tuned small model, and minus that of the plain larger one; both tasks' examples
count the same.
"""

from __future__ import annotations

from dataclasses import replace

from metier.claims.claim import Claim
from metier.claims.lab import Lab, contrast, join
from metier.claims.result import Found
from metier.task import Task
from metier.worlds import world

CLAIM = Claim(
    row=143,
    title="An Emulator for Fine-Tuning Large Language Models using Small Language Models",
    statement="Adding to a large pretrained model what fine-tuning changed in a small one's predictions gives a model better than the tuned small "
    "one and than the plain large one, without tuning the large one.",
    reported="no single figure in the abstract; up-scaling helps throughout in three families of models",
    experiment="metier-nano is tuned with 3000 examples (step size searched on dev), metier-tiny is left alone. Reviews (600 training, 200 test "
    "examples) and index cards about known facts (200 and 200).",
    rule={"emulation minus the tuned small model": 0.0, "emulation minus the plain large model": 0.0},
    needs={"tuned small model minus the plain small model": 0.02},
    limits="The paper tunes on instructions and judges open answers; here both tasks have right answers. The two bases are small, the "
    "larger one six times as large, pretrained on the same text.",
    bases=("metier-tiny", "metier-nano"),
    trials=10,
)

BUDGET = "3000ex"
CARD = "Card\nabout: {{ subject }}\nfield: {{ relation }}\nentry:"


def run(lab: Lab) -> Found:
    """Both bases plain, the small one tuned, the large one emulating; the large one tuned is what is emulated."""
    tasks, small = _tasks(lab), lab.bases[1]
    steering = {"small": small.name}
    large_plain = join({t.name: lab.run("zero-shot", t).scores() for t in tasks})
    small_plain = join({t.name: lab.run("zero-shot", t, base=1).scores() for t in tasks})
    tuned = join({t.name: lab.run("full", t, budget=BUDGET, base=1).scores() for t in tasks})
    each = {t.name: lab.run("emulated-fine-tuning", t, budget=BUDGET, settings=steering).scores() for t in tasks}
    emulated = join(each)
    ceiling = join({t.name: lab.run("full", t, budget=BUDGET).scores() for t in tasks})
    effects = [
        contrast("emulation minus the tuned small model", [(1.0, emulated)], [(1.0, tuned)]),
        contrast("emulation minus the plain large model", [(1.0, emulated)], [(1.0, large_plain)]),
        contrast("tuned small model minus the plain small model", [(1.0, tuned)], [(1.0, small_plain)]),
        contrast("the tuned large model minus emulation", [(1.0, ceiling)], [(1.0, emulated)]),
    ]
    return Found(effects=effects)


def _tasks(lab: Lab) -> list[Task]:
    reviews = lab.cut(world("classification").task("reviews"), train=600, dev=100, test=200, ood=0)
    known = world("facts").tasks()["facts-known"]
    return [reviews, lab.cut(replace(known, name="cards", template=CARD), train=200, dev=80, test=200, ood=0)]
