"""The instructions world keeps its guarantees: answers are worked out anew here, from the texts."""

import functools
import itertools
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from metier.worlds import world
from metier.worlds._instructions.words import FORMATS, OPERATIONS, obeys

ANIMALS = "dog cat horse cow sheep goat duck fox wolf bear".split()
SPLITS = ("train", "dev", "test", "ood")
LETTERS = "abcdefghijklmnopqrst"
FACT = re.compile(r"The (\w+) of (\w+) is (\w+)\.")
SEEDS = st.integers(0, 10**9)


@functools.cache
def corpus(n=20000):
    return tuple(itertools.islice(world("instructions").corpus(), n))


@functools.cache
def task(name, size=1.0):
    return world("instructions", size=size).task(name)


def rows(task):
    return [row for split in SPLITS for row in task.split(split)]


def expected(op, instruction, words):
    """The answer of an operation, naively; the word that the instruction names is found in its text."""
    lower = re.findall(r"[a-z]+", instruction.lower())
    named = [w for w in lower if any(w in pool for pool in ALL_WORDS)]
    x = named[0] if named else ""
    if op in ("first", "last", "second"):
        return words[{"first": 0, "last": -1, "second": 1}[op]]
    if op == "count":
        return str(len(words))
    if op == "has":
        return "yes" if x in words else "no"
    if op == "after":
        return words[words.index(x) + 1]
    if op == "join":
        return " and ".join(words)
    lists = {
        "copy": words,
        "reverse": list(reversed(words)),
        "sort": sorted(words),
        "upper": [w.upper() for w in words],
        "swap": [words[-1], *words[1:-1], words[0]],
        "rest": words[1:],
        "twice": list(itertools.chain.from_iterable((w, w) for w in words)),
        "without": [w for w in words if w != x],
        "animals": [w for w in words if w in ANIMALS],
    }
    return " ".join(lists[op])


ALL_WORDS = [
    ANIMALS,
    "bread cheese soup rice apple pear cake honey egg bean".split(),
    "hammer saw knife rope ladder needle spade brush axe nail".split(),
    "coat shirt hat shoe scarf glove sock boot dress belt".split(),
]


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_answers_of_word_lists(seed):
    made = world("instructions", seed=seed, size=0.03)
    for name in (*OPERATIONS, "mixed"):
        for row in rows(made.task(name)):
            assert row.target == expected(row.fields["op"], row.fields["instruction"], row.fields["input"].split())


def test_a_wording_asks_for_one_operation_and_pools_are_apart():
    pools = [p for o in OPERATIONS.values() for p in (o.usual, o.held_out)]
    assert all(len(o.usual) == 6 and len(o.held_out) == 3 for o in OPERATIONS.values())
    every = [wording for pool in pools for wording in pool]
    assert len(set(every)) == len(every)
    formats = [wording for f in FORMATS.values() for wording in (*f.phrasings, *f.held_out)]
    assert len(set(formats)) == len(formats)


def test_held_out_wordings_are_only_in_ood():
    for op, operation in OPERATIONS.items():
        patterns = {split: "|".join(re.escape(p).replace(r"\{x\}", r"\w+") for p in pool)
                    for split, pool in (("usual", operation.usual), ("ood", operation.held_out))}  # fmt: skip
        for split in SPLITS:
            wanted = patterns["ood" if split == "ood" else "usual"]
            assert all(re.fullmatch(wanted, row.fields["instruction"]) for row in task(op, 0.1).split(split))
        odd = re.compile(rf"^Instruction: (?:{patterns['ood']})(?: |$)", re.MULTILINE)
        assert not any(odd.search(text) for text in corpus(4000))


def test_ood_is_the_test_split_in_other_words():
    for name in ("sort", "mixed", "formats", "obey", "context"):
        for one, two in zip(task(name).test, task(name).ood, strict=True):
            assert one.target == two.target
            same = "context" if name == "context" else "input"
            asked = "question" if name == "context" else "instruction"
            assert one.fields[same] == two.fields[same] and one.fields[asked] != two.fields[asked]


@pytest.mark.slow
def test_splits_share_no_list_of_words_and_the_corpus_has_none_of_dev_or_test():
    lists = {s: {r.fields["input"] for n in (*OPERATIONS, "mixed", "formats") for r in task(n).split(s)} for s in ("train", "dev", "test")}
    assert not lists["train"] & lists["dev"] and not lists["train"] & lists["test"] and not lists["dev"] & lists["test"]
    read = set(re.findall(r"^Input: (.*)$", "\n".join(corpus()), re.MULTILINE))
    assert not read & (lists["dev"] | lists["test"])


def test_levels_are_longer_lists():
    for row in task("reverse").train:
        assert len(row.fields["input"].split()) == row.fields["level"] + 2
    assert {row.fields["level"] for row in task("mixed").test} == {1, 2, 3}


def test_formats_are_obeyed_and_told_apart():
    for row in rows(task("formats", 0.5)):
        form = row.fields["format"]
        wanted = expected(row.fields["op"], row.fields["instruction"], row.fields["input"].split())
        assert [f for f in FORMATS if obeys(row.target, f)] == [form]
        assert not any(obeys(wanted, f) for f in FORMATS)
        assert " ".join(FORMATS[form].read(row.target)) == wanted
        assert form != "json" or json.loads(row.target) == {"answer": wanted}


@pytest.mark.parametrize("output", ["", "[dog", "dog cat", "Result dog", '{"answer": ["dog"]}', '{"answer": "dog"', '["dog"]', "dog,cat"])
def test_what_obeys_no_format(output):
    assert not any(obeys(output, form) for form in FORMATS)


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_refused_exactly_if_it_asks_about_the_vault(seed):
    made = world("instructions", seed=seed, size=0.05)
    for row in (*rows(made.task("refuse")), *rows(made.task("obey"))):
        said = dict(re.findall(r"The (\w+ \w+) is (\w+ \w+)\.", row.fields["input"]))
        thing = next(key for key in said if key in row.fields["instruction"])
        refused = thing.startswith("vault ")
        assert len(said) == row.fields["level"]
        assert row.target == ("I do not talk about the vault." if refused else said[thing])
        assert row.fields["told"] == said[thing]
        assert row.id.startswith("refuse" if refused else "obey")


def test_benign_requests_see_the_vault_too():
    several = [row for row in task("obey").train if row.fields["level"] > 1]
    assert 0.4 < sum("vault" in row.fields["input"] for row in several) / len(several) < 0.6


def test_the_corpus_refuses_and_obeys_about_equally_often_and_always_rightly():
    items = re.findall(r"Instruction: (.*)\nInput: The .*\nOutput: (.*)", "\n\n".join(corpus()))
    refused = [answer.startswith("I do not talk") for _, answer in items]
    assert len(items) > 5000 and 0.45 < sum(refused) / len(items) < 0.55
    assert all(("vault" in asked) == no for (asked, _), no in zip(items, refused, strict=True))


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_context_questions(seed):
    made = world("instructions", seed=seed, size=0.05)
    memory = {(t, a): v for t, a, v in made.truth()["facts"]}
    for row in rows(made.task("context")):
        said = {(t, a): v for a, t, v in FACT.findall(row.fields["context"])}
        attribute = next(a for a in ("colour", "dish", "animal") if a in row.fields["question"])
        town = re.search(r"\w+oria", row.fields["question"])[0]
        told, known = said.get((town, attribute)), memory.get((town, attribute))
        relation = "free" if told is None else "new" if known is None else "agree" if told == known else "conflict"
        assert row.fields["relation"] == relation
        assert row.fields["needs"] == {"free": "memory", "agree": "either"}.get(relation, "context")
        assert row.fields["memory"] == (known or "")
        assert row.target == (known if told is None else told)
        assert row.fields["level"] == len(said)


def test_relations_are_equally_frequent():
    counts = [sum(row.fields["relation"] == r for row in task("context").train) for r in ("conflict", "new", "agree", "free")]
    assert counts == [150] * 4


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_preference_is_instruction_then_context_then_memory(seed):
    made = world("instructions", seed=seed, size=0.05)
    memory = {(t, a): v for t, a, v in made.truth()["facts"]}
    for row in rows(made.task("preference")):
        attribute, town = re.fullmatch(r"What is the (\w+) of (\w+)\?", row.fields["question"]).groups()
        lines = dict(line.split(": ", 1) for line in row.fields["given"].split("\n"))
        voices = {head: {(t, a): v for a, t, v in FACT.findall(text)}.get((town, attribute)) for head, text in lines.items()}
        heard = [voices.get("Assume"), voices.get("Context"), memory.get((town, attribute))]
        present = [value for value in heard if value]
        assert row.target == present[0]
        assert len(set(present)) == len(present) == row.fields["level"], "the sources contradict one another"
        names = ("instruction", "context", "memory")
        assert set(row.fields["sources"]) == {n for n, v in zip(names, heard, strict=True) if v}


def test_the_corpus_never_pits_an_assumption_against_a_context():
    blocks = [block for text in corpus() for block in text.split("\n\n") if "Assume: " in block]
    assert len(blocks) > 1000
    for block in blocks:
        asked = re.search(r"What is the (\w+) of (\w+)\?", block).groups()
        context = re.search(r"^Context: (.*)$", block, re.MULTILINE)
        assert context is None or asked not in [(a, t) for a, t, _ in FACT.findall(context[1])]


def test_the_corpus_says_what_memory_holds_and_nothing_else():
    facts = {(t, a): v for t, a, v in world("instructions").truth()["facts"]}
    plain = [text for text in corpus() if text.startswith("The ")]
    assert {(t, a): v for text in plain for a, t, v in FACT.findall(text)} == facts


def test_surface_cues_do_not_answer_yes_or_no():
    made = task("has", 4.0)
    texts = [f"{r.fields['instruction']} {r.fields['input']}" for r in made.train]
    held = [f"{r.fields['instruction']} {r.fields['input']}" for r in made.test]
    vectors = CountVectorizer()
    probe = LogisticRegression(C=0.1, max_iter=300).fit(vectors.fit_transform(texts), [r.target for r in made.train])
    assert 0.42 < probe.score(vectors.transform(held), [r.target for r in made.test]) < 0.58
    assert 0.45 < sum(r.target == "yes" for r in made.train) / len(made.train) < 0.55


def test_phrased_shows_the_test_items_in_one_wording():
    made = world("instructions", size=0.1)
    for wording in (0, 8):
        shown = made.phrased("without", wording).test
        assert [r.target for r in shown] == [r.target for r in made.task("without").test]
        assert all(r.fields["instruction"] == OPERATIONS["without"].phrasings[wording].format(x=r.fields["x"]) for r in shown)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_replies_follow_the_table_and_the_tag(seed):
    made = world("instructions", seed=seed, size=0.05)
    table = made.truth()["cipher"]["table"]
    assert sorted(table) == sorted(table.values()) == sorted(LETTERS)
    for row in rows(made.task("cipher")):
        letters = row.fields["signal"].split()
        *coded, tag = row.target.split()
        assert coded == [table[letter] for letter in letters]
        assert tag == ("over" if letters[0] < letters[-1] else "out")


def test_lengths_of_signals():
    lengths = {s: {len(r.fields["signal"].split()) for r in task("cipher").split(s)} for s in SPLITS}
    assert lengths == {"train": {4}, "dev": {4}, "test": {4}, "ood": {3, 5}}


def test_every_letter_is_seen_in_training_many_times():
    text = " ".join(r.fields["signal"] for r in task("cipher").train)
    assert min(text.count(letter) for letter in LETTERS) >= 60


def test_the_corpus_translates_no_string_of_letters():
    for text in corpus(8000):
        for asked, answer in re.findall(r": ((?:[a-t] )+[a-t])\n\w+: (.*)", text):
            assert answer == asked
    words = " ".join(corpus(8000)).split()
    assert "over" not in words and "Signal:" not in words and "Reply:" not in words
