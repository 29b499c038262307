"""ComPEFT (Yadav et al. 2023, arXiv:2311.13171): of a change only signs at few places and one scale are kept, and nothing is lost.

Experiment: three tasks, each tuned fully and by LoRA; every change compressed, with density and scale searched on dev, saved, opened
again and measured. LoRA: the factors' changes since their start, which follows from the seed, are compressed (as by the authors).
Effects:    bytes of the whole change in bf16 on disk over those of the compressed one, the least over tasks and seeds;
score of the opened compressed change minus that of the whole one, three tasks together.
History:    version 1 compared whole folders: for LoRA, where headers were four fifths of what was left, at least 6.4 times smaller. Version 2
searched densities of 5 and 20 % alone, of the paper's 5 to 50 %: full tuning to sorting lost 6 points at 20 %, 18 times smaller, where
the bar of 8 times leaves room for more places.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from metier.claims._merging import EXPERTS, drawn, keys, made, on_dev, own, plain, scored, tuned
from metier.claims.claim import Claim
from metier.claims.lab import Lab, Trials, contrast, join
from metier.claims.result import Effect, Found
from metier.delta import Delta, Dense, Entry, LowRank, load, save
from metier.delta.header import DATA
from metier.delta.stored import Stored
from metier.evaluate.stats import Scores
from metier.merge.compeft import tuned as compressed

CLAIM = Claim(
    row=115,
    title="ComPEFT: Compression for Communicating Parameter Efficient Updates via Sparsification and Quantization",
    statement="A tuned model's change, of all weights or of an adapter, can be stored in a small fraction of its bytes, as signs at a few places and "
    "one scale, without loss of score and without training again.",
    reported="8 to 50 times smaller, with scores as before or better, the more so the larger the model",
    experiment="Intents under drawn labels, reversing and sorting word lists, each by full tuning and by LoRA of rank 8 (1600 examples); density (5, 20 or "
    "50 %, the paper's range) "
    "and scale (six) searched on 60 dev examples; 150 test examples a task; bytes of the tensors compared.",
    rule={
        "full tuning: times smaller, at least": 8.0,
        "LoRA: times smaller, at least": 8.0,
        "full tuning: compressed minus whole": -0.02,
        "LoRA: compressed minus whole": -0.02,
    },
    needs={"full tuning minus zero-shot": 0.1, "LoRA minus zero-shot": 0.1},
    limits="'At no loss' is read as at most 2 points. The paper's growth with the size of the model is left open. Names and shapes are left "
    "out: some 350 bytes a tensor, which outweigh so small an adapter (its folder is 7 to 9 times smaller), and nothing beside one of ordinary size.",
    trials=12,
    minutes=45.0,
    seeds=8,
    version=3,
)

DENSITIES, ALPHAS = (0.05, 0.2, 0.5), (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
LORA = {"rank": 8, "lr": 2e-3}
Back = Callable[[Delta], Delta]  # compressed form -> change of the weights


def run(lab: Lab) -> Found:
    """Both kinds of change, whole and compressed."""
    tasks = drawn(lab, EXPERTS)
    zero = join({t.name: plain(lab, [t]) for t in tasks})
    full = tuned(lab, tasks)
    lora = [lab.run("lora", t, budget="1600ex", settings=LORA) for t in tasks]
    start = [lab.run("lora", t, budget="16ex", settings=LORA | {"lr": 1e-12}, label="LoRA at its start") for t in tasks]
    effects, remarks = [], []
    for kind, experts, starts in (("full tuning", full, None), ("LoRA", lora, start)):
        small, folders = {}, []
        for i, expert in enumerate(experts):
            score, pairs = _packed(lab, kind, expert, starts[i] if starts else None)
            small[expert.task.name] = score
            folders += pairs
            whole = expert.scores().per_seed().mean()
            each = ", ".join(f"{before} to {after} bytes" for before, after in pairs)
            remarks.append(f"{kind}, {expert.task.name}: {each}; score {whole:.3f} to {score.per_seed().mean():.3f}.")
        before = [(1.0, join({e.task.name: own([e]) for e in experts}))]
        effects += [
            Effect.exact(f"{kind}: times smaller, at least", min(a / b for a, b in folders)),
            contrast(f"{kind}: compressed minus whole", [(1.0, join(small))], before),
            contrast(f"{kind} minus zero-shot", before, [(1.0, zero)]),
        ]
    return Found(effects=effects, remarks=remarks)


def _packed(lab: Lab, kind: str, expert: Trials, start: Trials | None) -> tuple[Scores, list[tuple[int, int]]]:
    """(scores of the compressed changes as opened from disk, their tensors' bytes on disk before and after)."""
    base, task, opened, pairs = expert.base, expert.task, {}, []
    for seed in lab.seeds:
        change, back = _form(expert.delta(seed), start.delta(seed) if start else None)
        place = lab.out / "compressed" / expert.place(seed).name
        if not (place / "small").exists():
            _keep(change, place / "whole")
            save(_best(expert, change, back, seed), place / "small")
        opened[seed] = back(load(place / "small"))
        pairs.append((_bytes(place / "whole"), _bytes(place / "small")))
    found = made(base, lab.seeds, opened.__getitem__)
    return scored(lab, f"{kind} compressed", found, [task], keys([expert])), pairs


def _best(expert: Trials, change: Delta, back: Back, seed: int) -> Delta:
    """The compression whose dev score is highest, of equals the smaller."""

    def score(candidate: Delta) -> float:
        return on_dev(made(expert.base, [seed], lambda _: back(candidate))[seed], [expert.task], seed)

    tried = [compressed(change, score, density=d, alphas=ALPHAS)[0] for d in DENSITIES]
    return max(tried, key=score)


def _form(change: Delta, start: Delta | None) -> tuple[Delta, Back]:
    """(what is compressed, how it becomes a change of the weights again): the change itself, or that of the factors since their start."""
    if start is None:
        return change, lambda small: small
    moved: dict[str, Entry] = {}
    firsts: dict[str, LowRank] = {}
    for name, entry in change.entries.items():
        first = start[name]
        if not isinstance(entry, LowRank) or not isinstance(first, LowRank):
            raise ValueError(f"compeft: the change of '{name}' is not low-rank.")
        firsts[name] = first
        moved |= {f"{name}.up": Dense(entry.up - first.up), f"{name}.down": Dense(entry.down - first.down)}

    def back(small: Delta) -> Delta:
        return Delta({n: _moved(first, n, small) for n, first in firsts.items()}, change.base)

    return Delta(moved, change.base), back


def _moved(first: LowRank, name: str, by: Delta) -> LowRank:
    up, down = (by[f"{name}.{part}"].dense() if f"{name}.{part}" in by else 0.0 for part in ("up", "down"))
    return LowRank(first.up + up, first.down + down, first.scale)


def _keep(change: Delta, place: Path) -> None:
    """The whole change in bf16."""
    save(change.map(lambda _, entry: Dense(entry.dense().to(torch.bfloat16))), place, force=True)


def _bytes(place: Path) -> int:
    """Of the tensors on disk, without the names and shapes."""
    stored = Stored(place / DATA)
    return stored.path.stat().st_size - stored.start
