"""Merging at scale (Yadav et al. 2024, arXiv:2410.03617): what a better base, a larger one, more experts and the choice of method do to a merge.

Experiment: three bases: a good one, one of its size that has read a sixth as much, and one of a sixth of its size that is about as good as the
latter. Six experts of each, merged two and six at a time by averaging, task arithmetic, DARE-TIES and TIES; three scales searched on dev for
each but averaging. Held-in: the experts' tasks. Held-out: tasks that no expert was tuned for, some with room for what experts learn (they ask
in other languages what an expert learns in English, or are far from solved), some that the base can do, where a merge can only disturb.
Effects:    kept = score of the merge over the experts' score on held-in tasks, mean of the four methods (shown also: both less the base's
score, because what was learnt less can be lost less, and experts of the less trained base learn less); quality = the good base minus the less
trained one, size = the less trained minus the small one. Held-out: the merge of six minus the base. Spread = best minus worst method; the small
base's minus the good one's. A spread is biased upwards in resamples; both sides are, so that their difference is less so.
Tested: the paper's statements on better bases (1), larger bases (2), held-out generalisation (3) and likeness of methods (5). Whether larger
bases bear more experts (4) is shown, not judged.
History:    version 1 had two bases, so that quality and size were not parted (share kept by the good base minus by the small one -0.022
[-0.052, 0.012]), and asked for generalisation of tasks that had no room for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from metier.claims._merging import RIVALS, drawn, keys, made, own, plain, scored, searched, tuned
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
    statement="Experts of a better base merge better, and so do those of a larger one; merging improves generalisation to tasks that no expert was "
    "tuned for; and with larger models averaging, task arithmetic, DARE-TIES and TIES become alike.",
    reported="no single figure in the abstract; PaLM-2 of 1 to 64 B parameters, up to eight experts, T0 tasks",
    experiment="Six experts by full tuning (1600 examples) of metier-tiny, metier-tiny-early and metier-nano, merged two and six at a time by four "
    "methods, three scales searched on 60 dev examples a task; 100 test examples of each expert's task and of each of six held-out tasks.",
    rule={
        "held-in, six experts: share kept by the good base minus by the less trained one of its size": 0.0,
        "held-in, six experts: share kept by the less trained base minus by the small one": 0.0,
        "held-out with room, good base: merge of six minus base": 0.0,
        "six experts, held-in: spread of methods on the small base minus on the good one": 0.0,
    },
    limits="Bases of 2.5 M and 0.4 M parameters; two sizes are no curve. The small base and the less trained one are alike in loss, not the same.",
    bases=("metier-tiny", "metier-tiny-early", "metier-nano"),
    trials=54,
    minutes=20.0,
    version=2,
)

SCALES = (0.4, 0.7, 1.0)
METHODS: dict[str, dict[str, Merge]] = {
    "averaging": {"mean": linear()},
    "task arithmetic": {f"scale {s}": task_arithmetic(scale=s) for s in (0.2, *SCALES[:2])},
    "DARE-TIES": {f"scale {s}": dare_ties(density=0.5, scale=s) for s in SCALES},
    "TIES": {f"scale {s}": ties(density=0.2, scale=s) for s in SCALES},
}
RATES = (5e-4, 5e-4, 2e-3)  # step size by base: the smallest needs the larger one
COUNTS = TWO, SIX = 2, 6
GOOD, LESS, SMALL = 0, 1, 2  # places in the lab's bases
ROOM = ("languages/mood-veluan", "languages/mood-tarmic", "languages/entail-en")
ABLE = ("classification/topics", "instructions/mixed", "languages/actor-tarmic")
MOOD = 3  # the expert of moods in English
Key = tuple[int, int]  # base, number of experts
Methods = dict[str, Scores]


def run(lab: Lab) -> Found:
    """The three bases, both numbers of experts, four methods, held-in and held-out tasks."""
    tasks, room, able = (drawn(lab, names, test=100) for names in (RIVALS, ROOM, ABLE))
    sets: dict[str, dict[Key, Methods]] = {"in": {}, "room": {}, "able": {}}
    alone: dict[Key, Scores] = {}
    before: dict[tuple[str, int], Scores] = {}
    remarks: list[str] = []
    for base, rate in enumerate(RATES):
        experts = tuned(lab, tasks, base, rate)
        before["in", base] = plain(lab, tasks, base)
        before["room", base], before["able", base] = plain(lab, room, base), plain(lab, able, base)
        if base == GOOD:
            label, mood = "expert of moods in English", experts[MOOD]
            found = made(mood.base, lab.seeds, mood.delta)
            remarks.append(f"{label}, held-out with room: {scored(lab, label, found, room, keys([mood])).per_seed().mean():.3f}.")
        for count in COUNTS:
            few, key = experts[:count], (base, count)
            alone[key] = own(few)
            for by_method in sets.values():
                by_method[key] = {}
            for method, settings in METHODS.items():
                label = f"{method} of {count}, base {base + 1}"
                found = searched(lab, label, few, settings, remarks)
                for name, chosen in (("in", tasks[:count]), ("room", room), ("able", able)):
                    sets[name][key][method] = scored(lab, label, found, chosen, keys(few))
            remarks.append(_said(lab, base, count, alone[key], {name: by[key] for name, by in sets.items()}, before))
    return Found(effects=_effects(sets, alone, before), remarks=remarks)


def _said(lab: Lab, base: int, count: int, alone: Scores, by: Mapping[str, Methods], before: Mapping[tuple[str, int], Scores]) -> str:
    each = "; ".join(f"{m} " + ", ".join(f"{methods[m].per_seed().mean():.3f}" for methods in by.values()) for m in METHODS)
    plainly = " and ".join(f"{before[name, base].per_seed().mean():.3f}" for name in ("room", "able"))
    return (
        f"{lab.bases[base].name}, {count} experts (own tasks {alone.per_seed().mean():.3f}; base on held-out {plainly}); "
        f"held-in, held-out with room, held-out that the base can do: {each}."
    )


def _effects(
    sets: Mapping[str, Mapping[Key, Methods]], alone: Mapping[Key, Scores], before: Mapping[tuple[str, int], Scores]
) -> list[Effect]:
    kept = {key: _kept(list(by_method.values()), alone[key]) for key, by_method in sets["in"].items()}
    spread = {key: _spread(list(by_method.values())) for key, by_method in sets["in"].items()}
    gain = {key: _kept(list(sets["in"][key].values()), alone[key], before["in", key[0]]) for key in kept if key[1] == SIX}
    mean = {name: {key: [(1 / len(METHODS), s) for s in by.values()] for key, by in keyed.items()} for name, keyed in sets.items()}

    def gained(name: str, base: int) -> Effect:
        what = {"room": "held-out with room", "able": "held-out that the base can do"}[name]
        which = {GOOD: "good", LESS: "less trained", SMALL: "small"}[base]
        return contrast(f"{what}, {which} base: merge of six minus base", mean[name][base, SIX], [(1.0, before[name, base])])

    return [
        _less(
            "held-in, six experts: share kept by the good base minus by the less trained one of its size", kept[GOOD, SIX], kept[LESS, SIX]
        ),
        _less("held-in, six experts: share kept by the less trained base minus by the small one", kept[LESS, SIX], kept[SMALL, SIX]),
        gained("room", GOOD),
        _less("six experts, held-in: spread of methods on the small base minus on the good one", spread[SMALL, SIX], spread[GOOD, SIX]),
        _less(
            "six experts, held-in: spread of methods on the small base minus on the less trained one", spread[SMALL, SIX], spread[LESS, SIX]
        ),
        _less(
            "held-in, two experts: share kept by the good base minus by the less trained one of its size", kept[GOOD, TWO], kept[LESS, TWO]
        ),
        _less("held-in, two experts: share kept by the less trained base minus by the small one", kept[LESS, TWO], kept[SMALL, TWO]),
        _less("held-in, six experts: share of what experts gained, good base minus less trained one", gain[GOOD, SIX], gain[LESS, SIX]),
        _less("held-in, six experts: share of what experts gained, less trained base minus small one", gain[LESS, SIX], gain[SMALL, SIX]),
        gained("room", LESS),
        gained("room", SMALL),
        gained("able", GOOD),
        gained("able", LESS),
        gained("able", SMALL),
        contrast("held-out with room, good base: merge of six minus of two", mean["room"][GOOD, SIX], mean["room"][GOOD, TWO]),
    ]


def _kept(merges: Sequence[Scores], alone: Scores, floor: Scores | None = None) -> Scores:
    """Statistics whose total is the mean score of the merges over that of the experts, both above that of the base where it is given."""
    mean, low = np.mean([m.values for m in merges], axis=0), floor.values if floor else np.zeros_like(alone.values)
    return replace(alone, values=np.stack([mean - low, alone.values - low], axis=-1), total=lambda totals: totals[0] / max(totals[1], 1e-9))


def _spread(merges: Sequence[Scores]) -> Scores:
    """Statistics whose total is the best merge's score minus the worst one's."""
    columns = [m.values for m in merges] + [np.ones_like(merges[0].values)]
    return replace(merges[0], values=np.stack(columns, axis=-1), total=lambda totals: (max(totals[:-1]) - min(totals[:-1])) / totals[-1])


def _less(name: str, new: Scores, base: Scores) -> Effect:
    """The total of `new` minus that of `base`, paired by example and seed."""
    return effect(name, stats.difference(base, new), new.per_seed() - base.per_seed())
