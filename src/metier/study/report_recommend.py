"""Which method to use, and why, in plain words.

The rule, the same for every task:
1. level with the best: the methods whose score is not significantly below the highest one measured (the paired 95 %
   interval reaches 0, or p >= 0.05);
2. of these, those that lose at most a point more than the least forgetful one, on the retained task each loses most on
   (skipped where retention was not measured);
3. the plain base where it is among these, since it costs nothing to make; else those whose time per answer is within
   25 % of the least, and of them the one with the least search and training time.

The plain base takes part in all three. More than two points lost are said aloud, and so is whatever the data cannot tell.
"""

from __future__ import annotations

from typing import Any

from metier.study.report_text import bounds, many, mark, p_value, percent, seconds, signed, warned

SLACK_LOST = 0.01
SLACK_TIME = 1.25
LOUD_LOST = 0.02
ALPHA = 0.05
RULE = " ".join((__doc__ or "").split("\n\n")[1].split())


def recommend(report: dict[str, Any]) -> dict[str, Any]:
    """{headline, reason, rule, method or None, tasks: [{task, method, best, level, headline, reason, cautions}], cautions}.

    `method` is the overall choice (`_overall`), or None where no method has a result on every task.
    """
    tasks = [_choose(task) for task in report["tasks"]]
    overall = _overall(report["tasks"], tasks)
    return {**_headline(report["tasks"], tasks, overall), "rule": RULE, "method": overall, "tasks": tasks, "cautions": _cautions(report)}


def _choose(task: dict[str, Any]) -> dict[str, Any]:
    """The choice for one task."""
    done = [row for row in task["methods"] if row["score"]]
    if not done:
        reason = "No method finished on this task, so there is nothing to choose from; see the failures."
        return {"task": task["name"], "method": None, "best": None, "level": [], "headline": "No result", "reason": reason, "cautions": []}
    best = next(row for row in done if row["method"] == task["best"])
    level = [row for row in done if not _below(row)]
    kept, by = _least_forgetful(level)
    row = next((r for r in kept if r["method"] == task["reference"]), None) or _cheapest(kept)
    reasons = [f"{_scored(row)}." if len(done) == 1 else _said(row, best, level, kept, by), _against_base(task, row, best)]
    cautions = [text for text in (_loss(row), _outside(task, row), _reload(row), *warned(task), _few(row), _idle(done)) if text]
    headline = "Keep the plain base" if row["method"] == task["reference"] else f"Use {row['method']}"
    return {
        "task": task["name"],
        "method": row["method"],
        "best": best["method"],
        "level": [r["method"] for r in level],
        "beats_base": mark(row) == "better",
        "headline": headline,
        "reason": " ".join(r for r in reasons if r),
        "cautions": cautions,
    }


def _below(row: dict[str, Any]) -> bool:
    gap = row["to_best"]
    return bool(gap and gap["high"] < 0 and gap["p"] < ALPHA)


def _least_forgetful(level: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], bool]:
    """(who is left, whether retention decided)."""
    lost = {r["method"]: r["lost_most"] for r in level if r["lost_most"] is not None}
    if not lost:
        return level, False
    least = max(0.0, min(lost.values()))  # gaining on a retained task earns nothing
    kept = [r for r in level if r["method"] in lost and lost[r["method"]] <= least + SLACK_LOST]
    return kept, len(kept) < len(level)


def _cheapest(rows: list[dict[str, Any]]) -> dict[str, Any]:
    def per_answer(row: dict[str, Any]) -> float:
        value = row["cost"]["seconds_per_answer"]["mean"]
        return float("inf") if value is None else float(value)

    least = min(per_answer(r) for r in rows)
    quick = [r for r in rows if per_answer(r) <= least * SLACK_TIME]
    return min(quick, key=lambda r: (_making(r), -r["score"]["value"], r["method"]))


def _making(row: dict[str, Any]) -> float:
    parts = [row["cost"][f"seconds_{part}"] for part in ("search", "train")]
    return float("inf") if None in parts else float(sum(parts))


def _scored(row: dict[str, Any]) -> str:
    return f"{row['method']} scores {percent(row['score']['value'])} % {bounds(row['score'])}"


def _said(row: dict[str, Any], best: dict[str, Any], level: list[dict[str, Any]], kept: list[dict[str, Any]], by_loss: bool) -> str:
    """Why this one: its score beside the best, and what decided."""
    name, top, scored = row["method"], best["method"], _scored(row)
    if row is best and len(level) == 1:
        return f"{scored}: the highest; each other method, compared with it alone, is significantly below it."
    if row is best:
        others = many(len(level) - 1, "other method")
        return f"{scored}, the highest measured. {others} cannot be told apart from it; of these {name} {_why(row, level, kept, by_loss)}."
    gap = row["to_best"]
    told = f"{top} measured higher ({percent(best['score']['value'])} % {bounds(best['score'])}),"
    told += f" but {name} at {percent(row['score']['value'])} %"
    doubt = f", p {_equals(gap['p'])}" if gap["high"] < 0 else ""
    told += (
        f" {bounds(row['score'])} is not significantly below it (difference {signed(gap['value'])} points {bounds(gap, sign=True)}{doubt})."
    )
    told += f" Of the {many(len(level), 'method')} level with the best, {name} {_why(row, level, kept, by_loss)}."
    return told


def _why(row: dict[str, Any], level: list[dict[str, Any]], kept: list[dict[str, Any]], by_loss: bool) -> str:
    if _making(row) < 0.01:
        return "needs nothing to be made"
    answers = (
        f"{seconds(row['cost']['seconds_per_answer']['mean'])} per answer, {seconds(_making(row))} to make"
        if _making(row) < float("inf")
        else "cost unknown"
    )
    if by_loss and len(kept) == 1:
        return f"forgets least ({_lost_words(row)}); it costs {answers}"
    if by_loss:
        return f"is the cheapest ({answers}) of the {len(kept)} that forget least ({_lost_words(row)})"
    measured = row["lost_most"] is not None
    return f"costs least ({answers}){'; they forget alike' if measured and len(level) > 1 else ''}"


def _lost_words(row: dict[str, Any]) -> str:
    """'3.5 points lost on arithmetic [+0.2, +6.9]', of the retained task that lost most."""
    name, lost = max(((n, f["lost"]) for n, f in row["forgetting"].items()), key=lambda pair: pair[1]["value"])
    return f"{signed(lost['value']).lstrip('+')} points lost on {name} {bounds(lost, sign=True)}"


def _against_base(task: dict[str, Any], row: dict[str, Any], best: dict[str, Any]) -> str:
    """What it gains on the plain base, or that nothing does for sure."""
    if task["reference"] is None:
        return "The plain base was not measured, so gains, flips and forgetting are unknown."
    if any(mark(r) == "better" for r in task["methods"] if r["score"]):
        gain = row["difference"]
        if not gain:
            return "The plain base is as good as what beats it here." if mark(best) != "better" else ""
        words = {"better": "It beats the plain base", "unclear": "Against the plain base it is not settled"}.get(
            mark(row), "It is below the plain base"
        )
        return f"{words}: {_gained(gain)}."
    others = [r for r in task["methods"] if r["difference"]]
    if not others:
        return "Nothing but the plain base was measured."
    top = max(others, key=lambda r: r["difference"]["value"])
    gain = top["difference"]
    if any(_below(r) for r in task["methods"] if r["method"] == task["reference"]):
        return f"As one of {many(len(others), 'method')} compared with the plain base, {top['method']} is not sure to beat it: {_gained(gain)}."
    return f"Nothing beats the plain base for sure: the most is {top['method']} with {_gained(gain)}.{_needed(gain)}"


def _gained(gain: dict[str, Any]) -> str:
    return f"{signed(gain['value'])} points {bounds(gain, sign=True)}, p {_equals(gain['p_holm'])} after Holm's correction"


def _needed(gain: dict[str, Any]) -> str:
    """How many test examples would settle a difference of this size: intervals shrink with the root of n."""
    if gain["value"] <= 0 or gain["low"] > 0:
        return ""
    n = gain["n"] * ((gain["high"] - gain["low"]) / 2 / gain["value"]) ** 2
    return (
        f" About {float(f'{n:.1g}'):,.0f} test examples would be needed to settle a difference of this size; there are {gain['n']}."
        if n < 1e6
        else ""
    )


def _equals(p: float) -> str:
    text = p_value(p)
    return text if text.startswith("<") else f"= {text}"


def _loss(row: dict[str, Any]) -> str:
    """More than two points lost, said aloud; 'may' where the interval reaches zero."""
    if row["lost_most"] is None or row["lost_most"] <= LOUD_LOST:
        return ""
    sure = any(f["lost"]["value"] > LOUD_LOST and f["lost"]["low"] > 0 for f in row["forgetting"].values())
    return f"{row['method']} {'forgets' if sure else 'may forget'}: {_lost_words(row)}."


def _reload(row: dict[str, Any]) -> str:
    gap = max((t["reload_gap"] or 0.0 for t in row["trials"]), default=0.0)
    return f"{row['method']} answers differently after saving and loading: outputs differ by up to {gap:.2g}." if gap > 1e-3 else ""


def _outside(task: dict[str, Any], row: dict[str, Any]) -> str:
    """A choice that answers worse than the plain base where the distribution differs."""
    base = next((r["ood"] for r in task["methods"] if r["method"] == task["reference"]), None)
    if not base or not row["ood"] or row["ood"]["value"] >= base["value"]:
        return ""
    mine = f"{percent(row['ood']['value'])} % {bounds(row['ood'])}"
    return f"Out of distribution {row['method']} is below the plain base: {mine} against {percent(base['value'])} % {bounds(base)}."


def _idle(rows: list[dict[str, Any]]) -> str:
    """Methods that changed nothing that is measured: a quiet no-op, or a budget too small."""
    same = [
        r["method"] for r in rows if r["difference"] and r["difference"]["value"] == r["difference"]["low"] == r["difference"]["high"] == 0
    ]
    return f"Scored as the plain base on every example, so they may have changed nothing: {', '.join(same)}." if same else ""


def _few(row: dict[str, Any]) -> str:
    return f"Only {many(row['n'], 'test example')}: intervals are wide." if row["n"] < 100 else ""


def _overall(tasks: list[dict[str, Any]], choices: list[dict[str, Any]]) -> str | None:
    """Of the methods with a result on every task: level with the best most often, then (to a point) least lost, then the highest score."""
    if len(tasks) == 1:
        return str(choices[0]["method"]) if choices[0]["method"] else None
    found = [{row["method"]: row for row in task["methods"] if row["score"]} for task in tasks]
    everywhere = [method for method in found[0] if all(method in rows for rows in found)]
    level = {m: sum(m in choice["level"] for choice in choices) for m in everywhere}
    often = [m for m in everywhere if level[m] == max(level.values())]
    lost = {m: _lost_at_most(m, found) for m in often}
    known = {m: max(0.0, value) for m, value in lost.items() if value is not None}
    kept = [m for m, value in known.items() if value <= min(known.values()) + SLACK_LOST] if known else often
    return max(kept, key=lambda m: sum(rows[m]["score"]["value"] for rows in found), default=None)


def _lost_at_most(method: str, found: list[dict[str, Any]]) -> float | None:
    """The most points a method lost on a retained task, over all tasks; None where unknown."""
    return max((rows[method]["lost_most"] for rows in found if rows[method]["lost_most"] is not None), default=None)


def _headline(measured: list[dict[str, Any]], tasks: list[dict[str, Any]], overall: str | None) -> dict[str, str]:
    """{headline, reason} over all tasks."""
    chosen = [t for t in tasks if t["method"]]
    if not chosen:
        return {"headline": "No result yet", "reason": "No trial finished; see the failures."}
    if len(tasks) == 1:
        return {"headline": tasks[0]["headline"], "reason": tasks[0]["reason"]}
    if len({t["method"] for t in chosen}) == 1 and len(chosen) == len(tasks):
        return {
            "headline": f"{chosen[0]['headline']} on all {len(tasks)} tasks",
            "reason": "The same choice on every task; the reasons are beside each.",
        }
    each = ", ".join(f"{t['method']} for {t['task']}" for t in chosen)
    reason = f"Choose by task: {each}."
    if overall:
        level = sum(overall in t["level"] for t in chosen)
        lost = _lost_at_most(overall, [{r["method"]: r for r in task["methods"] if r["score"]} for task in measured])
        reason += f" If it must be one for all, {overall}: level with the best on {level} of {len(tasks)} tasks"
        reason += f", {percent(max(lost, 0.0))} points lost at most." if lost is not None else "."
    return {"headline": "No single way wins everywhere", "reason": reason}


def _cautions(report: dict[str, Any]) -> list[str]:
    """What holds for the whole study and limits what it can tell."""
    trials, said = report["trials"], []
    if trials["not_run"]:
        said.append(f"Not run yet: {trials['not_run']} of {many(trials['planned'], 'trial')}; the choice may change.")
    if trials["failed"]:
        said.append(f"{many(trials['failed'], 'trial')} failed and took no part; see the failures.")
    if len(report["seeds"]) == 1:
        said.append("One seed only: how much results vary from run to run is unknown.")
    if not report["retain"]:
        said.append("No retained tasks were given (--retain): what was forgotten is unknown.")
    return said
