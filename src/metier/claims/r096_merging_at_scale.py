"""Merging at scale (Yadav et al. 2024, arXiv:2410.03617): what a better base, more experts and the choice of method do to a merge.

Experiment: two bases, six experts of each, merged two and six at a time by averaging, task arithmetic, DARE-TIES and TIES; three scales
searched on dev for each but averaging. Held-in: the experts' tasks. Held-out: three tasks that no expert was tuned for.
Effects:    kept = score of the merge over the experts' score on held-in tasks, mean of the four methods; kept of the strong base minus
that of the weak one. Held-out: the merge of six minus the base. Spread = best minus worst method; the weak base's minus the strong one's.
A spread is biased upwards in resamples; both sides are, so that their difference is less so.
Tested: the paper's statements on strong bases (1), held-out generalisation (3) and likeness of methods (5). Size (2) and quality of
the base go together here, and whether larger bases bear more experts (4) is shown, not judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from metier.claims._merging import RIVALS, drawn, keys, own, plain, scored, searched, tuned
from metier.claims.claim import Claim
from metier.claims.lab import Lab, contrast, effect
from metier.claims.result import Effect, Found
from metier.delta import Merge
from metier.evaluate import stats
from metier.evaluate.stats import Scores
from metier.merge.dare_ties import dare_ties
from metier.merge.linear import linear
from metier.merge.task_arithmetic import task_arithmetic
from metier.merge.ties import ties

CLAIM = Claim(
    row=96,
    title="What Matters for Model Merging at Scale?",
    statement="Experts of a stronger base merge better; merging improves generalisation to tasks that no expert was tuned for; and with larger models "
    "averaging, task arithmetic, DARE-TIES and TIES become alike.",
    reported="no single figure in the abstract; PaLM-2 of 1 to 64 B parameters, up to eight experts, T0 tasks",
    experiment="Six experts by full tuning (1600 examples) of metier-tiny and of metier-nano, merged two and six at a time by four methods, three scales "
    "searched on 60 dev examples a task; 100 test examples of each expert's task and of three held-out tasks.",
    rule={
        "held-in, six experts: share kept by the strong base minus by the weak one": 0.0,
        "held-out, strong base: merge of six minus base": 0.0,
        "six experts, held-in: spread of methods on the weak base minus on the strong one": 0.0,
    },
    limits="The weak base is also the smaller one, so quality and size are not parted. Bases of 2.5 M and 0.4 M parameters; two are no curve. "
    "The experts learn drawn labels, which no held-out task shares: there a merge can only disturb, and averaging disturbs least.",
    bases=("metier-tiny", "metier-nano"),
    trials=30,
    minutes=12.0,
)

SCALES = (0.4, 0.7, 1.0)
METHODS: dict[str, dict[str, Merge]] = {
    "averaging": {"mean": linear()},
    "task arithmetic": {f"scale {s}": task_arithmetic(scale=s) for s in (0.2, *SCALES[:2])},
    "DARE-TIES": {f"scale {s}": dare_ties(density=0.5, scale=s) for s in SCALES},
    "TIES": {f"scale {s}": ties(density=0.2, scale=s) for s in SCALES},
}
RATES = (5e-4, 2e-3)  # step size by base: the smaller needs the larger one
COUNTS = TWO, SIX = 2, 6
STRONG, WEAK = 0, 1  # places in the lab's bases
UNSEEN = ("classification/topics", "instructions/mixed", "languages/actor-tarmic")


def run(lab: Lab) -> Found:
    """Both bases, both numbers of experts, four methods, held-in and held-out tasks."""
    tasks, unseen = drawn(lab, RIVALS, test=100), drawn(lab, UNSEEN, test=100)
    inside: dict[tuple[int, int], dict[str, Scores]] = {}
    outside: dict[tuple[int, int], dict[str, Scores]] = {}
    alone: dict[tuple[int, int], Scores] = {}
    before: dict[int, Scores] = {}
    remarks: list[str] = []
    for base, rate in enumerate(RATES):
        experts, before[base] = tuned(lab, tasks, base, rate), plain(lab, unseen, base)
        plain(lab, tasks, base)
        for count in COUNTS:
            few, key = experts[:count], (base, count)
            alone[key], inside[key], outside[key] = own(few), {}, {}
            for method, settings in METHODS.items():
                label = f"{method} of {count}, base {base + 1}"
                found = searched(lab, label, few, settings, remarks)
                inside[key][method] = scored(lab, label, found, tasks[:count], keys(few))
                outside[key][method] = scored(lab, label, found, unseen, keys(few))
            each = ", ".join(f"{m} {s.per_seed().mean():.3f} and {outside[key][m].per_seed().mean():.3f}" for m, s in inside[key].items())
            remarks.append(f"base {base + 1}, {count} experts ({alone[key].per_seed().mean():.3f}), held-in and held-out: {each}.")
    return Found(effects=_effects(inside, outside, alone, before), remarks=remarks)


def _effects(
    inside: Mapping[tuple[int, int], Mapping[str, Scores]],
    outside: Mapping[tuple[int, int], Mapping[str, Scores]],
    alone: Mapping[tuple[int, int], Scores],
    before: Mapping[int, Scores],
) -> list[Effect]:
    kept = {key: _kept(list(by_method.values()), alone[key]) for key, by_method in inside.items()}
    spread = {key: _spread(list(by_method.values())) for key, by_method in inside.items()}
    apart = {key: _spread(list(by_method.values())) for key, by_method in outside.items()}
    mean = {key: [(1 / len(METHODS), s) for s in by_method.values()] for key, by_method in outside.items()}
    return [
        _less("held-in, six experts: share kept by the strong base minus by the weak one", kept[STRONG, SIX], kept[WEAK, SIX]),
        contrast("held-out, strong base: merge of six minus base", mean[STRONG, SIX], [(1.0, before[STRONG])]),
        _less("six experts, held-in: spread of methods on the weak base minus on the strong one", spread[WEAK, SIX], spread[STRONG, SIX]),
        _less("held-in, two experts: share kept by the strong base minus by the weak one", kept[STRONG, TWO], kept[WEAK, TWO]),
        contrast("held-out, weak base: merge of six minus base", mean[WEAK, SIX], [(1.0, before[WEAK])]),
        contrast("held-out, strong base: merge of six minus of two", mean[STRONG, SIX], mean[STRONG, TWO]),
        _less("held-out, strong base: spread of methods with two experts minus with six", apart[STRONG, TWO], apart[STRONG, SIX]),
    ]


def _kept(merges: Sequence[Scores], alone: Scores) -> Scores:
    """Statistics whose total is the mean score of the merges over that of the experts."""
    mean = np.mean([m.values for m in merges], axis=0)
    return replace(alone, values=np.stack([mean, alone.values], axis=-1), total=lambda totals: totals[0] / max(totals[1], 1e-9))


def _spread(merges: Sequence[Scores]) -> Scores:
    """Statistics whose total is the best merge's score minus the worst one's."""
    columns = [m.values for m in merges] + [np.ones_like(merges[0].values)]
    return replace(merges[0], values=np.stack(columns, axis=-1), total=lambda totals: (max(totals[:-1]) - min(totals[:-1])) / totals[-1])


def _less(name: str, new: Scores, base: Scores) -> Effect:
    """The total of `new` minus that of `base`, paired by example and seed."""
    return effect(name, stats.difference(base, new), new.per_seed() - base.per_seed())
