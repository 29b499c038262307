"""The preferences world keeps its guarantees."""

import itertools
import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from metier.errors import UserError
from metier.worlds import world
from metier.worlds._preferences.replies import OPPOSITES
from metier.worlds._shared.kinds import GROUPS

SPLITS = ("train", "dev", "test", "ood")
WEIGHTS = {"correct": 4, "format": 2, "polite": 1, "brief": 1}
POLITE, RUDE = ("With pleasure", "Gladly", "Thank you"), ("silly", "bother", "yourself")


def rows(task, *splits):
    return [row for split in splits or SPLITS for row in task.split(split)]


# --- an independent reader: what a request asks for, and what a reply is worth -------------------------------------------------
def right_answer(request):
    words = request.replace("?", " ?").replace(",", " ").replace(".", " . ").split()
    if request.startswith("What is the opposite"):
        return next(b if a == words[5] else a for a, b in OPPOSITES if words[5] in (a, b))
    if request.startswith("The"):
        colours = {words[1]: words[3], words[5]: words[7]}
        return colours[words[words.index("colour") + 3]]
    if request.startswith("Say"):
        return words[words.index(".") - 1]
    if request.startswith("Is"):
        return next(kind for kind, members in GROUPS.items() if words[1] in members)
    return max(words[3], words[5], key=int)


def worth(request, reply):
    right, tokens = right_answer(request), reply.split()
    shown = [t.strip("[]") for t in tokens]
    at = next((i for i, t in enumerate(shown) if t.lower() == right), None)
    answers = [t for t in tokens if (t.isupper() and len(t) > 1) or t.isdigit() or t.startswith("[")]
    good = {"correct": at is not None, "polite": reply.startswith(POLITE) and not any(r in reply for r in RUDE), "brief": len(tokens) <= 13}
    if "capitals" in request:
        good["format"] = any(t.isupper() and len(t) > 1 for t in answers)
    elif "[ ]" in request:
        good["format"] = any(t.startswith("[") and t.endswith("]") for t in answers)
    else:
        good["format"] = tokens[-1] == "done"
    return sum(w for name, w in WEIGHTS.items() if good[name]) / 8


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_the_better_reply_is_the_better_one(seed):
    made = world("preferences", seed=seed, size=0.1)
    for row in rows(made.task("preferences-judge")):
        a, b = (worth(row.fields["request"], row.fields[x]) for x in "ab")
        assert row.target == ("A" if a > b else "B")
        assert row.fields["quality"] == [a, b] and row.fields["margin"] == abs(a - b) > 0
    for row in rows(made.task("preferences-best")):
        qualities = [worth(row.fields["request"], row.fields[x]) for x in "abcd"]
        assert sorted(qualities)[-1] > sorted(qualities)[-2]
        assert row.target == "ABCD"[qualities.index(max(qualities))]


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_quality_reads_off_any_text_what_it_was_made_for(seed):
    made = world("preferences", seed=seed)
    for pair in made.pairs(60):
        for side in ("chosen", "rejected"):
            read = made.quality(pair["request"], pair[side].strip())
            assert read.pop("quality") == pair[f"quality_{side}"] == worth(pair["request"], pair[side].strip())
            assert read == pair[f"dimensions_{side}"]


def test_accepted_answers_are_all_without_fault():
    made = world("preferences", size=0.2)
    for row in rows(made.task("preferences-answer")):
        assert len(set(row.target)) == len(row.target) == 24
        assert {made.quality(row.fields["request"], answer)["quality"] for answer in row.target} == {1.0}


def test_quality_of_what_is_no_reply_is_low_and_of_what_is_no_request_an_error():
    made = world("preferences")
    request = made.task("preferences-answer").test[0].fields["request"]
    assert made.quality(request, "") == {"correct": 0.0, "format": 0.0, "polite": 0.0, "brief": 1.0, "quality": 0.125}
    with pytest.raises(UserError, match="only requests of this world"):
        made.quality("Who are you?", "I")


def test_labels_are_balanced():
    made = world("preferences")
    for name in ("preferences-judge", "preferences-best"):
        task = made.task(name)
        for split in SPLITS:
            counts = Counter(row.target for row in task.split(split))
            assert len(counts) == len(task.choices) and max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.slow
def test_no_request_is_in_two_splits_and_only_train_requests_in_the_corpus():
    made = world("preferences", size=1)
    asked = {split: {r.fields["request"] for task in made.tasks().values() for r in task.split(split)} for split in SPLITS}
    for one, two in itertools.combinations(SPLITS, 2):
        assert not asked[one] & asked[two]
    told = {line for text in itertools.islice(made.corpus(), 5000) for line in text.split("\n") if line.startswith("Request: ")}
    assert len(told) > 2000
    assert not told & {f"Request: {request}" for split in SPLITS[1:] for request in asked[split]}


# --- confounds and annotators ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("split", "share"), [("train", 0.8), ("test", 0.8), ("ood", 0.5)])
def test_confounds_hold_at_their_rate(split, share):
    drawn = world("preferences", size=6).task("preferences-judge").split(split)
    for cue in ("longer_is_better", "flourish_is_better"):
        assert sum(row.fields[cue] for row in drawn) / len(drawn) == pytest.approx(share, abs=0.04)
    for row in drawn:
        better, worse = (row.fields[x] for x in ("ab" if row.target == "A" else "ba"))
        assert row.fields["longer_is_better"] == (len(better.split()) > len(worse.split()))
        assert ("indeed," in better) == row.fields["flourish_is_better"] != ("indeed," in worse)


def test_annotators_err_as_said():
    made = world("preferences")
    said = made.truth()["annotators"]
    pairs = list(made.pairs(6000, split="ood"))
    for name, annotator in said.items():
        own = [p for p in pairs if p["annotator"] == name]
        assert len(own) == 1500
        plain = [p for p in own if p["margin"] > 0.45]  # where no bias outweighs the quality, only errors are left
        assert sum(p["noisy"] for p in plain) / len(plain) == pytest.approx(annotator["error"], abs=0.05)
        close = [p for p in own if p["margin"] < 0.45]
        assert (sum(p["noisy"] for p in close) / len(close) > 0.35) == (name in ("wordy", "stylish"))
    length = {n: [len(p["chosen"].split()) > len(p["rejected"].split()) for p in pairs if p["annotator"] == n] for n in said}
    style = {n: ["indeed," in p["chosen"] for p in pairs if p["annotator"] == n] for n in said}
    share = {n: (sum(length[n]) / 1500, sum(style[n]) / 1500) for n in said}
    assert share["wordy"][0] > share["careful"][0] + 0.1 and share["stylish"][1] > share["careful"][1] + 0.1


def test_noisy_pairs_prefer_the_worse_reply():
    for pair in world("preferences").pairs(400):
        gap = pair["quality_chosen"] - pair["quality_rejected"]
        assert abs(gap) == pair["margin"] > 0 and pair["noisy"] == (gap < 0)


def test_annotated_labels_are_those_of_the_judge_where_they_are_not_noisy():
    made = world("preferences")
    judge, annotated = made.task("preferences-judge"), made.task("preferences-annotated")
    for split in SPLITS:
        for one, two in zip(judge.split(split), annotated.split(split), strict=True):
            assert one.fields["a"] == two.fields["a"] and two.fields["noisy"] == (one.target != two.target)
    assert 0.1 < sum(row.fields["noisy"] for row in annotated.train) / 600 < 0.25
    assert not any(row.fields["noisy"] for row in rows(annotated, "dev", "test", "ood"))


def test_words_alone_do_not_tell_the_place_of_the_better_reply():
    """A bag of words over both replies cannot tell A from B; that one reply is longer tells much, but nothing in ood."""
    task = world("preferences", size=3).task("preferences-judge")
    bag = CountVectorizer()

    def shown(row):
        return f"{row.fields['request']} {row.fields['a']} {row.fields['b']}"

    probe = LogisticRegression(max_iter=300).fit(bag.fit_transform(map(shown, task.train)), [r.target for r in task.train])
    assert probe.score(bag.transform(map(shown, task.test)), [r.target for r in task.test]) == pytest.approx(0.5, abs=0.08)


# --- pools and pairs --------------------------------------------------------------------------------------------------------------
def test_pools_have_ties_and_known_qualities():
    made = world("preferences")
    request = made.task("preferences-answer").test[0].fields["request"]
    pool = made.pool(request, 64)
    assert len(pool) == 64 and pool[:8] == made.pool(request, 8)
    assert all(reply["quality"] == worth(request, reply["text"]) for reply in pool)
    assert len({reply["quality"] for reply in pool}) > 5 and max(Counter(reply["quality"] for reply in pool).values()) > 1


def test_pairs_stream_and_follow_trl():
    made = world("preferences", seed=2)
    pairs = list(made.pairs(8))
    assert {p["prompt"] for p in pairs} and pairs == list(made.pairs(8)) == list(itertools.islice(made.pairs(10**9), 8))
    assert all(p["prompt"].endswith("Answer:") and p["chosen"].startswith(" ") for p in pairs)
    json.dumps(pairs)
    with pytest.raises(UserError, match="split"):
        next(made.pairs(1, split="tests"))


def test_replies_are_short():
    for pair in world("preferences").pairs(500):
        assert len(pair["chosen"].split()) <= 25
    task = world("preferences").task("preferences-best")
    assert max(len(task.prompt(row).text().split()) for row in task.test) < 130
