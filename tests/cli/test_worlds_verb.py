"""`metier worlds` as a person would type it."""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Run

from metier import load_task, worlds
from metier.worlds import WORLDS, world


def test_the_list_names_every_world_with_its_tasks(run: Run) -> None:
    seen = run("worlds")
    assert seen.code == 0 and seen.err == ""
    assert all(f"{name}: " in seen.out for name in WORLDS)
    assert "image-match              choose    600 train, 100 dev, 200 test, 200 ood" in seen.out


def test_the_list_as_json(run: Run) -> None:
    told = json.loads(run("worlds", "--json", "--size", 0.5).out)
    assert [row["name"] for row in told] == list(WORLDS)
    signals = next(row for row in told if row["name"] == "signals")
    box = next(task for task in signals["tasks"] if task["name"] == "image-box")
    assert box == {
        "name": "image-box", "kind": "generate", "metric": "exact", "documents": 0,
        "sizes": {"train": 300, "dev": 50, "test": 100, "ood": 100},
    }  # fmt: skip


def test_a_broken_world_is_named_after_the_others(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "WORLDS", {"bad": "metier.worlds.nowhere:Bad", "signals": WORLDS["signals"]})
    seen = run("worlds")
    assert seen.code == 1 and "signals: " in seen.out
    assert "worlds: cannot be made: bad (ModuleNotFoundError: No module named 'metier.worlds.nowhere')" in seen.err


def test_worlds_are_found_without_importing_them(tmp_path: Path) -> None:
    (tmp_path / "half.py").write_text("class Half(World):\n    def")
    (tmp_path / "no.py").write_text("class No(Plain):\n    pass\n")
    (tmp_path / "_private.py").write_text("class Hidden(World):\n    pass\n")
    assert worlds._scan(tmp_path) == {"half": "metier.worlds.half:Half"}


def test_show_prints_guarantees_and_samples(run: Run) -> None:
    seen = run("worlds", "show", "signals")
    assert seen.code == 0 and seen.err == ""
    for text in ("Guarantees: ", "--- image-count: generate, scored by number; 600 train", "(image: uint8 24 x 24 x 3)",
                 "(sound: float32 1700)", "(one of: yes | no)", "--- corpus"):  # fmt: skip
        assert text in seen.out, text


def test_show_one_task_with_another_seed(run: Run) -> None:
    one, two = (run("worlds", "show", "signals", "--task", "image-box", "--seed", seed).out for seed in (0, 1))
    assert one != two and one.count("\n--- ") == 1 and "--- corpus" not in one


def test_show_as_json(run: Run) -> None:
    told = json.loads(run("worlds", "show", "signals", "--json").out)
    assert told["doc"].count("Guarantees:") == 1 and len(told["corpus"]) == 3
    assert told["tasks"][0]["samples"][0]["fields"]["image"] == "uint8 24 x 24 x 3"


def test_make_writes_tasks_truth_and_corpus(run: Run) -> None:
    seen = run("worlds", "make", "signals", "-o", "made", "--size", 0.02, "--seed", 3, "--corpus", 7)
    assert seen.code == 0 and seen.out == "wrote made\n", seen.err
    assert len(Path("made/corpus.jsonl").read_text().splitlines()) == 7
    assert len(Path("made/image-box/train.jsonl").read_text().splitlines()) == 12
    again = run("worlds", "make", "signals", "-o", "made")
    assert (
        again.code == 2 and "made: holds something already and is not replaced. Choose another folder with -o, or remove it." in again.err
    )


def test_one_task_and_later_text(run: Run) -> None:
    for era in (0, 1):
        assert run("worlds", "make", "facts", "-o", f"era{era}", "--task", "facts", "--corpus", 20, "--era", era, "--size", 0.02).code == 0
        lines = Path(f"era{era}/corpus.jsonl").read_text().splitlines()
        assert [json.loads(line)["text"] for line in lines] == list(itertools.islice(world("facts").corpus(era), 20))
        assert sorted(p.name for p in Path(f"era{era}").iterdir() if p.is_dir()) == ["facts"]
    told = json.loads(run("worlds", "show", "facts", "--era", 1, "--json").out)
    assert told["corpus"] == list(itertools.islice(world("facts").corpus(1), 3)) != list(itertools.islice(world("facts").corpus(), 3))


def test_small_tasks_have_names_that_no_listing_shows(run: Run) -> None:
    made = world("classification", size=0.1)
    shown = json.loads(run("worlds", "show", "classification", "--task", "small-040", "--json").out)["tasks"]
    assert [t["name"] for t in shown] == ["small-040"] and shown[0]["sizes"]["train"] == 200
    assert run("worlds", "make", "classification", "-o", "small", "--task", "small-040", "--size", 0.1).code == 0
    written = [json.loads(line)["text"] for line in Path("small/small-040/train.jsonl").read_text().splitlines()]
    assert written == [row.fields["text"] for row in made.small_task(40).train]
    assert load_task("world:classification/small-040").name == "small-040" not in made.sheets()


def test_make_says_how_far_it_is_when_it_takes_long(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metier.cli.worlds.PATIENCE", 0.0)
    assert "writing made 100 %" in run("worlds", "make", "signals", "-o", "made", "--size", 0.02).err
    monkeypatch.setattr("metier.cli.worlds.PATIENCE", float("inf"))  # however slow the machine
    assert run("worlds", "make", "signals", "-o", "again", "--size", 0.02).err == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "signal"), "unknown value 'signal'. Did you mean 'signals'?"),
        (("make", "signal"), "Did you mean 'signals'?"),
        (("show", "signals", "--task", "image-bocks"), "world signals: no task 'image-bocks'. Did you mean 'image-box'?"),
        (("make", "signals", "--task", "image-bocks"), "world signals: no task 'image-bocks'. Did you mean 'image-box'?"),
        (("show", "classification", "--task", "small-400"), "no task 'small-400'. Small tasks are called small-000 to small-399."),
        (("show", "classification", "--task", "small-4"), "no task 'small-4'. Small tasks are called small-000 to small-399."),
        (("make", "facts", "--era", "-1"), "Invalid value for '--era'"),
        (("show",), "write `metier worlds`"),
        (("paint", "signals"), "write `metier worlds`"),
        (("make", "signals", "--size", "0"), "size must be above 0"),
        (("make", "signals", "--size", "nan"), "size must be a finite number"),
        (("make", "signals", "--size", "big"), "Invalid value for '--size'"),
        (("make", "signals", "--seed", "-1"), "seed must be at least 0"),
        (("make", "signals", "--corpus", "-1"), "Invalid value for '--corpus'"),
        (("make", "signals", "-o", "tickets.csv"), "tickets.csv: holds something already"),
        (("--seed", "-1"), "seed must be at least 0"),
    ],
)
def test_slips_are_answered(run: Run, words: tuple[str, ...], message: str) -> None:
    seen = run("worlds", *words)
    assert seen.code == 2 and message in " ".join(seen.err.split()) and "Traceback" not in seen.err and seen.out == ""
    assert sorted(p.name for p in Path().iterdir()) == ["tickets.csv"], "something was written"


def test_the_list_takes_little_work() -> None:
    """About 0.4 s of one core, start of Python included; a busy machine makes the wall clock useless here."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-m", "metier.cli.main", "worlds"], env=env, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 1.5
