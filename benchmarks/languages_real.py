"""A task that MiniLM learnt in one language and another language that it learnt from plain text, put together (rows 25 and 108).

    python benchmarks/languages_real.py --work /tmp/mlang [--only ud masakhaner americasnli] [--seeds 3]

Parts of speech from English LinES to Afrikaans, named entities from Swahili to Hausa, entailment from English (SICK) to Quechua. MiniLM comes
without the layers that guessed masked words: a linear map onto its word embeddings is learnt on English first, then the language's text by
masked words. The sums of sparse changes (LT-SFT) and of low-rank ones; layers swapped, averaged and added of full tuning. Every arm is stored
when it is done: kill it and run it again. To benchmarks/results/languages_real.json, which docs/benchmarks.md is made from; parts that are
not asked for stay there as they were.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
from languages import PAIRS, Pair, english
from real_experts import Bench, Found, Made, of, only, row, stored
from timing import write

import metier
from metier.claims._experts import folder
from metier.delta import Delta, merged
from metier.merge._experts import Expert, body, made_of
from metier.merge.layer_swap import layer_swap
from metier.merge.linear import linear
from metier.model import Specialist
from metier.train import Budget, Run

WARM, TEXT, LABELLED = 1280, 640, "640ex"
SETTINGS: dict[str, tuple[dict[str, float], dict[str, float]]] = {  # for the task, for the text
    "lt-sft": ({"density": 0.08, "lr": 5e-4}, {"density": 0.08, "lr": 3e-4}),
    "lora": ({"rank": 8, "lr": 2e-3}, {"rank": 8, "lr": 1e-3}),
    "full": ({"lr": 2e-4}, {"lr": 1e-4}),
}
Way = Callable[[Delta, Delta], Delta]  # the task's change, the language's -> what is put on the base
ALONE: Way = lambda task, _: task  # noqa: E731
SUM: Way = lambda task, language: task + language  # noqa: E731
WAYS: dict[str, tuple[str, Way]] = {
    "LT-SFT, task": ("lt-sft", ALONE),
    "LT-SFT, task + language": ("lt-sft", SUM),
    "LoRA, task": ("lora", ALONE),
    "LoRA, task + language": ("lora", SUM),
    "full, task": ("full", ALONE),
    "full, language": ("full", lambda _, language: language),
    "full, task + language": ("full", SUM),
    "full, average": ("full", lambda task, language: merged(linear(), [language, task])),
    "full, layers swapped": ("full", lambda task, language: merged(layer_swap(layers=6), [language, task])),
}
BESIDE = {  # what else an arm's score is compared with
    "LT-SFT, task + language": ("LT-SFT, task", "LoRA, task + language"),
    "LoRA, task + language": ("LoRA, task",),
    "full, layers swapped": ("full, task", "full, language", "full, average"),
}


def compose(bench: Bench, pair: Pair) -> Iterator[dict[str, Any]]:
    """One task and one language, by every way."""
    done: dict[str, Found] = {"base": only(of([bench.lab.run("zero-shot", pair.there)]), [pair.there])}
    yield row(pair.name, "base, untuned", done["base"], {})

    def made(method: str, way: Way, seed: int) -> Made:
        tuned = bench.lab.run(method, pair.here, budget=LABELLED, settings=SETTINGS[method][0])
        (change,) = Specialist.load(folder(tuned, seed), base=bench.base).changes
        delta = way(body(change.delta), language(bench, pair, method, seed))  # type: ignore[attr-defined]
        whole = made_of(delta, Specialist(bench.base), pair.here, [Expert(change.delta, change.labels)])  # type: ignore[attr-defined]
        return {}, {pair.here.name: whole, pair.there.name: whole}

    for name, (method, way) in WAYS.items():
        found = bench.arm(f"{pair.name} {name}", [pair.here, pair.there], partial(made, method, way))[1]
        done[name] = only(found, [pair.there])
        beside = {k: done[k] for k in ("base", *BESIDE.get(name, ())) if k in done}
        yield row(pair.name, name, done[name], beside, where_it_was_learnt=row("", "", only(found, [pair.here]), {})["score"])


def language(bench: Bench, pair: Pair, method: str, seed: int) -> Delta:
    """The change of the body by masked words of the pair's language."""
    first = bench.work / "language" / "start"
    if not first.exists():
        metier.adapt("head", english(), bench.base, settings={"head": {"lr": 1e-3}}, budget=Budget(WARM)).save(first)
    place = bench.work / "language" / f"{pair.name}-{method}-{seed}"
    if not place.exists():
        start, run = Specialist.load(first, base=bench.base), Run(seed=seed, budget=Budget(TEXT))
        metier.adapt(method, pair.text, start, settings={method: SETTINGS[method][1]}, run=run).save(place)
    return body(Specialist.load(place, base=bench.base).changes[-1].delta)  # type: ignore[attr-defined]


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", default="/tmp/metier-mlang", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(PAIRS), default=list(PAIRS), help="pairs that are made; the others stay")
    parser.add_argument("--seeds", type=int, default=3)
    a = parser.parse_args()
    bench = Bench(a.work, a.seeds)
    rows = [r for name, pair in PAIRS.items() for r in (compose(bench, pair()) if name in a.only else stored("languages_real", [name]))]
    facts = {"labelled": f"{LABELLED} in the task's language", "text": f"{TEXT} sentences drawn, after {WARM} of English for the head"}
    write("languages_real", {"base": bench.base.name, **facts, "rows": rows})


if __name__ == "__main__":
    main()
