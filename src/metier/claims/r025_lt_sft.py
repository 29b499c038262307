"""LT-SFT (Ansell et al. 2022, arXiv:2110.07560): sparse changes lose little alone and add up better than others.

Experiment: on two worlds (reviews, a choice; skill, text that is generated) the same base is tuned by full tuning, LT-SFT at
8 % density and LoRA, each under one budget that pays for its search too. The two changes that a method made with one seed
are added, and the sum is measured on both tests.
Effects:    kept = LT-SFT - (0.95 full + 0.05 zero-shot), so above 0 where more than 95 % of full tuning's gain is kept;
composed = score of the sum of two LT-SFT changes minus that of the sum of two full ones, or of two LoRAs. Both tasks' examples count the same.
"""

from __future__ import annotations

from metier.claims.claim import Claim
from metier.claims.lab import Lab, Trials, contrast, join
from metier.claims.result import Found
from metier.evaluate import stats
from metier.evaluate.stats import Scores
from metier.model import Specialist, WeightChange
from metier.task import Task
from metier.worlds import world

CLAIM = Claim(
    row=25,
    title="Composable Sparse Fine-Tuning for Cross-Lingual Transfer",
    statement="Tuning a small, well-chosen share of the weights does about as well as tuning all, and two such sparse changes add up to a "
    "model that does better than one made of two adapters, because they disturb each other less.",
    reported="no single figure in the abstract; sparse changes compose better than adapters on parsing, names and inference in other languages",
    experiment="Two generated tasks, 600 training and 400 test examples each; full tuning, LT-SFT at 8 % density and LoRA of rank 8 with 3000 "
    "examples each, step size searched on dev; each method's changes for the two tasks are added and measured on both.",
    rule={
        "LT-SFT minus 95 % of full tuning's gain": 0.0,
        "sum of two LT-SFT changes minus sum of two full ones": 0.0,
        "sum of two LT-SFT changes minus sum of two LoRAs": 0.0,
    },
    needs={"full tuning minus zero-shot": 0.05},
    limits="Two tasks are composed, not a task and a language as in the paper: transfer across languages is left open. LoRA stands in for the "
    "paper's adapters. LT-SFT's two phases share the budget that the others spend on one, where the paper trains each to its end: a task that is slow to learn "
    "may not be learnt at all.",
    trials=8,
)

BUDGET = "3000ex"
METHODS = {"full": None, "lt-sft": {"density": 0.08}, "lora": {"rank": 8}}


def run(lab: Lab) -> Found:
    """Tune each method on both tasks, add the changes, measure the sums on both tests."""
    tasks = [lab.cut(world(n, size=2.0).tasks()[n], train=600, dev=100, test=400, ood=0) for n in ("reviews", "skill")]
    zero = join({t.name: lab.run("zero-shot", t).scores() for t in tasks})
    single, summed, remarks = {}, {}, []
    for method, settings in METHODS.items():
        own = [lab.run(method, t, budget=BUDGET, settings=settings) for t in tasks]
        single[method] = join({t.name: o.scores() for t, o in zip(tasks, own, strict=True)})
        summed[method] = _sum(lab, method, own, tasks)
        alone, added = (s[method].per_seed().mean() for s in (single, summed))
        each = ", ".join(f"{o.task.name} {o.scores().per_seed().mean():.3f}" for o in own)
        remarks.append(f"{method}: alone {alone:.3f} ({each}), added {added:.3f}, lost {alone - added:.3f}.")
    sparse, full = single["lt-sft"], single["full"]
    effects = [
        contrast("full tuning minus zero-shot", [(1.0, full)], [(1.0, zero)]),
        contrast("LT-SFT minus 95 % of full tuning's gain", [(1.0, sparse)], [(0.95, full), (0.05, zero)]),
        contrast("sum of two LT-SFT changes minus sum of two full ones", [(1.0, summed["lt-sft"])], [(1.0, summed["full"])]),
        contrast("sum of two LT-SFT changes minus sum of two LoRAs", [(1.0, summed["lt-sft"])], [(1.0, summed["lora"])]),
    ]
    for other, name in (("full", "full ones"), ("lora", "LoRAs")):
        new, base = [(1.0, summed["lt-sft"]), (1.0, single[other])], [(1.0, summed[other]), (1.0, sparse)]
        effects.append(contrast(f"loss by adding: two {name} minus two LT-SFT changes", new, base))
    return Found(effects=effects, remarks=remarks)


def _sum(lab: Lab, method: str, own: list[Trials], tasks: list[Task]) -> Scores:
    """Scores, on both tests, of the base plus the sum of the two changes that a method made with the same seed."""
    changed = {s: Specialist(lab.bases[0], (WeightChange(own[0].delta(s) + own[1].delta(s)),)) for s in lab.seeds}
    keys = [str(card["key"]) for trials in own for card in trials.cards.values()]
    return join({t.name: stats.scores(lab.measured(f"sum of two {method} changes", changed, t, keys)) for t in tasks})
