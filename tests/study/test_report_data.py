from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.study.report_folder import write_study

from metier.cli.compare import show
from metier.errors import UserError
from metier.evaluate import metrics, stats
from metier.evaluate.record import read_records
from metier.study import report_text as text
from metier.study.report_data import build_report, dev_score, write_report
from metier.study.report_html import render_html
from metier.study.report_recommend import recommend

METHODS = ("zero-shot", "few-shot", "rag", "full", "lora", "lt-sft", "emulated-fine-tuning")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study") / "out", n=90, seeds=(0, 1, 2), methods=METHODS)


@pytest.fixture(scope="module")
def report(out: Path) -> dict[str, Any]:
    return build_report(out)


def row_of(report: dict[str, Any], task: str, method: str) -> dict[str, Any]:
    found = next(t for t in report["tasks"] if t["name"] == task)
    return next(r for r in found["methods"] if r["method"] == method)


def test_pure_and_strict_json(out: Path, report: dict[str, Any]) -> None:
    assert write_report(out) == json.loads((out / "report.json").read_text()) == report


def test_numbers_are_those_of_the_records(out: Path, report: dict[str, Any]) -> None:
    row = row_of(report, "facts", "lora")
    new = [read_records(out / f"trials/facts--lora--{s}/records-test.parquet") for s in range(3)]
    base = [read_records(out / f"trials/facts--zero-shot--{s}/records-test.parquet") for s in range(3)]
    by_hand = [sum(r.score for r in rs) / len(rs) for rs in new]
    assert row["score"]["value"] == pytest.approx(sum(by_hand) / 3)
    assert row["score"]["low"] < row["score"]["value"] < row["score"]["high"]
    assert [s["score"] for s in row["per_seed"]] == pytest.approx(by_hand)
    assert row["difference"]["value"] == pytest.approx(sum(by_hand) / 3 - sum(r.score for rs in base for r in rs) / 270)
    flips = [metrics.flips(b, c) for b, c in zip(base, new, strict=True)]
    assert row["flips"]["negative_rate"] == pytest.approx(sum(f.negative_rate for f in flips) / 3)
    assert [e["example"] for e in row["flips"]["negative"]] == flips[0].negative[:20]
    assert row["flips"]["n_positive"] == len(flips[0].positive)
    assert row["calibration"]["ece"] == pytest.approx(sum(metrics.ece(rs) or 0 for rs in new) / 3)
    shown, records = row["flips"]["positive"][0], {r.example: r for r in new[0]}
    assert (shown["after"], shown["target"]) == (records[shown["example"]].output, records[shown["example"]].target)


def test_forgetting_is_base_minus_method_on_the_retained_task(out: Path, report: dict[str, Any]) -> None:
    found = row_of(report, "skill", "full")["forgetting"]["arithmetic"]
    mean = {
        m: sum(r.score for s in range(3) for r in read_records(out / f"trials/skill--{m}--{s}/records-retain-arithmetic.parquet")) / 270
        for m in METHODS[:1] + ("full",)
    }
    assert found["lost"]["value"] == pytest.approx(mean["zero-shot"] - mean["full"])
    assert (found["before"]["value"], found["after"]["value"]) == (pytest.approx(mean["zero-shot"]), pytest.approx(mean["full"]))
    row = row_of(report, "skill", "full")
    assert row["lost_most"] == max(f["lost"]["value"] for f in row["forgetting"].values())


def test_holm_is_over_the_methods_of_a_task(report: dict[str, Any]) -> None:
    for task in report["tasks"]:
        with_p = [r["difference"] for r in task["methods"] if r["difference"]]
        assert [d["p_holm"] for d in with_p] == stats.holm([d["p"] for d in with_p])


def test_ood_only_where_there_is_one(report: dict[str, Any]) -> None:
    assert row_of(report, "facts", "lora")["ood"] is None
    row = row_of(report, "reviews", "lora")
    assert row["ood"]["gap"] == pytest.approx(row["ood"]["value"] - row["score"]["value"])


def test_costs(report: dict[str, Any]) -> None:
    cost = row_of(report, "facts", "lora")["cost"]
    assert cost["seconds_train"] == pytest.approx(76), "75, 76 and 77 over the seeds"
    assert cost["seconds"] == pytest.approx(45 + 76 + cost["seconds_evaluate"])
    assert cost["spent_seconds"] == pytest.approx(3 * cost["seconds"])
    assert (cost["search_trials"], cost["tokens_per_answer"]) == (6, 66)


def test_pareto(report: dict[str, Any]) -> None:
    for task in report["tasks"]:
        done = [r for r in task["methods"] if r["score"]]
        for axis, key in (("seconds", "seconds"), ("tokens", "tokens_per_answer"), ("stored", "stored_bytes")):
            for row in done:
                mine = (-row["score"]["value"], row["cost"][key])
                others = [(-r["score"]["value"], r["cost"][key]) for r in done]
                assert row["pareto"][axis] == (not any(o[0] <= mine[0] and o[1] <= mine[1] and o != mine for o in others))


def test_failures_and_counts(report: dict[str, Any]) -> None:
    assert report["trials"] == {"planned": 63, "done": 58, "failed": 1, "not_applicable": 3, "not_run": 1}
    assert [(f["task"], f["method"], f["seed"]) for f in report["failures"] if f["status"] == "failed"] == [
        ("skill", "emulated-fine-tuning", 1)
    ]
    assert row_of(report, "skill", "emulated-fine-tuning")["seeds"] == [0, 2]
    assert row_of(report, "skill", "rag")["status"] == "not-applicable"
    assert row_of(report, "skill", "rag")["score"] is None


def test_dev_score_is_that_of_the_settings_chosen() -> None:
    search = [{"settings": {"rate": 1}, "dev_score": 0.9}, {"settings": {"rate": 2}, "dev_score": 0.5}]
    assert dev_score({"settings": {"rate": 2}, "search": search}) == 0.5
    assert dev_score({"settings": {}, "search": search}) == 0.9
    chain = [{"method": "rag", "settings": {"k": 1}, "dev_score": 0.7}, {"method": "lora", "settings": {"lr": 1}, "dev_score": 0.8}]
    chain.append({"method": "lora", "settings": {"lr": 2}, "dev_score": 0.6})
    assert dev_score({"settings": {"rag": {"k": 1}, "lora": {"lr": 2, "rank": 4}}, "search": chain}) == 0.6
    assert dev_score({"settings": {}, "search": [], "curve": [{"step": 1, "loss": 1.0, "dev_score": 0.3}]}) == 0.3
    assert dev_score({"settings": {}}) is None


def test_recommendation(report: dict[str, Any]) -> None:
    advice = report["recommendation"]
    chosen = {t["task"]: t["method"] for t in advice["tasks"]}
    assert chosen["facts"] == "rag"
    assert chosen["skill"] in ("lora", "lt-sft"), "level with the best, and full forgets"
    assert advice["headline"] == "No single way wins everywhere"
    assert advice["method"] not in ("rag", None), "rag has no result on skill, so it is not one for all"
    assert "Not run yet: 1 of 63 trials" in advice["cautions"][0]
    for task in advice["tasks"]:
        assert task["method"] in task["level"]
        assert "[" in task["reason"], "no number without its interval"


def changed(out: Path, tmp_path: Path, **plan: Any) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(out, folder)
    (folder / "plan.json").write_text(json.dumps(json.loads((out / "plan.json").read_text()) | plan))
    return folder


def keep(folder: Path, *methods: str) -> None:
    for trial in (folder / "trials").iterdir():
        if trial.name.split("--")[1] not in methods:
            shutil.rmtree(trial)


def test_nothing_beats_the_base(out: Path, tmp_path: Path) -> None:
    tasks = json.loads((out / "plan.json").read_text())["tasks"]
    folder = changed(out, tmp_path, tasks=tasks[:1], methods=["zero-shot", "few-shot"], retain=[])
    keep(folder, "zero-shot", "few-shot")
    for task in ("skill", "reviews"):
        for trial in (folder / "trials").glob(f"{task}--*"):
            shutil.rmtree(trial)
    advice = build_report(folder)["recommendation"]
    assert advice["headline"] == "Keep the plain base"
    assert "Nothing beats the plain base for sure" in advice["reason"]
    assert "test examples would be needed" in advice["reason"]
    assert any("No retained tasks" in c for c in advice["cautions"])
    assert advice["method"] == "zero-shot"


def test_better_than_the_base_alone_but_not_as_one_of_several(report: dict[str, Any]) -> None:
    copy = json.loads(json.dumps(report))
    task = copy["tasks"][0]
    task["best"] = "full"
    for row in task["methods"]:
        row["to_best"] = None if row["method"] == "full" else {"value": -0.6, "low": -0.9, "high": -0.4, "p": 0.02}
        if row["difference"]:
            row["difference"] |= {"value": 0.6 if row["method"] == "full" else 0.0, "low": 0.4, "high": 0.9, "p_holm": 0.062}
    choice = recommend(copy)["tasks"][0]
    assert choice["method"] == "full"
    assert "each other method, compared with it alone, is significantly below it" in choice["reason"]
    assert "As one of 6 methods compared with the plain base, full is not sure to beat it: +60.0 points [+40.0, +90.0]" in choice["reason"]
    assert "Nothing beats" not in choice["reason"]


def test_a_method_alone_is_beside_no_other(report: dict[str, Any]) -> None:
    copy = json.loads(json.dumps(report))
    task = copy["tasks"][0]
    task["methods"] = [row | {"to_best": None} for row in task["methods"] if row["method"] == "zero-shot"]
    task["best"] = "zero-shot"
    reason = recommend(copy)["tasks"][0]["reason"]
    assert reason.startswith("zero-shot scores ") and reason.endswith("]. Nothing but the plain base was measured.")
    assert "other method" not in reason


def test_loud_about_forgetting(report: dict[str, Any]) -> None:
    copy = json.loads(json.dumps(report))
    for task in copy["tasks"]:
        task["methods"] = [r for r in task["methods"] if r["method"] in ("zero-shot", "full")]
        task["best"] = "full"
        for row in task["methods"]:
            row["to_best"] = None if row["method"] == "full" else {"value": -0.3, "low": -0.4, "high": -0.2, "p": 0.0}
    advice = recommend(copy)
    assert advice["method"] == "full"
    assert all(re.match("full (may forget|forgets): ", t["cautions"][0]) and "points lost on" in t["cautions"][0] for t in advice["tasks"])


def test_cautions_of_a_choice(report: dict[str, Any]) -> None:
    copy = json.loads(json.dumps(report))
    task = copy["tasks"][2]
    base, chosen = (
        next(r for r in task["methods"] if r["method"] == m) for m in ("zero-shot", report["recommendation"]["tasks"][2]["method"])
    )
    assert chosen["ood"]["value"] > base["ood"]["value"]
    chosen["ood"]["value"] = base["ood"]["value"] - 0.05
    idle = next(r for r in task["methods"] if r["method"] == "few-shot")
    idle["difference"] |= {"value": 0.0, "low": 0.0, "high": 0.0}
    chosen["trials"][0]["reload_gap"] = 0.02
    said = " ".join(recommend(copy)["tasks"][2]["cautions"])
    for words in ("is below the plain base", "may have changed nothing: few-shot.", "differ by up to 0.02", "Only 90 test examples"):
        assert words in said
        assert words == "Only 90 test examples" or words not in " ".join(report["recommendation"]["tasks"][2]["cautions"])


@pytest.mark.slow
def test_gibberish_is_warned_of_for_every_method(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = changed(out, tmp_path)
    warning = "perplexity on plain English is 4.7e+09, the base's 731: it may write gibberish. Lower lr."
    facts = {"gap": 0.0, "spread": 2.0, "perplexity": 4.7e9, "base_perplexity": 731.0, "equal": True, "warnings": [warning]}
    for seed in (0, 2):
        file = folder / f"trials/skill--full--{seed}/trial.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"verified": facts}))
    report = build_report(folder)
    row = next(r for r in report["tasks"][1]["methods"] if r["method"] == "full")
    assert [t["verified"] for t in row["trials"]] == [facts, None, facts], "trials of earlier versions have none"
    line = f"full: {warning} (2 of 3 seeds)"
    assert [line in task["cautions"] for task in report["recommendation"]["tasks"]] == [False, True, False]
    show(report, folder, False)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("may write gibberish") == 1 and f"warning skill {line}" in said
    page = render_html(report)
    assert page.count("it may write gibberish") == 1 and page.count("perplexity on plain English 4.7e+09, the base's 731") == 2


def test_without_a_base_and_without_results(out: Path, tmp_path: Path) -> None:
    folder = changed(out, tmp_path)
    keep(folder, "lora")
    report = build_report(folder)
    assert report["tasks"][0]["reference"] is None
    assert "plain base was not measured" in report["recommendation"]["tasks"][0]["reason"]
    keep(folder)
    report = build_report(folder)
    assert report["recommendation"]["headline"] == "No result yet"
    assert text.terminal_table(report)


def test_broken_folders(out: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"plan.json: not found. Is .* a study's folder"):
        build_report(tmp_path)
    folder = changed(out, tmp_path)
    (folder / "trials/facts--lora--0/records-test.parquet").unlink()
    with pytest.raises(UserError, match="says it is done but has no test records"):
        build_report(folder)
    (folder / "trials/facts--lora--0/trial.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        build_report(folder)
    (folder / "trials/facts--lora--0/trial.json").write_text("{}")
    with pytest.raises(UserError, match="lacks method, task, seed, status"):
        build_report(folder)


@pytest.mark.parametrize("width", [50, 80, 100, 160])
def test_terminal_table(report: dict[str, Any], width: int) -> None:
    stream = io.StringIO()
    for table in text.terminal_table(report, width):
        Console(width=width, file=stream).print(table)
    shown = stream.getvalue()
    assert "…" not in shown, "nothing is cut off"
    assert all(len(line) <= width for line in shown.splitlines())
    assert ("ECE %" in shown) == (width == 160), "narrow terminals get fewer columns"
    assert ("stored" in shown) == (width >= 100) and ("13.6 MB" in shown) == (width >= 100), "size and score beside each other"
    assert "score %" in shown


@pytest.mark.parametrize(
    ("shown", "value"),
    [
        (text.percent(0.7134), "71.3"), (text.signed(-0.0234), "−2.3"), (text.signed(-0.0001), "0.0"), (text.p_value(0.0004), "< 0.001"),
        (text.p_value(0.0312), "0.031"),
        (text.seconds(0.0123), "12.3 ms"), (text.seconds(59.99), "1 min 00 s"), (text.seconds(7500), "2 h 05 min"),
        (text.seconds(3599.9), "1 h 00 min"), (text.seconds(0), "0 s"),
        (text.count(1_234_567), "1.23 M"), (text.count(999_900), "1 M"), (text.size(13_600_000), "13.6 MB"), (text.size(310), "310 B"), (text.size(None), "–"),
    ],
)  # fmt: skip
def test_numbers_as_people_read_them(shown: str, value: str) -> None:
    assert shown == value
