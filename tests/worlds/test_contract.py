"""What holds for every world: bytes from seeds, disjoint splits, short prompts, no test item in the corpus, unique names."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from metier.errors import UserError
from metier.task.score import SCORERS
from metier.worlds import WORLDS, outline, world

EVERY = pytest.mark.parametrize("name", WORLDS)
ROOT = Path(__file__).parents[2]
TAUGHT = ("facts-known",)  # asks closed-book for what the corpus teaches, in the very words
LONGEST = 1400  # characters of prompt and answer: the embedded base reads 512 tokens
SPLITS = ("train", "dev", "test", "ood")


def digest(name, seed=3):
    """Documents, first rows and truth of a small world as 64 hex digits; what goes wrong as a text."""
    try:
        made = world(name, seed=seed, size=0.05)
        said = hashlib.sha256("\0".join(itertools.islice(made.corpus(), 30)).encode())
        said.update("\0".join(itertools.islice(made.corpus(era=1), 30)).encode())
        for key, sheet in made.sheets().items():
            for split in sheet.sizes:
                for row in itertools.islice(made.rows(sheet, split), 5):
                    said.update(f"{key} {split} {row.id} {row.digest()} ".encode())
            for document in sheet.task.documents:
                said.update(f"{document.id} {document.title} {document.text}".encode())
        said.update(json.dumps([made.truth(), list(made.tools())]).encode())
        return said.hexdigest()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def digests():
    return {name: digest(name) for name in WORLDS}


@pytest.fixture(scope="module")
def elsewhere():
    """The digests as another process with another hash seed computes them."""
    env = os.environ | {"PYTHONHASHSEED": "4242", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    code = "import json; from tests.worlds.test_contract import digests; print(json.dumps(digests()))"
    return json.loads(
        subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120).stdout
    )


@functools.cache
def tasks(name):
    return world(name, size=0.2).tasks()


def rows(task, *splits):
    return [row for split in splits or SPLITS for row in task.split(split)]


def told(task, row):
    return f"{task.prompt(row).text()}{task.separator}{row.answer}"


@pytest.mark.slow
@EVERY
def test_same_seed_same_bytes_under_another_hash_seed(name, elsewhere):
    assert elsewhere[name] == digest(name)
    assert len(elsewhere[name]) == 64, elsewhere[name]


@pytest.mark.slow
@EVERY
def test_different_seeds_differ(name):
    one, two = (world(name, seed=seed, size=0.05) for seed in (0, 1))
    assert list(itertools.islice(one.corpus(), 20)) != list(itertools.islice(two.corpus(), 20))
    for key, task in one.tasks().items():
        assert task.digest() != two.task(key).digest(), key


@EVERY
def test_sizes_are_as_announced(name):
    made = world(name, size=0.2)
    for said in outline(made)["tasks"]:
        task = tasks(name)[said["name"]]
        assert said["name"] == task.name
        assert said["sizes"].keys() <= set(SPLITS) and "test" in said["sizes"]
        for split, n in said["sizes"].items():
            assert 0 < len(task.split(split)) <= n, (task.name, split)


@EVERY
def test_answers_can_be_chosen_and_scored(name):
    for task in tasks(name).values():
        assert task.kind in SCORERS[task.metric].kinds, task.name
        for row in rows(task):
            assert "\0" not in row.answer and row.answer == row.answer.strip()
            if task.kind == "choose":
                choices = task.choices_of(row)
                assert row.target in choices and len(set(choices)) == len(choices) >= 2, row.id
            elif task.kind == "rank":
                assert row.target and set(row.target) <= {d.id for d in task.documents}, row.id
            else:
                assert row.answer, row.id


@EVERY
def test_prompts_are_short_and_end_where_the_answer_begins(name):
    for task in tasks(name).values():
        for row in rows(task):
            text = told(task, row)
            assert len(text) <= LONGEST, f"{row.id}: {len(text)} characters"
            prompt = task.prompt(row).text()
            assert prompt.strip() and prompt == prompt.rstrip(" "), row.id


@EVERY
def test_ids_are_unique(name):
    for task in tasks(name).values():
        counts = Counter(row.id for row in rows(task))
        assert [i for i, n in counts.items() if n > 1] == []


@EVERY
def test_splits_share_no_prompt(name):
    for task in tasks(name).values():
        # where choices differ from row to row, they are part of what is asked
        shown = {split: {(task.prompt(row).text(), row.choices) for row in task.split(split)} for split in ("train", "dev", "test")}
        for one, two in itertools.combinations(shown, 2):
            assert not shown[one] & shown[two], (task.name, one, two)


@pytest.mark.slow
@EVERY
def test_no_test_item_with_its_answer_in_the_corpus(name):
    made = world(name, size=0.2)
    text = "\0".join(itertools.islice(made.corpus(), 3000))
    later = "\0".join(itertools.islice(made.corpus(era=1), 1000))
    for task in tasks(name).values():
        if task.name in TAUGHT:
            continue
        found = [row.id for row in rows(task, "test", "ood") if told(task, row) in text or told(task, row) in later]
        assert found == [], task.name


@EVERY
def test_documents_of_the_corpus_are_clean(name):
    texts = list(itertools.islice(world(name).corpus(), 300))
    assert all(text and text == text.strip() for text in texts)
    assert len(set(texts)) > 200


@EVERY
def test_truth_and_tools_are_json(name):
    made = world(name, size=0.05)
    assert made.truth()
    json.dumps([made.truth(), list(made.tools())], allow_nan=False, sort_keys=True)


@EVERY
def test_what_is_said_of_it(name):
    made = world(name, size=0.05)
    assert made.docs and "\n" not in made.docs
    assert "Guarantees:" in type(made).__doc__


def test_task_names_are_unique_over_all_worlds():
    owners = {}
    for name in WORLDS:
        for task in world(name, size=0.05).sheets():
            owners.setdefault(task, []).append(name)
            assert task == name or task not in WORLDS, f"{name} has a task with another world's name: {task}"
    assert {task: names for task, names in owners.items() if len(names) > 1} == {}


def test_unknown_world_and_task_name_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'signals'"):
        world("signal")
    with pytest.raises(UserError, match="Did you mean 'image-box'"):
        world("signals").task("image-bocks")


def test_listing_worlds_imports_no_numerical_library():
    heavy = "{'torch', 'sklearn', 'scipy', 'numpy'}"
    code = f"import sys, metier.worlds as w; [w.outline(w.world(n)) for n in w.WORLDS]; print(sorted({heavy} & set(sys.modules)))"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_examples_of_the_docs_run():
    """docs/worlds.md: how a world is used, and a world of one's own, which keeps what it promises."""
    page = (ROOT / "docs" / "worlds.md").read_text(encoding="utf-8")
    here = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, here)
    assert here["example"].fields["image"].shape == (24, 24, 3) and len(here["texts"]) == 100
    task = here["doubles"]
    assert [len(task.split(split)) for split in SPLITS] == [60, 10, 20, 0]
    for split, ends in here["Doubles"].ends.items():
        assert {row.fields["number"] % 10 for row in task.split(split)} <= set(ends)
    assert all(int(row.answer) == 2 * row.fields["number"] for row in rows(task))
