"""The facts world keeps its guarantees."""

import itertools
import random
import re
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from metier.worlds import _names, world
from metier.worlds._relations import RELATIONS


def test_each_answer_stands_in_exactly_one_document_that_names_the_subject():
    task = world("facts").tasks()["facts"]
    texts = {d.id: d.text for d in task.documents}
    for row in (*task.train, *task.dev, *task.test, *task.ood):
        document = texts[row.fields["document"]]
        assert row.fields["subject"] in document
        assert row.target in document
        named = [i for i, text in texts.items() if re.search(rf"\b{re.escape(row.fields['subject'])}\b", text)]
        assert [i for i in named if re.search(rf"\b{re.escape(row.target)}\b", texts[i])] == [row.fields["document"]]


def test_splits_ask_about_different_documents_and_ood_about_the_test_documents():
    task = world("facts").tasks()["facts"]
    gold = {s: {row.fields["document"] for row in task.split(s)} for s in ("train", "dev", "test", "ood")}
    assert not gold["train"] & gold["test"]
    assert not gold["train"] & gold["dev"]
    assert not gold["dev"] & gold["test"]
    assert gold["ood"] == gold["test"]
    assert {(r.fields["subject"], r.fields["relation"], r.target) for r in task.ood} == {
        (r.fields["subject"], r.fields["relation"], r.target) for r in task.test
    }


def test_document_entities_never_occur_in_the_corpus():
    made = world("facts")
    subjects = {row.fields["subject"] for s in ("train", "dev", "test") for row in made.tasks()["facts"].split(s)}
    text = "\n".join(itertools.islice(made.corpus(), 20000)).replace("The ", "the ")
    assert not subjects & set(re.findall(r"[A-Z]\w+(?: [A-Z]\w+)?", text))


def test_odd_wordings_never_occur_in_the_corpus():
    text = "\n".join(itertools.islice(world("facts").corpus(), 5000))
    for relation in RELATIONS:
        pattern = re.escape(relation.odd).replace(r"\{s\}", r"[A-Z]\w+( [A-Z]\w+)?")
        assert not re.search(pattern, text), relation.name


def test_frequent_facts_recur_and_once_facts_are_stated_once():
    made = world("facts")
    texts = list(itertools.islice(made.corpus(), 40 * 500 + 100))
    counts = Counter()
    for fact in made.once():
        ways = {w.format(s=fact.subject, o=fact.value) for w in fact.relation.statements}
        counts[fact] = sum(text in ways for text in texts)
    assert set(counts.values()) == {1}
    said = Counter(re.findall(r"[A-Z]\w+(?: [A-Z]\w+)?", "\n".join(texts).replace("The ", "the ")))
    assert all(said[fact.subject] >= 20 for fact in made.frequent())
    assert all(said[fact.subject] <= 3 for fact in made.once())


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_one_value_per_subject_and_relation(seed):
    truth = world("facts", seed=seed, size=0.1).truth()
    every = [tuple(fact) for group in truth.values() for fact in group]
    assert len({(s, r) for s, r, _ in every}) == len(set(every))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(sorted(_names.SIDES)), st.sampled_from(sorted(_names.MAKERS)))
def test_names_fall_on_the_wanted_side(seed, side, kind):
    assert _names.side(_names.on_side(random.Random(seed), side, _names.MAKERS[kind])) == side


def test_known_task_asks_frequent_facts_each_in_one_split():
    made = world("facts")
    task = made.tasks()["facts-known"]
    frequent = {tuple(fact) for fact in made.truth()["frequent"]}
    asked = [(r.fields["subject"], r.fields["relation"], r.target) for s in ("train", "dev", "test") for r in task.split(s)]
    assert set(asked) <= frequent
    assert len(asked) == len(set(asked)) == 480
