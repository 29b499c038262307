"""Changes of a real encoder: MiniLM experts of four tasks merged, grafted and compressed; a task and a language composed on treebanks.

    python benchmarks/merging_real.py --work /tmp/mreal [--only merged compressed composed grafted] [--seeds 2] [--table]

Experts are tuned by the study's own trials and every arm is stored when it is done: kill it and run it again. Only bodies are merged;
every task is answered with its own expert's head, as in the papers. An arm may look at dev six times (`DEV` examples of each task, the mean
over the tasks decides); linear has nothing to choose and aTLAS learns from the train splits. Scores are on `TEST` examples a task,
differences paired by example and seed. To benchmarks/results/merging_real.json, which docs/benchmarks.md is made from.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
from real_experts import DATA, DEV, TASKS, TEST, Bench, Experts, Found, Made, of, only, row
from timing import write
from treebanks import plain_text, tagging, tags_of

import metier
from metier import atomic
from metier.claims._experts import folder
from metier.delta import Delta, Merge, load, merged, save
from metier.delta.parts import by_depth
from metier.delta.parts.truncate import low_rank
from metier.evaluate import stats
from metier.merge import atlas, bitdelta, compeft, fisher, regmean
from metier.merge import graft as grafting
from metier.merge._experts import Expert, body, made_of
from metier.merge._work import size_of
from metier.merge.breadcrumbs import breadcrumbs
from metier.merge.dare_ties import dare_ties
from metier.merge.iso_c import iso_c
from metier.merge.linear import linear
from metier.merge.model_stock import model_stock
from metier.merge.task_arithmetic import task_arithmetic
from metier.merge.ties import ties
from metier.merge.tsv import tsv
from metier.model import Specialist
from metier.train import Budget, Run

ATLAS, GRAFT, WARM, TAGGING, TEXT = 320, 240, 1280, 640, 640  # examples that training may see
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
TAGGERS = {"lt-sft": ({"density": 0.08, "lr": 5e-4}, {"lr": 3e-4}), "lora": ({"rank": 8, "lr": 2e-3}, {"lr": 1e-3})}  # more: for text


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
        if found:
            yield row("merged", name, found, {"experts": alone}, chosen="; ".join(dict.fromkeys(s["chosen"] for s in said)))


def compose(bench: Bench) -> Iterator[dict[str, Any]]:
    """Row 25: the part of speech of a marked word, learnt in English; Afrikaans learnt from its plain text; both changes added."""
    banks = DATA / "ud_en_lines", DATA / "ud_af_afribooms"
    english, target = (tagging(b, tags_of(*banks), train=2000, dev=DEV, test=TEST) for b in banks)
    (written, spoken), first = (plain_text(b, dev=DEV) for b in banks), bench.work / "language" / "start"
    zero = only(of([bench.lab.run("zero-shot", target)]), target)
    rows = [row("composed", "base, untuned", zero, {})]

    def language(method: str, seed: int) -> Delta:
        """MiniLM comes without what guessed masked words in its pretraining: a linear map is learnt on English first, the body fixed."""
        if not first.exists():
            metier.adapt("head", written, bench.base, settings={"head": {"lr": 1e-3}}, budget=Budget(WARM)).save(first)
        if not (place := bench.work / "language" / f"{method}-{seed}").exists():
            run, settings = Run(seed=seed, budget=Budget(TEXT)), {method: TAGGERS[method][0] | TAGGERS[method][1]}
            metier.adapt(method, spoken, Specialist.load(first, base=bench.base), settings=settings, run=run).save(place)
        return body(Specialist.load(place, base=bench.base).changes[-1].delta)  # type: ignore[attr-defined]

    def tagger(method: str, both: bool, seed: int) -> Made:
        tuned = bench.lab.run(method, english, budget=f"{TAGGING}ex", settings=TAGGERS[method][0])
        (change,) = Specialist.load(folder(tuned, seed), base=bench.base).changes
        delta = body(change.delta) + language(method, seed) if both else body(change.delta)  # type: ignore[attr-defined]
        whole = made_of(delta.read(), Specialist(bench.base), english, [Expert(change.delta, change.labels)])  # type: ignore[attr-defined]
        return {}, {english.name: whole, target.name: whole}

    done: dict[tuple[str, bool], Found] = {}
    for method, both in ((m, b) for m in TAGGERS for b in (False, True)):
        said = f"{method}, {'task + language' if both else 'task alone'}"
        found = bench.arm(said, [english, target], partial(tagger, method, both))[1]
        if found:
            done[method, both] = only(found, target)
            beside = {"task_alone": done[method, False]} if both else {}
            beside |= {"lt-sft_sum": done["lt-sft", True]} if both and method != "lt-sft" else {}
            there = float(stats.scores({s: r[english.name] for s, r in found.items()}).per_seed().mean())
            rows.append(row("composed", said, done[method, both], beside, in_english=there))
    yield from rows if done else ()


def graft(bench: Bench) -> Iterator[dict[str, Any]]:
    """A share of an expert's change on the base: how much of the skill is kept, and how well it knows what it knows."""
    chosen = [i for i, t in enumerate(bench.tasks) if t.name in ("trec", "financial_phrasebank")]
    tasks, alone, zero = [bench.tasks[i] for i in chosen], of([bench.tuned[i] for i in chosen]), of([bench.zero[i] for i in chosen])
    top, low = row("grafted", "experts alone", alone, {"experts": alone}), row("grafted", "base, untuned", zero, {"experts": alone})
    rows = [top | {"skill_kept": 1.0}, low | {"skill_kept": 0.0}]

    def made(mask: Any, density: float, seed: int) -> Made:
        changes = {}
        for i in chosen:
            settings = grafting.Settings(experts=(folder(bench.tuned[i], seed),), mask=mask, density=density, lr=0.5, bias=3.0)
            task, run = bench.tasks[i].subset(dev=DEV).sealed(), Run(seed=seed, budget=Budget(GRAFT))
            changes[task.name] = grafting.graft(Specialist(bench.base), task, settings, run)
        return {}, changes

    for mask, density in MASKS:
        found = bench.arm(f"graft {mask} {density}", tasks, partial(made, mask, density))[1]
        if found:
            this = row("grafted", f"{mask}, {density:.0%} of the entries", found, {"experts": alone})
            rows.append(this | {"skill_kept": (this["score"] - low["score"]) / (top["score"] - low["score"])})
    yield from rows if len(rows) > 2 else ()


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
        if found:
            size = sum(s["bytes"] for s in said) / len(said)
            yield row("compressed", name, found, {"experts": alone}, bytes=round(size), times_smaller=whole / size)


PARTS = {"merged": merge, "compressed": compress, "composed": compose, "grafted": graft}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", default="/tmp/metier-mreal", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS), help="parts that are made; the others are read")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="only write the results of what is there")
    a = parser.parse_args()
    rows = []
    bench = Bench(a.work, a.seeds, a.table)
    for part, make in PARTS.items():
        bench.table = a.table or part not in a.only
        rows += list(make(bench))
    made = {
        "experts": "full tuning, 1600 examples, lr 2e-4",
        "drawn": f"aTLAS {ATLAS} a task, masks {GRAFT}, tagging {TAGGING}, text {TEXT}",
    }
    write("merging_real", {"base": bench.base.name, **made, "looks_at_dev": f"six, {DEV} examples a task", "rows": rows})


if __name__ == "__main__":
    main()
