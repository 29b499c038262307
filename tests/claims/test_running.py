"""Claims run from end to end on a base of random weights: every effect of the rule is measured, and a killed run goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import tiny_causal

from metier.claims import result, running, table
from metier.claims.claim import Entry, catalogue, find
from metier.claims.figure import svg
from metier.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def names(entry: Entry) -> list[str]:
    """Bases of random weights in the place of the claim's: a larger one and smaller ones of the same vocabulary; a base's next version is as large."""
    evolved = any(name.endswith("-next") for name in entry.claim.bases)
    sizes = (32, 32 if evolved else 16, 16)[: len(entry.claim.bases)]
    return [tiny_causal(seed=i, hidden=h, max_length=512).path for i, h in enumerate(sizes)]


def quick(entry: Entry, out: Path, **options: Any) -> dict[str, Any]:
    return running.run(entry, out, quick=True, bases=names(entry), quiet=True, **options)


@pytest.mark.slow
@pytest.mark.parametrize("entry", catalogue().values(), ids=list(catalogue()))
def test_every_claim_measures_what_its_rule_names(entry: Entry, tmp_path: Path) -> None:
    found = quick(entry, tmp_path, seeds=1)
    assert set(found["verdicts"]) == set(entry.claim.rule)
    assert {e["name"] for e in found["effects"]} >= set(entry.claim.rule) | set(entry.claim.needs)
    assert len(found["trials"]) == entry.claim.trials == len(set(found["trials"]))
    assert found["quick"] is True
    assert json.loads((tmp_path / f"{entry.stem}-quick" / "result.json").read_text()) == json.loads(json.dumps(found))


class Stopped(BaseException):
    """In the place of a kill."""


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = find("ece-full-vs-lora")
    whole = quick(entry, tmp_path / "whole", seeds=1)
    from metier.claims import lab

    original, ran = lab.run_trial, []

    def stopping(job: Any, base: Any, out: Path) -> Any:
        if len(ran) == 2:
            raise Stopped
        ran.append(job.method)
        return original(job, base, out)

    monkeypatch.setattr(lab, "run_trial", stopping)
    with pytest.raises(Stopped):
        quick(entry, tmp_path / "stopped", seeds=1)
    place = tmp_path / "stopped" / f"{entry.stem}-quick"
    kept = {f: f.stat().st_mtime_ns for f in place.glob("*/trials/*/trial.json")}
    assert len(kept) == 2
    assert not (place / "result.json").exists()
    monkeypatch.undo()
    again = quick(entry, tmp_path / "stopped", seeds=1)
    assert {f: f.stat().st_mtime_ns for f in kept} == kept
    assert again["effects"] == whole["effects"]
    assert again["trials"] == whole["trials"]


def test_another_companion_is_another_run(tmp_path: Path) -> None:
    """Trials are not taken over when a base that a method loads beside the specialised one has changed."""
    bases = [tiny_causal(seed=i, hidden=16, max_length=512) for i in (0, 1, 2)]
    assert len({running._of((bases[0], b)) for b in bases}) == 3
    assert running._of(bases[:2]) == running._of(bases[:2])


def test_only_a_whole_run_can_be_stored(tmp_path: Path) -> None:
    entry = find("lofit")
    for options in ({"quick": True}, {"bases": ["minilm"]}, {"seeds": 1}):
        with pytest.raises(UserError, match="only a whole run counts"):
            running.run(entry, tmp_path / "out", store=True, **options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="needs 2 bases"):
        running.run(find("143"), tmp_path / "out", bases=["minilm"])
    assert not (tmp_path / "out").exists()


def test_a_failed_trial_stops_the_claim(tmp_path: Path) -> None:
    """A base that cannot do the claim's tasks is an error that says so, not a verdict."""
    with pytest.raises(UserError, match=r"few-shot on reviews .* prompt of \d+ tokens|zero-shot on reviews .* prompt of \d+ tokens"):
        running.run(find("171"), tmp_path, quick=True, bases=[tiny_causal(max_length=16).path], seeds=1, quiet=True)


# --- the command line -----------------------------------------------------------------------------------------------------
def metier(*words: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "metier.cli.main", *words], capture_output=True, text=True, timeout=240, check=False, env=env
    )


@pytest.mark.slow
def test_the_list_and_the_table_name_every_claim(tmp_path: Path) -> None:
    seen, listed, marked = metier("claims"), metier("claims", "list"), metier("claims", "table", "--markdown")
    assert seen.returncode == listed.returncode == marked.returncode == 0, seen.stderr
    assert seen.stdout == listed.stdout
    rows = json.loads(metier("claims", "table", "--json").stdout)
    assert [r["name"] for r in rows] == list(catalogue())
    assert all(r["verdict"] in (result.HOLDS, result.FAILS, result.OPEN, result.NOT_RUN, result.STALE) for r in rows)
    assert marked.stdout == table.markdown(table.rows())
    assert len(marked.stdout.splitlines()) == 2 + len(rows)
    assert all(line.count(" | ") == 4 for line in marked.stdout.splitlines()[2:])
    shown = json.loads(metier("claims", "show", "151", "--json", "--figure", str(tmp_path / "a.svg")).stdout)
    assert shown["name"] == "lofit"
    assert (tmp_path / "a.svg").read_text(encoding="utf-8") == svg(shown)


@pytest.mark.slow
def test_a_table_shows_what_a_run_wrote(tmp_path: Path) -> None:
    entry = find("ece-full-vs-lora")
    found = running.run(entry, tmp_path, quick=True, bases=names(entry), seeds=1, quiet=True)
    (tmp_path / f"{entry.stem}-quick").rename(tmp_path / entry.stem)
    row = next(r for r in table.rows(tmp_path) if r["name"] == entry.name)
    assert (row["verdict"], row["effect"]) == (found["verdict"], found["effect"])
    others = [r for r in table.rows(tmp_path) if r["name"] != entry.name]
    assert all(r["verdict"] == result.NOT_RUN and r["effect"] is None for r in others)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("claims", "run", "lofti"), "Did you mean 'lofit'"),
        pytest.param(("claims", "run", "lofit", "--quick", "--store"), "only a whole run counts", marks=pytest.mark.slow),
        (("claims", "table", "-o", "/nowhere/at/all"), "no folder /nowhere/at/all"),
        (("claims", "rum"), "No such command"),
    ],
)
def test_misuse_is_told_in_a_sentence(words: tuple[str, ...], message: str) -> None:
    seen = metier(*words)
    assert seen.returncode == 2
    assert message in seen.stderr
    assert "Traceback" not in seen.stderr
