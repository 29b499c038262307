"""The reviews world keeps its guarantees."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from metier.worlds import world
from metier.worlds.reviews import BAD, BAD_OOD, CUES, GOOD, GOOD_OOD, PARTS, PARTS_OOD, THINGS, THINGS_OOD

POLARITY = {w: True for w in GOOD + GOOD_OOD} | {w: False for w in BAD + BAD_OOD}


def verdict(text):
    """The label read off the text by rule: opinions of the thing itself, 'not' turning them."""
    text = re.sub(r"The \w+ of my brother was (not )?\w+\.", "", text)
    found = {POLARITY[w] != bool(n) for n, w in re.findall(r"(not )?\b(" + "|".join(POLARITY) + r")\b", text)}
    return "mixed" if len(found) == 2 else "good" if found == {True} else "bad"


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_labels_follow_from_the_texts(seed):
    task = world("reviews", seed=seed, size=0.1).tasks()["reviews"]
    for row in (*task.train, *task.dev, *task.test, *task.ood):
        assert verdict(row.fields["text"]) == row.target


def test_labels_and_forms_are_balanced():
    task = world("reviews").tasks()["reviews"]
    for split in ("train", "test", "ood"):
        counts = Counter((r.target, r.fields["form"]) for r in task.split(split))
        assert len(counts) == 12
        assert max(counts.values()) - min(counts.values()) <= 1


def cue_agreement(rows):
    pairs = [(CUES[0] in r.fields["text"], r.target) for r in rows if r.target != "mixed"]
    return sum(morning == (label == "good") for morning, label in pairs) / len(pairs)


def test_the_cue_holds_in_train_and_flips_in_ood():
    task = world("reviews", size=3).tasks()["reviews"]
    assert cue_agreement(task.train) == pytest.approx(0.9, abs=0.03)
    assert cue_agreement(task.test) == pytest.approx(0.9, abs=0.04)
    assert cue_agreement(task.ood) == pytest.approx(0.1, abs=0.04)


def test_ood_shares_no_opinion_word_thing_or_part():
    task = world("reviews").tasks()["reviews"]
    usual = set(re.findall(r"\w+", " ".join(r.fields["text"] for r in (*task.train, *task.dev, *task.test))))
    shifted = set(re.findall(r"\w+", " ".join(r.fields["text"] for r in task.ood)))
    assert not usual & {*GOOD_OOD, *BAD_OOD, *THINGS_OOD, *PARTS_OOD}
    assert not shifted & {*GOOD, *BAD, *THINGS, *PARTS}


def test_every_tangled_text_has_one_not():
    task = world("reviews").tasks()["reviews"]
    assert {r.fields["text"].split().count("not") for r in task.train if r.fields["form"] == "tangled"} == {1}


def bag_probe(train, test, drop_cue=True):
    def text(row):
        return re.sub("morning|evening", "", row.fields["text"]) if drop_cue else row.fields["text"]

    bag = CountVectorizer()
    probe = LogisticRegression(max_iter=500).fit(bag.fit_transform(map(text, train)), [r.target for r in train])
    return probe.score(bag.transform(map(text, test)), [r.target for r in test])


def test_bag_of_words_probe_is_at_chance_on_tangled_good_and_bad():
    task = world("reviews", size=5).tasks()["reviews"]
    train, test = ([r for r in rows if r.fields["form"] == "tangled" and r.target != "mixed"] for rows in (task.train, task.test))
    assert bag_probe(train, test) == pytest.approx(0.5, abs=0.12)


def test_bag_of_words_probe_is_far_from_perfect_overall_and_wrong_on_ood_with_the_cue():
    task = world("reviews").tasks()["reviews"]
    assert bag_probe(task.train, task.test) < 0.85
    both = [r for r in task.ood if r.target != "mixed"]
    assert bag_probe(task.train, both, drop_cue=False) < 0.4
