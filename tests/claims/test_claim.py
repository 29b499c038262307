"""Claims are read without being imported, and their rules decide as they say."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metier.claims import claim, result
from metier.claims.claim import Claim, Entry, catalogue
from metier.claims.result import FAILS, HOLDS, OPEN, Effect, Found, judge
from metier.errors import UserError

ENTRIES = list(catalogue().values())
FIRST = {"lt-sft": 25, "emulated-fine-tuning": 143, "lofit": 151, "few-shot": 171, "ece-full-vs-lora": None}


def made(rule: dict[str, float], needs: dict[str, float] | None = None, **rest: Any) -> Claim:
    return Claim(row=1, title="t", statement="s", reported="r", experiment="e", rule=rule, needs=needs or {}, **rest)


# --- the files -----------------------------------------------------------------------------------------------------------
def test_the_first_claims_are_there() -> None:
    assert {e.name: e.claim.row for e in ENTRIES if e.name in FIRST} == FIRST


@pytest.mark.parametrize("entry", ENTRIES, ids=[e.name for e in ENTRIES])
def test_a_claim_says_everything(entry: Entry) -> None:
    said = entry.claim
    assert all(len(getattr(said, f)) > 20 for f in ("title", "statement", "reported", "experiment", "limits"))
    assert all(part in entry.doc for part in ("Experiment:", "Effects:"))
    assert said.spoken().startswith("Holds if ")
    assert all(name in said.spoken() for name in (*said.rule, *said.needs))


def test_listing_claims_and_papers_imports_no_torch() -> None:
    code = "from metier.claims import claim, table, papers; table.rows(); [papers.state(p) for p in papers.papers()]; import sys; print('torch' in sys.modules)"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env=None)
    assert seen.stdout.strip() == "False"


def test_find_by_name_and_by_row() -> None:
    assert claim.find("lofit") is claim.find("151")
    with pytest.raises(UserError, match="Did you mean 'lofit'"):
        claim.find("lofti")
    with pytest.raises(UserError, match="no claim of paper 9 is written yet"):
        claim.find("9")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "CLAIM = Claim(row=7, title='t', statement='s', reported='r', experiment='e', rule={'x': 0.0})\ndef run(lab): ...",
            "must start with 'r007_'",
        ),
        ("CLAIM = Claim(row=None, title='t', statement='s', reported='r', experiment='e', rule={'x': 0.0})", "needs a function run"),
        (
            "CLAIM = Claim(row=None, title='t', statement='s', reported='r', experiment='e', rule={})\ndef run(lab): ...",
            "at least one effect",
        ),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "some_claim.py"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        claim.read(file)


def test_a_file_without_a_claim_is_none(tmp_path: Path) -> None:
    file = tmp_path / "helper.py"
    file.write_text("def run(lab): ...\n")
    assert claim.read(file) is None


@pytest.mark.parametrize("change", [{"statement": "z"}, {"rule": {"x": 0.1}}, {"version": 2}, {"seeds": 4}, {"needs": {"y": 0.0}}])
def test_the_digest_moves_with_the_claim(change: dict[str, Any]) -> None:
    before = made({"x": 0.0})
    assert dataclasses.replace(before, **change).digest() != before.digest()
    assert made({"x": 0.0}).digest() == before.digest()


# --- the verdict ---------------------------------------------------------------------------------------------------------
finite = st.floats(-10, 10)


@st.composite
def effects(draw: st.DrawFn, names: tuple[str, ...] = ("a", "b", "c")) -> list[Effect]:
    found = []
    for name in names:
        low, value, high = sorted(draw(st.tuples(finite, finite, finite)))
        found.append(Effect(name=name, value=value, low=low, high=high))
    return found


@given(effects(), st.tuples(finite, finite))
def test_the_verdict_is_the_rule(found: list[Effect], thresholds: tuple[float, float]) -> None:
    rule = dict(zip("ab", thresholds, strict=True))
    verdict, parts = judge(made(rule), found)
    above = [e.low > rule[e.name] for e in found if e.name in rule]
    below = [e.high <= rule[e.name] for e in found if e.name in rule]
    assert verdict == (HOLDS if all(above) else FAILS if any(below) else OPEN)
    assert set(parts) == {"a", "b"}


@given(effects(), finite)
def test_without_what_it_needs_it_says_nothing(found: list[Effect], threshold: float) -> None:
    free, _ = judge(made({"a": 0.0}), found)
    bound, _ = judge(made({"a": 0.0}, {"c": threshold}), found)
    assert bound == (free if found[2].low > threshold else OPEN)


@given(effects(("a",)), finite, st.floats(0, 5))
def test_a_higher_threshold_is_never_easier(found: list[Effect], threshold: float, more: float) -> None:
    rank = {FAILS: 0, OPEN: 1, HOLDS: 2}
    easy, hard = (judge(made({"a": t}), found)[0] for t in (threshold, threshold + more))
    assert rank[hard] <= rank[easy]


def test_an_effect_that_was_not_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"did not measure \['b'\]"):
        judge(made({"a": 0.0, "b": 0.0}), [Effect.exact("a", 1.0)])
    with pytest.raises(ValueError, match="interval from"):
        Effect(name="a", value=0.0, low=1.0, high=0.0)
    with pytest.raises(ValueError, match="interval from"):
        Effect(name="a", value=0.0, low=math.nan, high=0.0)


# --- results -------------------------------------------------------------------------------------------------------------
def entry_of(of: Claim) -> Entry:
    return Entry("some", "r001_some", "metier.claims.r001_some", Path("r001_some.py"), "", of)


def test_a_result_counts_for_the_claim_it_was_run_for(tmp_path: Path) -> None:
    entry = entry_of(made({"a": 0.0}))
    facts = result.facts(entry, Found(effects=[Effect.exact("a", 1.0)], remarks=["seen"]), seeds=[0])
    assert json.loads(json.dumps(facts))["verdict"] == HOLDS
    assert (facts["number"], facts["effect"], facts["verdicts"]) == (1, "a 1", {"a": HOLDS})
    assert result.status(entry, facts) == HOLDS
    assert result.status(entry, None) == result.NOT_RUN
    moved = entry_of(made({"a": 0.5}))
    assert result.status(moved, facts) == result.STALE


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_result_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "result.json"
    file.write_text(text)
    with pytest.raises(UserError, match="not a claim's result"):
        result.load(file)
    assert result.load(tmp_path / "none.json") is None


@pytest.mark.parametrize("entry", ENTRIES, ids=[e.name for e in ENTRIES])
def test_stored_results_follow_from_their_effects(entry: Entry) -> None:
    """A stored verdict is what the rule makes of the stored effects, of a whole run with the claim's own bases and seeds."""
    found = result.stored(entry)
    if found is None:
        pytest.skip(f"claim {entry.name} has not been run")
    assert found["claim"] == entry.claim.digest(), f"the claim has changed: metier claims run {entry.name} --store"
    listed = [Effect(**{**e, "per_seed": tuple(e["per_seed"])}) for e in found["effects"]]
    verdict, parts = judge(entry.claim, listed)
    assert (found["verdict"], found["verdicts"]) == (verdict, parts)
    assert found["quick"] is False
    assert found["seeds"] == list(range(entry.claim.seeds))
    assert tuple(b["name"] for b in found["bases"]) == entry.claim.bases
    assert len(found["trials"]) == entry.claim.trials * entry.claim.seeds
    assert {"machine", "versions", "seconds", "date", "scores"} <= set(found)


@pytest.mark.parametrize("entry", ENTRIES, ids=[e.name for e in ENTRIES])
def test_stored_results_are_of_the_shipped_bases(entry: Entry) -> None:
    from metier.model import load_base

    found = result.stored(entry)
    if found is None:
        pytest.skip(f"claim {entry.name} has not been run")
    now = {name: load_base(name).fingerprint for name in entry.claim.bases}
    assert {b["name"]: b["fingerprint"] for b in found["bases"]} == now, f"the base has changed: metier claims run {entry.name} --store"
