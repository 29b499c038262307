"""What holds for every world: bytes from seeds, disjoint splits, sizes, no test item in the corpus, names found by scanning."""

import hashlib
import itertools
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.errors import UserError
from metier.worlds import WORLDS, world

DIGEST = """
import hashlib, itertools, sys
from metier.worlds import world
made = world(sys.argv[1], seed=3, size=0.1)
h = hashlib.sha256()
for text in itertools.islice(made.corpus(), 300):
    h.update(text.encode())
for name, task in sorted(made.tasks().items()):
    h.update(f"{name} {task.digest()}".encode())
h.update(repr(made.truth()).encode())
print(h.hexdigest())
"""


@pytest.mark.parametrize("name", WORLDS)
def test_bytes_are_the_same_under_every_hash_seed(name):
    seen = set()
    for hash_seed in ("0", "1", "77"):
        env = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        seen.add(subprocess.run([sys.executable, "-c", DIGEST, name], env=env, capture_output=True, text=True, check=True).stdout)
    assert len(seen) == 1


@pytest.mark.parametrize("name", WORLDS)
def test_default_sizes(name):
    task = world(name).tasks()[name]
    assert [len(task.split(s)) for s in ("train", "dev", "test", "ood")] == [600, 100, 200, 200]


@pytest.mark.parametrize("name", WORLDS)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**40), size=st.floats(0.01, 0.3))
def test_tasks_of_any_seed_and_size(name, seed, size):
    made, again = world(name, seed=seed, size=size), world(name, seed=seed, size=size)
    for key, task in made.tasks().items():
        assert task.digest() == again.tasks()[key].digest()
        rows = {split: task.split(split) for split in ("train", "dev", "test")}
        assert all(rows.values())
        prompts = {split: {task.prompt(row).text() for row in part} for split, part in rows.items()}
        for one, two in itertools.combinations(prompts, 2):
            assert not prompts[one] & prompts[two]
        every = [row for split in ("train", "dev", "test", "ood") for row in task.split(split)]
        assert len({row.id for row in every}) == len(every)
        for row in every:
            assert task.prompt(row).text() == task.prompt(row).text().rstrip()
            assert "\n" not in row.answer
            assert row.answer
            assert task.kind != "choose" or row.answer in task.choices_of(row)
    json.dumps(made.truth())


@pytest.mark.parametrize("name", WORLDS)
def test_seeds_differ(name):
    one, two = (world(name, seed=s, size=0.1) for s in (0, 1))
    assert one.tasks()[name].digest() != two.tasks()[name].digest()
    assert list(itertools.islice(one.corpus(), 20)) != list(itertools.islice(two.corpus(), 20))


@pytest.mark.parametrize("name", WORLDS)
def test_no_test_item_in_the_corpus(name):
    made = world(name)
    text = "\n".join(itertools.islice(made.corpus(), 20000))
    task = made.tasks()[name]
    held = [task.prompt(row).text() for row in (*task.test, *task.dev, *task.ood)]
    assert [p for p in held if p in text] == []


@pytest.mark.parametrize("name", WORLDS)
def test_the_corpus_streams_documents(name):
    texts = list(itertools.islice(world(name).corpus(), 500))
    assert all(text and text == text.strip() for text in texts)
    assert len({hashlib.sha256(t.encode()).digest() for t in texts}) > 450


@pytest.mark.parametrize("name", WORLDS)
def test_docs_and_guarantees_are_said(name):
    cls = type(world(name, size=0.01))
    assert cls.docs
    assert "Guarantees:" in cls.__doc__


def test_unknown_world_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'facts'"):
        world("fact")


@pytest.mark.parametrize(("seed", "size", "rule"), [(-1, 1.0, "seed"), (0, 0.0, "size"), (0, float("nan"), "size"), (True, 1.0, "seed")])
def test_bad_seed_or_size(seed, size, rule):
    with pytest.raises(UserError, match=rule):
        world("facts", seed=seed, size=size)


def test_worlds_do_not_import_torch():
    code = "import sys, metier.worlds; assert 'torch' not in sys.modules; metier.worlds.world('facts').tasks(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, check=True)


def test_worlds_are_found_by_scanning():
    assert {"facts", "skill", "reviews"} <= set(WORLDS)
    assert all(":" in target for target in WORLDS.values())
