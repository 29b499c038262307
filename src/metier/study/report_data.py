"""The report's numbers: from a study's folder to one JSON value, `report.json`. Pure: the same folder gives the same value.

Units: scores, rates and differences are fractions (0.02 is two points); seconds; bytes; tokens. An interval is
{value, low, high, n, seeds, how}; a difference is {value, low, high, p, test, n, seeds}, new minus old. Unknown is null.

    schema_version 1
    created, command, base, machine, versions, budget, estimate, seeds, retain     from plan.json
    trials      {planned, done, failed, not_applicable, not_run}
    tasks[]     name, kind, metric, n_train ... source, warnings (from plan.json), reference ('zero-shot' or null), best,
                methods[]: method, status, reason, places, papers, seeds, n
                    score (interval), per_seed [{seed, score}], dev
                    difference (to the reference; with p_holm over the task's methods), to_best (difference to the best)
                    ood (interval and gap = ood - test), forgetting {retained task: {before, after, lost (difference)}}, lost_most
                    calibration {n, ece, adaptive_ece, brier, nll, bins[]}, per seed averaged; bins over all seeds
                    flips {n, negative_rate, positive_rate, negative_of_right; of the first seed n_negative, n_positive,
                       negative[], positive[]: up to 20 examples each}
                    cost {means per seed; spent_seconds, search_trials: sums; peak_bytes: largest}
                    pareto {seconds, tokens, stored}: true where no method is as good for less
                    trials[] {key, seed, settings, base, reload_gap, verified, search, curve, versions}
    failures[]  {task, method, seed, status, reason}
    recommendation  see `report_recommend.recommend`
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metier import atomic
from metier.evaluate import metrics, stats
from metier.evaluate.record import Record, align
from metier.study.report_read import BySeed, Trial, finite, known_mean, known_sum, read_json, read_split, read_trials
from metier.study.report_recommend import recommend

SCHEMA_VERSION = 1
REFERENCE = "zero-shot"
SHOWN_FLIPS = 20
COSTS = {"seconds": "seconds", "tokens": "tokens_per_answer", "stored": "stored_bytes"}  # Pareto axis -> key in `cost`
_COST_MEANS = (
    "seconds_search", "seconds_train", "seconds_evaluate", "flops_train", "flops_evaluate", "trainable_parameters",
    "stored_bytes", "examples_seen", "tokens_in_per_answer", "tokens_out_per_answer",
)  # fmt: skip


def write_report(out: Path) -> dict[str, Any]:
    """Build the report of a study's folder and write OUT/report.json; returns the report."""
    report = build_report(out)
    atomic.write_json(Path(out) / "report.json", report)
    return report


def build_report(out: Path) -> dict[str, Any]:
    """The report of OUT (plan.json and trials/*/). Raises UserError for a folder that is no study or a damaged file."""
    out = Path(out)
    plan = read_json(out / "plan.json")
    wanted = set(plan.get("trials") or [])  # the folder may hold trials of other arguments too
    trials = [t for t in read_trials(out) if not wanted or t.folder.name in wanted]
    tasks = [_task(task, plan, [t for t in trials if t.meta["task"] == task["name"]]) for task in plan["tasks"]]
    copied = {key: plan.get(key) for key in ("created", "command", "base", "machine", "versions", "budget", "estimate")}
    report = {
        "schema_version": SCHEMA_VERSION,
        **copied,
        "seeds": plan["seeds"],
        "retain": plan.get("retain") or [],
        "methods": plan["methods"],
        "trials": _count(plan, trials),
        "tasks": tasks,
        "failures": _failures(plan, trials),
    }
    report["recommendation"] = recommend(report)
    cleaned: dict[str, Any] = finite(report)
    return cleaned


def _task(task: dict[str, Any], plan: dict[str, Any], trials: Sequence[Trial]) -> dict[str, Any]:
    """One task's part of the report."""
    groups: dict[str, BySeed] = {method: {} for method in plan["methods"]}
    for trial in trials:
        groups.setdefault(trial.meta["method"], {})[trial.meta["seed"]] = trial
    done = {m: {s: t for s, t in g.items() if t.meta["status"] == "done"} for m, g in groups.items()}
    done = {method: group for method, group in done.items() if group}
    total = _total(task["metric"])
    tests = {method: {s: t.must("test") for s, t in group.items()} for method, group in done.items()}
    scored = _scored(tests, total)
    rows = [_start(m, groups[m], done.get(m, {})) for m in groups]
    best = max(scored, key=lambda m: float(scored[m].per_seed().mean()), default=None)
    kept = {name: read_split(done.get(REFERENCE, {}), f"retain-{name}") for name in plan.get("retain") or []}
    for row in rows:
        method = row["method"]
        if method in done:
            row.update(_measured(method, tests, scored, best))
            row.update(_elsewhere(done[method], kept, tests[method], plan, total))
            row["cost"] = _cost(list(done[method].values()), tests[method])
    _correct(rows)
    _pareto(rows)
    return {**task, "reference": REFERENCE if REFERENCE in done else None, "best": best, "methods": rows}


def _start(method: str, every: BySeed, done: BySeed) -> dict[str, Any]:
    """What is known of a method before its records are read; what needs them is None."""
    metas = [t.meta for t in every.values()]
    first: dict[str, Any] = next((m for m in metas if m["status"] == "done"), metas[0] if metas else {})
    kept = ("key", "seed", "settings", "base", "reload_gap", "verified", "search", "curve", "versions")
    return {
        "method": method,
        "status": "done" if done else first.get("status", "not yet run"),
        "reason": None if done else first.get("error"),
        "places": first.get("places") or [],
        "papers": first.get("papers") or [],
        "seeds": sorted(done),
        "dev": known_mean([dev_score(t.meta) for t in done.values()]),
        **dict.fromkeys(("n", "score", "difference", "to_best", "calibration", "flips", "ood", "lost_most", "cost")),
        **{"per_seed": [], "forgetting": {}, "pareto": {}},
        "trials": [{k: t.meta.get(k) for k in kept} for _, t in sorted(done.items())],
    }


def dev_score(meta: dict[str, Any]) -> float | None:
    """The dev score of what was chosen: the last search's entry with the trial's settings, else its best, else the curve's best.

    An entry's `settings` are those of its `method`, one part of a chain; without `method`, the trial's.
    """
    search = [s for s in meta.get("search") or [] if s.get("dev_score") is not None]
    last = [s for s in search if s.get("method") == search[-1].get("method")]
    settings = meta.get("settings") or {}
    mine = settings.get(last[0]["method"], {}) if last and last[0].get("method") else settings
    same = [s["dev_score"] for s in last if s["settings"].items() <= mine.items()]
    curve = [p["dev_score"] for p in meta.get("curve") or [] if p.get("dev_score") is not None]
    known = same or [s["dev_score"] for s in last] or curve
    return max(known) if known else None


def _scored(tests: dict[str, dict[int, list[Record]]], total: metrics.Total | None) -> dict[str, stats.Scores]:
    """{method: scores}, all in the same order of examples. Raises ValueError where methods saw different examples."""
    if not tests:
        return {}
    order = next(iter(next(iter(tests.values())).values()))
    aligned = {m: {s: [r for _, r in align(order, records)] for s, records in group.items()} for m, group in tests.items()}
    return {method: stats.scores(group, total) for method, group in aligned.items()}


def _measured(method: str, tests: dict[str, dict[int, list[Record]]], scored: dict[str, stats.Scores], best: str | None) -> dict[str, Any]:
    """Score, differences, calibration and flips of one method on the test split."""
    mine, groups = scored[method], tests[method]
    base = scored.get(REFERENCE) if method != REFERENCE else None
    return {
        "n": len(mine.ids),
        "score": asdict(stats.interval(mine)),
        "per_seed": [{"seed": s, "score": float(v)} for s, v in zip(mine.seeds, mine.per_seed(), strict=True)],
        "difference": asdict(stats.difference(base, mine)) if base else None,
        "to_best": asdict(stats.difference(scored[best], mine)) if best and best != method else None,
        "calibration": _calibration(groups),
        "flips": _flips(tests[REFERENCE], groups) if base else None,
    }


def _elsewhere(
    group: BySeed,
    kept: dict[str, dict[int, list[Record]]],
    test: dict[int, list[Record]],
    plan: dict[str, Any],
    total: metrics.Total | None,
) -> dict[str, Any]:
    """Out-of-distribution score, and what was forgotten on the retained tasks; `kept` is what the base answers there."""
    ood = read_split(group, "ood")
    row: dict[str, Any] = {"ood": None, "forgetting": {}, "lost_most": None}
    if ood:
        found = stats.interval(stats.scores(ood, total))
        inside = stats.scores({s: test[s] for s in ood}, total).per_seed().mean()
        row["ood"] = {**asdict(found), "gap": found.value - float(inside)}
    metric = {t["name"]: t["metric"] for t in plan["tasks"]}
    for name, before in kept.items():
        after = read_split(group, f"retain-{name}")
        if not after or not before:
            continue
        rule = _total(metric.get(name, ""))
        order = next(iter(before.values()))
        new, old = (stats.scores({s: [r for _, r in align(order, rs)] for s, rs in side.items()}, rule) for side in (after, before))
        lost = asdict(stats.difference(new, old))
        row["forgetting"][name] = {"before": asdict(stats.interval(old)), "after": asdict(stats.interval(new)), "lost": lost}
    if row["forgetting"]:
        row["lost_most"] = max(f["lost"]["value"] for f in row["forgetting"].values())
    return row


def _calibration(groups: dict[int, list[Record]]) -> dict[str, Any] | None:
    """Calibration errors averaged over seeds, and the reliability table over all seeds' answers; None without confidences."""
    every = [r for records in groups.values() for r in records]
    kept = sum(r.confidence is not None for r in every)
    if not kept:
        return None
    functions: dict[str, Callable[[Sequence[Record]], float | None]]
    functions = {"ece": metrics.ece, "adaptive_ece": metrics.adaptive_ece, "brier": metrics.brier, "nll": metrics.nll}
    values = {name: known_mean([f(records) for records in groups.values()]) for name, f in functions.items()}
    return {"n": kept // len(groups), **values, "bins": metrics.reliability(every)}


def _flips(base: dict[int, list[Record]], new: dict[int, list[Record]]) -> dict[str, Any]:
    """Flip rates against the base, averaged over seeds; examples and their counts are of the first seed."""
    shown: dict[str, list[dict[str, Any]]] = {}
    counts: dict[str, int] = {}
    every = []
    for seed, records in sorted(new.items()):
        before = base.get(seed) or base[min(base)]
        found = metrics.flips(before, records)
        every.append(found)
        if not shown:
            pairs = {b.example: (b, c) for b, c in align(before, records)}
            sides = {"negative": found.negative, "positive": found.positive}
            shown = {side: [_shown(*pairs[e], seed) for e in ids[:SHOWN_FLIPS]] for side, ids in sides.items()}
            counts = {f"n_{side}": len(ids) for side, ids in sides.items()}
    rates = {name: known_mean([getattr(f, name) for f in every]) for name in ("negative_rate", "positive_rate", "negative_of_right")}
    return {"n": every[0].n, **rates, **counts, **shown}


def _shown(before: Record, after: Record, seed: int) -> dict[str, Any]:
    target = before.target if isinstance(before.target, str) else json.dumps(before.target, ensure_ascii=False)
    words = {"prompt": before.prompt_tail, "target": target, "before": before.output, "after": after.output}
    clean = {key: text.encode("utf-8", "replace").decode() for key, text in words.items()}
    return {"example": before.example, "seed": seed, **clean, "confidence": after.confidence}


def _cost(trials: Sequence[Trial], tests: dict[int, list[Record]]) -> dict[str, Any]:
    """Means over seeds; a part that any seed does not know is unknown."""
    costs = [t.meta.get("cost") or {} for t in trials]
    row: dict[str, Any] = {key: known_mean([c.get(key) for c in costs]) for key in _COST_MEANS}
    row["seconds"] = known_sum(row[f"seconds_{part}"] for part in ("search", "train", "evaluate"))
    row["tokens_per_answer"] = known_sum(row[f"tokens_{way}_per_answer"] for way in ("in", "out"))
    row["spent_seconds"] = row["seconds"] * len(costs) if row["seconds"] is not None else None
    row["search_trials"] = known_sum(c.get("search_trials") for c in costs)
    peaks: list[Any] = [c.get("peak_bytes") for c in costs]
    row["peak_bytes"] = None if None in peaks else max(map(int, peaks))
    row["seconds_per_answer"] = metrics.latency([r for records in tests.values() for r in records])
    return row


def _correct(rows: list[dict[str, Any]]) -> None:
    """Add Holm-corrected p values, over the task's methods."""
    with_p = [row["difference"] for row in rows if row["difference"]]
    for difference, p in zip(with_p, stats.holm([d["p"] for d in with_p]), strict=True):
        difference["p_holm"] = p


def _pareto(rows: list[dict[str, Any]]) -> None:
    """Mark who is on the front: no other method has at least its score for at most its cost, one of them strictly."""
    for axis, key in COSTS.items():
        known = [(r, r["score"]["value"], r["cost"][key]) for r in rows if r["score"] and r["cost"][key] is not None]
        for row, score, cost in known:
            beaten = any(s >= score and c <= cost and (s > score or c < cost) for _, s, c in known)
            row["pareto"][axis] = not beaten


def _count(plan: dict[str, Any], trials: Sequence[Trial]) -> dict[str, int]:
    """How many trials were planned, and what became of them."""
    found = Counter(t.meta["status"] for t in trials)
    planned = max(len(plan["tasks"]) * len(plan["methods"]) * len(plan["seeds"]), len(trials))
    counts = {"done": found["done"], "failed": found["failed"], "not_applicable": found["not-applicable"]}
    return {"planned": planned, **counts, "not_run": planned - len(trials)}


def _failures(plan: dict[str, Any], trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Trials that gave no result: failed, not applicable, or not yet run."""
    have = {(t.meta["task"], t.meta["method"], t.meta["seed"]) for t in trials}
    planned = [(t["name"], m, s) for t in plan["tasks"] for m in plan["methods"] for s in plan["seeds"]]
    bad = [
        {**{k: t.meta[k] for k in ("task", "method", "seed", "status")}, "reason": t.meta.get("error")}
        for t in trials
        if t.meta["status"] != "done"
    ]
    return bad + [
        {"task": t, "method": m, "seed": s, "status": "not yet run", "reason": None} for t, m, s in planned if (t, m, s) not in have
    ]


def _total(metric: str) -> metrics.Total | None:
    """The corpus score of a scorer that has one."""
    from metier.task.score import SCORERS

    return getattr(SCORERS.get(metric), "total", None)
