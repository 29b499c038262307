"""Changes of a real encoder: MiniLM experts of four tasks merged, grafted, compressed, given back to the base and carried to another.

    python benchmarks/merging_real.py --work /tmp/mreal [--only merged compressed grafted at-scale merged-back carried] [--seeds 3]

Experts are tuned by the study's own trials and every arm is stored when it is done: kill it and run it again. Only bodies are merged;
every task is answered with its own expert's head, as in the papers. An arm may look at dev six times (`DEV` examples of each task, the mean
over the tasks decides), three times in `at-scale`; linear has nothing to choose and aTLAS learns from the train splits. Scores are on `TEST`
examples a task, differences paired by example and seed. To benchmarks/results/merging_real.json, which docs/benchmarks.md is made from;
parts that are not asked for stay there as they were.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
from languages import DATA, english
from real_experts import DEV, TASKS, Bench, Experts, Found, Made, choices, of, only, read, row, stored
from timing import write

import metier
from metier import atomic
from metier.claims._experts import each, folder
from metier.claims.r096_merging_at_scale import METHODS
from metier.delta import Delta, Merge, load, merged, save
from metier.delta.parts import by_depth
from metier.delta.parts.truncate import low_rank
from metier.merge import _work, atlas, bitdelta, compeft, fisher, regmean
from metier.merge import graft as grafting
from metier.merge._experts import body, made_of
from metier.merge._work import size_of
from metier.merge.breadcrumbs import breadcrumbs
from metier.merge.dare_ties import dare_ties
from metier.merge.iso_c import iso_c
from metier.merge.linear import linear
from metier.merge.merge_back import merge_back
from metier.merge.model_stock import model_stock
from metier.merge.task_arithmetic import task_arithmetic
from metier.merge.ties import ties
from metier.merge.tsv import tsv
from metier.model import Base, Specialist
from metier.train import Budget, Run

ATLAS, GRAFT, WARM, TEXT = 320, 240, 1280, 2560  # examples that training may see
LORA = {"rank": 8, "lr": 2e-3}
HELD_OUT = ("snips", "ag_news_resplit", "tweet_offensive")
Form = Callable[[Experts], Delta]


def plain(merge: Merge) -> Form:
    """A merge that needs no data."""
    return lambda e: merged(merge, e.bodies)


def by_fisher(e: Experts) -> Delta:
    """Fisher merging, from 16 examples a task."""
    return merged(fisher.precision_weighted(list(e.asked(fisher.information, 16)), 1e-6), e.bodies)


def by_regmean(alpha: float) -> Form:
    """RegMean, from 64 examples a task."""
    return lambda e: merged(regmean.least_squares(list(e.asked(regmean.products, 64)), alpha), e.bodies)


DEPTH = {f"first layer {x}": task_arithmetic()._replace(then=by_depth(x, 1.0)) for x in (0.2, 0.6)}
MERGES: dict[str, tuple[dict[str, Form], tuple[float, ...]]] = {  # what is formed, and the factors that are tried on it
    "linear": ({"mean": plain(linear())}, (1.0,)),
    "task arithmetic": ({"sum": plain(task_arithmetic())}, (0.2, 0.3, 0.4, 0.5, 0.7, 1.0)),
    "ties": ({f"density {d}": plain(ties(density=d)) for d in (0.2, 0.5)}, (0.6, 1.0, 1.5)),
    "dare-ties": ({f"density {d}": plain(dare_ties(density=d)) for d in (0.2, 0.5)}, (0.3, 0.6, 1.0)),
    "breadcrumbs (20)": ({f"density {d}": plain(breadcrumbs(density=d, gamma=0.01)) for d in (0.3, 0.9)}, (0.3, 0.5, 0.8)),
    "task arithmetic, LiNeS (39)": ({k: plain(m) for k, m in DEPTH.items()}, (0.4, 0.6, 1.0)),
    "model stock": ({f"by {per}": plain(model_stock(per=per)) for per in ("tensor", "row")}, (1.0, 1.5, 2.0)),
    "fisher, 16 examples a task": ({"": by_fisher}, (0.7, 1.0, 1.3, 1.6, 2.0, 2.5)),
    "regmean, 64 examples a task": ({f"alpha {a}": by_regmean(a) for a in (0.5, 0.9)}, (1.0, 1.3, 1.6)),
    "tsv": ({"": plain(tsv())}, (0.5, 0.8, 1.0, 1.3, 1.7, 2.2)),
    "iso-c": ({"": plain(iso_c())}, (0.5, 1.0, 1.5, 2.2, 3.0, 4.0)),
}
SMALL: dict[str, Callable[[Delta], list[Delta]]] = {  # what is compressed to; of several the best on dev
    "ComPEFT (115)": lambda d: [compeft.compressed(d, density=p, alpha=a) for p in (0.05, 0.2) for a in (1.0, 2.0, 4.0)],
    "BitDelta, layers only": lambda d: [bitdelta.compressed(d)],
    "BitDelta, embeddings too": lambda d: [bitdelta.compressed(d, everything=True)],
    "SVD, rank 8": lambda d: [d.map(lambda _, e: low_rank(e.dense(), 8) if len(e.shape) == 2 else e)],
    "SVD, rank 32": lambda d: [d.map(lambda _, e: low_rank(e.dense(), 32) if len(e.shape) == 2 else e)],
}
MASKS = (("random", 0.01), ("magnitude", 0.01), ("random", 0.1), ("magnitude", 0.1), ("learned", 0.01), ("learned", 0.1))


def merge(bench: Bench) -> Iterator[dict[str, Any]]:
    """One body for all tasks, by every merge."""
    alone = of(bench.tuned)
    yield row("merged", "experts alone", alone, {"experts": alone})
    yield row("merged", "base, untuned", of(bench.zero), {"experts": alone})

    def searched(name: str, seed: int) -> Made:
        e, (forms, factors) = bench.experts(seed), MERGES[name]
        wholes = ((label, form(e).read()) for label, form in forms.items())
        tried = ((f"{label} x {c}".strip(), e.answering((c * whole).read())) for label, whole in wholes for c in factors)
        said, changes = next(tried) if name == "linear" else e.best(seed, tried)
        return {"chosen": said}, changes

    def learnt(seed: int) -> Made:  # a coefficient for each tensor of each expert, for all four tasks at once
        e, along = bench.experts(seed), [bench.work / f"{name}.yaml" for name in TASKS[1:]]
        for file in along:
            atomic.write_text(file, f"name: {file.stem}\ndata: {DATA / file.stem}\ndedupe: true\n")
        settings = atlas.Settings(experts=e.places, along=tuple(map(str, along)), lr=0.1)
        change = atlas.atlas(e.start, bench.tasks[0].sealed(), settings, Run(seed=seed, budget=Budget(ATLAS)))
        return {"chosen": f"learnt from {ATLAS} draws a task"}, e.answering(body(change.delta))

    arms: dict[str, Callable[[int], Made]] = {name: partial(searched, name) for name in MERGES} | {"aTLAS (49)": learnt}
    for name, make in arms.items():
        said, found = bench.arm(name, bench.tasks, make)
        yield row("merged", name, found, {"experts": alone}, chosen=choices(said))


def graft(bench: Bench) -> Iterator[dict[str, Any]]:
    """A share of an expert's change on the base: how much of the skill is kept, and how well it knows what it knows."""
    chosen = [i for i, t in enumerate(bench.tasks) if t.name in ("trec", "financial_phrasebank")]
    tasks, alone, zero = [bench.tasks[i] for i in chosen], of([bench.tuned[i] for i in chosen]), of([bench.zero[i] for i in chosen])
    top, low = row("grafted", "experts alone", alone, {"experts": alone}), row("grafted", "base, untuned", zero, {"experts": alone})
    yield from (top | {"skill_kept": 1.0}, low | {"skill_kept": 0.0})

    def made(mask: Any, density: float, seed: int) -> Made:
        changes = {}
        for i in chosen:
            settings = grafting.Settings(experts=(folder(bench.tuned[i], seed),), mask=mask, density=density, lr=0.5, bias=3.0)
            task, run = bench.tasks[i].subset(dev=DEV).sealed(), Run(seed=seed, budget=Budget(GRAFT))
            changes[task.name] = grafting.graft(Specialist(bench.base), task, settings, run)
        return {}, changes

    for mask, density in MASKS:
        found = bench.arm(f"graft {mask} {density}", tasks, partial(made, mask, density))[1]
        this = row("grafted", f"{mask}, {density:.0%} of the entries", found, {"experts": alone})
        yield this | {"skill_kept": (this["score"] - low["score"]) / (top["score"] - low["score"])}


def compress(bench: Bench) -> Iterator[dict[str, Any]]:
    """Each expert's change, stored small, opened again and measured."""
    alone, whole = of(bench.tuned), bench.base.parameters * 4
    yield row("compressed", "whole, float32", alone, {"experts": alone}, bytes=whole, times_smaller=1.0)

    def made(forms: Callable[[Delta], list[Delta]], seed: int) -> Made:
        e, sizes, changes = bench.experts(seed), [], {}
        for t, delta in zip(bench.tasks, e.bodies, strict=True):
            small = forms(delta)
            tried = (("", {t.name: made_of(d, e.start, t, e.whole)}) for d in small)
            best = e.best(seed, tried)[1][t.name].delta if len(small) > 1 else small[0]
            with tempfile.TemporaryDirectory() as place:
                save(body(best), Path(place) / "small")
                sizes.append(size_of(Path(place) / "small"))
                changes[t.name] = made_of(load(Path(place) / "small").read(), e.start, t, e.whole)
        return {"bytes": sum(sizes) / len(sizes)}, changes

    for name, forms in SMALL.items():
        said, found = bench.arm(name, bench.tasks, partial(made, forms))
        size = sum(s["bytes"] for s in said) / len(said)
        yield row("compressed", name, found, {"experts": alone}, bytes=round(size), times_smaller=whole / size)


def scale(bench: Bench) -> Iterator[dict[str, Any]]:
    """Row 96: two and four experts by four methods, on their own tasks and, zero-shot, on three that no expert was tuned for."""
    tasks, unseen = bench.tasks, [read(n) for n in HELD_OUT]
    zero = of([bench.lab.run("zero-shot", t) for t in unseen])

    def made(count: int, settings: Mapping[str, Merge], seed: int) -> Made:
        e = bench.experts(seed)
        forms = ((said, merged(m, e.bodies[:count]).read()) for said, m in settings.items())
        tried = ((said, {t.name: made_of(d, e.start, t, e.whole) for t in tasks[:count]}) for said, d in forms)
        said, changes = e.best(seed, tried)
        body_alone = body(changes[tasks[0].name].delta)
        return {"chosen": said}, changes | {t.name: made_of(body_alone, e.start, t, ()) for t in unseen}

    for count in (2, 4):
        few = tasks[:count]
        alone = of(bench.tuned[:count])
        top = row("", "", alone, {})["score"]
        for name, settings in METHODS.items():
            said, found = bench.arm(f"{name} of {count}", [*few, *unseen], partial(made, count, settings))
            inside, outside = only(found, few), row("", "", only(found, unseen), {"base": zero})
            this = row("at-scale", f"{name} of {count}", inside, {"experts": alone}, chosen=choices(said))
            this |= {"kept": this["score"] / top, "held-out": outside["score"]}
            yield this | {f"held-out, {k}": outside[k] for k in ("minus_base", "minus_base, interval")}


def give_back(bench: Bench) -> Iterator[dict[str, Any]]:
    """Row 139: every expert, and every expert averaged with the base, on its own task and, zero-shot, on the other three."""
    tasks = bench.tasks

    def made(i: int, share: float, seed: int) -> Made:
        e = bench.experts(seed)
        delta = merged(merge_back(share=share), [e.bodies[i]])
        return {}, {t.name: made_of(delta, e.start, t, e.whole if t is tasks[i] else ()) for t in tasks}

    def pairs(by: Mapping[str, Found], own: bool) -> Found:
        return {
            s: {f"{expert} on {t}": records for expert, found in by.items() for t, records in found[s].items() if (expert == t) is own}
            for s in bench.lab.seeds
        }

    ways = {"base, untuned": dict.fromkeys((t.name for t in tasks), of(bench.zero))}
    for way, share in (("expert", 1.0), ("half expert, half base", 0.5)):
        ways[way] = {t.name: bench.arm(f"{way} {t.name}", tasks, partial(made, i, share))[1] for i, t in enumerate(tasks)}
    for on, own in (("its own task", True), ("the other three", False)):
        beside = {"base": pairs(ways["base, untuned"], own), "expert": pairs(ways["expert"], own)}
        rows = (row("merged-back", f"{way}, on {on}", pairs(by, own), beside) for way, by in ways.items())
        yield from ({k: v for k, v in r.items() if " on " not in k} for r in rows)


def carry(bench: Bench) -> Iterator[dict[str, Any]]:
    """Row 51: LoRA patches of MiniLM put onto its next version, which has read more text, beside LoRA tuned on that version anew."""
    lab = replace(bench.lab, bases=(bench.base, next_version(bench)))
    old = [lab.run("lora", t, budget="1600ex", settings=LORA) for t in bench.tasks]
    anew = of([lab.run("lora", t, budget="1600ex", settings=LORA, base=1) for t in bench.tasks])
    patched = [
        each(lab, "portllm", t, lambda seed, o=o: {"experts": (folder(o, seed),), "allow_base": "minilm"}, base=1)  # type: ignore[misc]
        for t, o in zip(bench.tasks, old, strict=True)
    ]
    plain = of([lab.run("zero-shot", t, base=1) for t in bench.tasks])
    ways = {"old version, untuned": of(bench.zero), "old version, LoRA": of(old), "next version, untuned": plain}
    ways |= {"next version, the old one's patch": of(patched), "next version, LoRA anew": anew}
    yield from (row("carried", way, found, {"anew": anew}) for way, found in ways.items())


def next_version(bench: Bench) -> Base:
    """MiniLM after more text: its words are hidden and guessed, first by a new head alone, then by the whole model."""
    place, text = bench.work / "next", english()
    if not place.exists():
        first = metier.adapt("head", text, bench.base, settings={"head": {"lr": 1e-3}}, budget=Budget(WARM))
        after = metier.adapt("full", text, first, settings={"full": {"lr": 1e-4}}, budget=Budget(TEXT))
        change = body(after.changes[-1].delta)  # type: ignore[attr-defined]
        _work.fold(_work.open_base("minilm"), change, place, _work.How(), recipe={"more text": text.name})
    return metier.load_base(str(place))


PARTS = {"merged": merge, "compressed": compress, "grafted": graft, "at-scale": scale, "merged-back": give_back, "carried": carry}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", default="/tmp/metier-mreal", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS), help="parts that are made; the others stay")
    parser.add_argument("--seeds", type=int, default=3)
    a = parser.parse_args()
    bench = Bench(a.work, a.seeds)
    rows = [r for part, make in PARTS.items() for r in (make(bench) if part in a.only else stored("merging_real", [part]))]
    facts = {
        "experts": "full tuning, 1600 examples, lr 2e-4",
        "drawn": f"aTLAS {ATLAS} a task, masks {GRAFT}, LoRA 1600, the next version's text {TEXT}",
        "looks_at_dev": f"six, {DEV} examples a task; three at scale",
    }
    write("merging_real", {"base": bench.base.name, **facts, "rows": rows})


if __name__ == "__main__":
    main()
