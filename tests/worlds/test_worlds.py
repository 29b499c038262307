"""The common ground of all worlds: names found by scanning, seeds and sizes, examples drawn from sheets."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.errors import UserError
from metier.worlds import WORLDS, world

QUICK = ("arithmetic", "instructions")


def test_worlds_are_found_by_scanning():
    assert {"facts", "instructions", "arithmetic"} <= set(WORLDS)
    assert all(":" in target for target in WORLDS.values())


@pytest.mark.parametrize(
    ("seed", "size", "rule"), [(-1, 1.0, "seed"), (0, 0.0, "size"), (0, float("nan"), "size"), (0, 2e6, "size"), (True, 1.0, "seed")]
)
def test_bad_seed_or_size(seed, size, rule):
    with pytest.raises(UserError, match=rule):
        world("instructions", seed=seed, size=size)


def test_unknown_task_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'cipher'"):
        world("instructions").task("ciphers")


@pytest.mark.parametrize("name", QUICK)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**40), size=st.floats(0.005, 0.03))
def test_any_seed_and_size(name, seed, size):
    made = world(name, seed=seed, size=size)
    for key, task in made.tasks().items():
        assert task.digest() == world(name, seed=seed, size=size).task(key).digest()
        prompts = {split: {task.prompt(row).text() for row in task.split(split)} for split in ("train", "dev", "test")}
        assert all(prompts.values())
        assert not any(prompts[one] & prompts[two] for one, two in itertools.combinations(prompts, 2))
        assert not any(stop in row.answer for row in task.train for stop in task.stop)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_small_world_has_the_first_examples_of_a_large_one(name):
    small, large = world(name, size=0.05), world(name, size=0.2)
    for key, task in small.tasks().items():
        for split in ("train", "dev", "test", "ood"):
            assert task.split(split) == large.task(key).split(split)[: len(task.split(split))]


@pytest.mark.parametrize("name", QUICK)
def test_rows_are_drawn_as_they_are_asked_for(name):
    endless = world(name, size=1e6)
    for sheet in endless.sheets().values():
        assert len(list(itertools.islice(endless.rows(sheet, "train"), 3))) == 3
        if "ood" not in sheet.sizes:
            assert list(endless.rows(sheet, "ood")) == []
    with pytest.raises(UserError, match="split"):
        endless.rows(sheet, "validation")


@pytest.mark.parametrize("name", QUICK)
def test_later_text_is_other_text(name):
    made = world(name)
    assert list(itertools.islice(made.corpus(0), 20)) != list(itertools.islice(made.corpus(1), 20))
