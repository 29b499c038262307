"""`metier papers`: 228 rows in our own words, and a status that is computed."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from metier.claims import claim, papers, result
from metier.claims.claim import Claim, Entry
from metier.claims.papers import NOT_YET, PARTLY, STATUSES, WORKS, Paper, state
from metier.cli.main import make_app
from metier.errors import UserError
from metier.method import About, Method, catalogue

ROOT = Path(__file__).resolve().parents[1]
PAPER = Paper(7, "A paper", "method", "tune", ("one", "two"))


def method(name: str, *rows: int) -> Method:
    return Method(name, "tune", "m", name, Path("m.py"), f"{name}: it does things.", About(place="weights", papers=rows), ())


def entry(row: int | None, name: str = "about") -> Entry:
    said = Claim(row=row, title="t", statement="s", reported="r", experiment="e", rule={"x": 0.0})
    return Entry(name, "stem", "module", Path("stem.py"), "", said)


def facts(of: Entry, verdict: str = result.HOLDS) -> dict[str, Any]:
    return {"verdict": verdict, "claim": of.claim.digest(), "effects": []}


def seen(paper: Paper, known: list[Method], claims: list[Entry], results: Mapping[str, Any]) -> dict[str, Any]:
    return state(paper, {m.name: m for m in known}, {e.name: e for e in claims}, results)


# --- the list ------------------------------------------------------------------------------------------------------------
def test_there_are_228_rows_and_nothing_but_five_facts_each() -> None:
    rows = json.loads(papers.LIST.read_text(encoding="utf-8"))
    assert [r["number"] for r in rows] == list(range(1, 229))
    assert all(set(r) == {"number", "title", "kind", "room", "ids"} for r in rows)
    assert {r["kind"] for r in rows} == {"method", "benchmark", "study", "survey"}
    assert all(r["ids"] and r["title"] for r in rows)


def test_the_list_is_what_its_script_makes(shared: Path) -> None:
    before = papers.LIST.read_text(encoding="utf-8")
    subprocess.run([sys.executable, ROOT / "benchmarks" / "make_papers.py", shared / "papers.jsonl"], check=True, capture_output=True)
    assert papers.LIST.read_text(encoding="utf-8") == before


def test_no_abstract_is_copied(shared: Path) -> None:
    """No run of eight words of an abstract stands in a claim or in the list, but in its title."""

    def runs(text: str) -> set[str]:
        words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
        return {" ".join(words[i : i + 8]) for i in range(len(words) - 7)}

    rows = [json.loads(line) for line in (shared / "papers.jsonl").read_text(encoding="utf-8").splitlines()]
    titles: set[str] = set().union(*(runs(r["title"]) for r in rows))
    theirs: set[str] = set().union(*(runs(r["abstract"]) | runs(r["delivers"]) for r in rows)) - titles
    said = [(e.name, e.doc, e.claim) for e in claim.catalogue().values()]
    ours = {name: " ".join((doc, c.statement, c.reported, c.experiment, c.limits)) for name, doc, c in said}
    assert not {name: runs(text) & theirs for name, text in ours.items() if runs(text) & theirs}
    assert not runs(" ".join(p.title for p in papers.papers())) & theirs


# --- the status ----------------------------------------------------------------------------------------------------------
def test_a_paper_works_with_all_its_methods_and_a_result() -> None:
    about = entry(7)
    found = seen(PAPER, [method("one", 7), method("two", 7)], [about], {"about": facts(about)})
    assert (found["status"], found["missing"]) == (WORKS, [])
    assert [m["method"] for m in found["exists"]["methods"]] == ["one", "two"]
    assert found["exists"]["claims"] == [{"claim": "about", "verdict": "holds"}]


def test_a_method_may_be_listed_under_another_name() -> None:
    other = dataclasses.replace(method("better-name", 7), about=About(place="weights", papers=(7,), listed="two"))
    found = seen(PAPER, [method("one"), other], [entry(7)], {"about": facts(entry(7))})
    assert (found["status"], found["missing"]) == (WORKS, [])
    assert state(next(p for p in papers.papers() if p.number == 139))["status"] == WORKS


@pytest.mark.parametrize("verdict", [result.HOLDS, result.FAILS, result.OPEN])
def test_a_negative_result_is_a_result(verdict: str) -> None:
    about = entry(7)
    assert seen(PAPER, [method("one"), method("two")], [about], {"about": facts(about, verdict)})["status"] == WORKS


def test_what_is_missing_is_named() -> None:
    about, one, two = entry(7), method("one", 7), method("two", 7)
    known = {"about": facts(about)}
    assert seen(PAPER, [one], [about], known)["missing"] == ["method two"]
    assert seen(PAPER, [one, two], [], {})["missing"] == ["a claim"]
    assert seen(PAPER, [one, two], [about], {})["missing"] == ["a result that counts: metier claims run 7 --store"]
    stale = facts(about) | {"claim": "of another rule"}
    assert seen(PAPER, [one, two], [about], {"about": stale})["missing"] == ["a result that counts: metier claims run 7 --store"]
    for part in ([one], [about]), ([one, two], []), ([], [about]), ([method("part-of-it", 7)], []):
        assert seen(PAPER, *part, known)["status"] == PARTLY  # type: ignore[arg-type]
    assert seen(PAPER, [method("other", 8)], [entry(8)], {})["status"] == NOT_YET


def test_a_study_is_there_when_its_claim_is_and_a_method_is_not() -> None:
    study, about = Paper(7, "A study", "study", "study", ("about",)), entry(7)
    assert seen(study, [], [about], {"about": facts(about)})["status"] == WORKS
    assert seen(Paper(7, "A method", "method", "tune", ("about",)), [], [about], {"about": facts(about)})["missing"] == ["method about"]


def test_every_registered_method_names_its_paper() -> None:
    """A method that carries a paper's id says so in its ABOUT, and no method names a row that is not there."""
    numbers = {p.number for p in papers.papers()}
    assert not {m.name: m.about.papers for m in catalogue().values() if set(m.about.papers) - numbers}
    wrong = {i: p.number for p in papers.papers() for i in p.ids if i in catalogue() and p.number not in catalogue()[i].about.papers}
    assert not wrong


def test_every_claim_carries_its_papers_title() -> None:
    assert all(e.claim.title == papers.find(e.claim.row).title for e in claim.catalogue().values() if e.claim.row is not None)


# --- the command line ----------------------------------------------------------------------------------------------------
def metier(*words: str) -> str:
    done = CliRunner().invoke(make_app(), list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_list_counts_every_status() -> None:
    states = json.loads(metier("papers", "--json"))
    assert len(states) == 228
    assert all(set(s) == {"number", "title", "kind", "room", "ids", "status", "exists", "missing"} for s in states)
    assert all((s["status"] == WORKS) == (not s["missing"]) for s in states)
    last = metier("papers").splitlines()[-1]
    assert last == "228 papers: " + ", ".join(f"{sum(s['status'] == k for s in states)} {k}" for k in STATUSES)


def test_rooms_and_statuses_filter() -> None:
    states = json.loads(metier("papers", "--room", "steer", "--status", "not-yet", "--json"))
    assert states
    assert {(s["room"], s["status"]) for s in states} == {("steer", NOT_YET)}
    every = sum(len(json.loads(metier("papers", "--room", r, "--json"))) for r in {p.room for p in papers.papers()})
    assert every == 228


def test_one_paper() -> None:
    assert json.loads(metier("papers", "show", "151", "--json"))["ids"] == ["lofit"]
    assert "Method      lofit: find the attention heads" in metier("papers", "show", "151")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("papers", "show", "229"), "numbered 1 to 228"),
        (("papers", "show"), "metier papers show 25"),
        (("papers", "20"), "metier papers show 20"),
        (("papers", "--room", "ster"), "Did you mean 'steer'"),
        (("papers", "--status", "worked"), "Did you mean 'works'"),
    ],
)
def test_misuse_is_told_in_a_sentence(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        metier(*words)
