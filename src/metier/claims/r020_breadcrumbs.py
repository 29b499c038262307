"""Breadcrumbs (Davari and Belilovsky 2023, arXiv:2312.06795): many experts merge better without outliers and small changes, with settings found on few.

Experiment: six experts of one base, each tuned fully. Breadcrumbs and task arithmetic try nine settings each on the dev sets of the first
two tasks; the settings found are used for all six. The same searches on all six tell what carrying the settings over costs.
Effects:    mean score of the merge of six: breadcrumbs minus task arithmetic; breadcrumbs with the settings found on two minus with those
found on six. Every task's examples count the same.
History:    version 1 had other experts, two of them for tasks that the base could do or that hardly got in each other's way: best with a scale of 0.2
            to 0.3, all merges alike (-0.007 [-0.037, 0.020]).
"""

from __future__ import annotations

from metier.claims._merging import RIVALS, drawn, keys, own, plain, scored, searched, tuned
from metier.claims.claim import Claim
from metier.claims.lab import Lab, contrast
from metier.claims.result import Found
from metier.delta import Merge
from metier.evaluate.stats import Scores
from metier.merge.breadcrumbs import breadcrumbs
from metier.merge.task_arithmetic import task_arithmetic

CLAIM = Claim(
    row=20,
    title="Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks",
    statement="Merging experts without their largest and their many small changes gives a better model of many tasks than adding the whole changes, "
    "and the hyperparameters found on a few tasks serve when tasks are added.",
    reported="no single figure in the abstract; better than task arithmetic on eight image tasks and on GLUE with settings found on few of them",
    experiment="Six experts by full tuning (1600 examples each); breadcrumbs (three densities, three scales, gamma 0.01) and task arithmetic (nine "
    "scales) searched on 60 dev examples of each of the first two tasks, then used for all six; 150 test examples a task.",
    rule={
        "six experts, settings found on two: breadcrumbs minus task arithmetic": 0.0,
        "breadcrumbs of six: settings found on two minus found on six": -0.02,
    },
    needs={"experts minus zero-shot": 0.1},
    limits="Six tasks added once, in one order; the paper adds up to eight image tasks to CLIP, and 200 in simulation.",
    trials=12,
    minutes=50.0,
    seeds=20,
    version=2,
)

SCALES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
METHODS: dict[str, dict[str, Merge]] = {
    "breadcrumbs": {
        f"density {d}, scale {s}": breadcrumbs(density=d, gamma=0.01, scale=s) for d in (0.1, 0.3, 0.9) for s in (0.3, 0.6, 1.0)
    },
    "task arithmetic": {f"scale {s}": task_arithmetic(scale=s) for s in SCALES},
}
FEW = 2


def run(lab: Lab) -> Found:
    """Settings found on two experts and on all, both used for all."""
    tasks = drawn(lab, RIVALS)
    experts = tuned(lab, tasks)
    score: dict[tuple[str, int], Scores] = {}
    remarks: list[str] = []
    for method, settings in METHODS.items():
        for count in (FEW, len(tasks)):
            label = f"{method} of {len(tasks)}, settings found on {count}"
            found = searched(lab, label, experts, settings, remarks, on=count)
            score[method, count] = scored(lab, label, found, tasks, keys(experts))
    few = {m: [(1.0, score[m, FEW])] for m in METHODS}
    all_ = {m: [(1.0, score[m, len(tasks)])] for m in METHODS}
    bread, plain_sum = METHODS
    effects = [
        contrast("six experts, settings found on two: breadcrumbs minus task arithmetic", few[bread], few[plain_sum]),
        contrast("breadcrumbs of six: settings found on two minus found on six", few[bread], all_[bread]),
        contrast("task arithmetic of six: settings found on two minus found on six", few[plain_sum], all_[plain_sum]),
        contrast("six experts, settings found on six: breadcrumbs minus task arithmetic", all_[bread], all_[plain_sum]),
        contrast("experts minus zero-shot", [(1.0, own(experts))], [(1.0, plain(lab, tasks))]),
    ]
    return Found(effects=effects, remarks=remarks)
