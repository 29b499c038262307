"""The skill world keeps its guarantees."""

import itertools
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from metier.worlds import world
from metier.worlds.skill import LETTERS


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_replies_follow_the_table_and_the_tag(seed):
    made = world("skill", seed=seed, size=0.05)
    table = made.truth()["table"]
    assert sorted(table) == sorted(table.values()) == sorted(LETTERS)
    task = made.tasks()["skill"]
    for row in (*task.train, *task.test, *task.ood):
        letters = row.fields["signal"].split()
        *coded, tag = row.target.split()
        assert coded == [table[letter] for letter in letters]
        assert tag == ("over" if letters[0] < letters[-1] else "out")


def test_lengths():
    task = world("skill").tasks()["skill"]
    lengths = {s: {len(r.fields["signal"].split()) for r in task.split(s)} for s in ("train", "dev", "test", "ood")}
    assert lengths == {"train": {4}, "dev": {4}, "test": {4}, "ood": {3, 5}}


def test_every_letter_is_seen_in_training_many_times():
    text = " ".join(r.fields["signal"] for r in world("skill").tasks()["skill"].train)
    assert min(text.count(letter) for letter in LETTERS) >= 60


def test_the_corpus_translates_no_string_of_letters():
    for text in itertools.islice(world("skill").corpus(), 5000):
        for asked, answer in re.findall(r": ((?:[a-t] )+[a-t])\n\w+: (.*)", text):
            assert answer == asked
    assert "over" not in " ".join(itertools.islice(world("skill").corpus(), 2000)).split()
