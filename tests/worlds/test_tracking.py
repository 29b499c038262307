"""Tracking: answers by an independent reader, splits without common words, no cue but the text, exact Bayes estimators."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from metier.errors import UserError
from metier.worlds import world
from metier.worlds.tracking import CORRUPTIONS

pytestmark = pytest.mark.slow  # a world changes rarely; whoever changes it runs its own file

EVERY = ("boxes", "boxes-moved", "indirect-object", "coloured-objects", "needles", "recall", "rule")


def drawn(name, n, split="train", seed=0):
    made = world("tracking", seed=seed)
    sheet = made.sheets()[name]
    return [(sheet.task.prompt(row).text(), row) for row in itertools.islice(sheet.rows(split), n)]


def read_boxes(prompt):
    """What the last box holds, by reading the sentences one after the other."""
    *told, question = [part for part in re.split(r"[.,] ?", prompt) if part]
    held = {}
    for sentence in told:
        if found := re.fullmatch(r"[Tt]he (\w+) is in Box (\w)", sentence):
            held[found[2]] = found[1]
        elif found := re.fullmatch(r"Box (\w) has the (\w+)", sentence):
            held[found[1]] = found[2]
        elif found := re.fullmatch(r"Swap Box (\w) and Box (\w)", sentence):
            held[found[1]], held[found[2]] = held[found[2]], held[found[1]]
        else:
            source, goal = re.fullmatch(r"Empty Box (\w) into Box (\w)", sentence).groups()
            assert goal not in held
            held[goal] = held.pop(source)
    return held[re.fullmatch(r"Box (\w) contains the", question)[1]]


def read_gift(prompt):
    names = re.findall(r"(?!Then|When|After)\b[A-Z][a-z]+", prompt)
    (receiver,) = [name for name, n in Counter(names).items() if n == 1]
    return receiver


def read_table(prompt):
    thing = re.search(r"colour is the (\w+)\?", prompt)[1]
    return re.search(rf"a (\w+) {thing}\b", prompt)[1]


def read_code(prompt):
    key = re.search(r"What is the code of the (\w+)\?", prompt)[1]
    (value,) = re.findall(rf"The code of the {key} is (\w+ \w+)\.", prompt)
    return value


def read_items(prompt):
    *items, (query, _) = re.findall(r"Input: (.*)\nOutput: ?(.*)", prompt)
    return items, query


def read_recall(prompt):
    items, query = read_items(prompt)
    return dict(items)[query]


def read_rule(prompt):
    """Every choice of places that explains all items gives the same answer."""
    items, query = read_items(prompt)
    ways = [way for k in (1, 2) for way in itertools.permutations(range(3), k)]
    fits = [way for way in ways if all([given.split()[i] for i in way] == out.split() for given, out in items)]
    (answer,) = {" ".join(query.split()[i] for i in way) for way in fits}
    return answer


READ = {"boxes": read_boxes, "boxes-moved": read_boxes, "indirect-object": read_gift, "coloured-objects": read_table,
        "needles": read_code, "recall": read_recall, "rule": read_rule}  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**40))
def test_answers_follow_from_the_text(name, seed):
    for split in world("tracking").sheets()[name].sizes:
        for prompt, row in drawn(name, 40, split, seed):
            assert READ[name](prompt) == row.target


def together(prompt):
    """The sets of words that make the scenes of a text, each as one text."""
    scenes = re.findall(r"(?:^|\n|(?<=Answer: ))((?:The \w+ is in|Box \w has)[^.]*\.)", prompt)
    found = {f"box {' '.join(sorted(re.findall(r'(?<=he )[a-z]+', scene)))}" for scene in scenes}
    found |= {f"table {' '.join(sorted(re.findall(r'a [a-z]+ ([a-z]+)', line)))}" for line in re.findall(r"there is (.*)\.", prompt)}
    found |= {f"code {key} {value}" for key, value in re.findall(r"The code of the (\w+) is (\w+ \w+)", prompt)}
    found |= {f"words {' '.join(sorted(line.split()))}" for line in re.findall(r"Input: (.*)", prompt)}
    gifts = re.findall(r"^(?:When|After|Then) (\w+) and (\w+) ", prompt, re.MULTILINE)
    return found | {f"names {' '.join(sorted(gift))}" for gift in gifts}


@pytest.mark.parametrize("name", EVERY)
def test_no_scene_is_in_two_splits_or_held_out_in_the_corpus(name):
    by_split = {
        split: set().union(*(together(prompt) for prompt, _ in drawn(name, 1500, split)))
        for split in world("tracking").sheets()[name].sizes
    }
    assert all(len(scenes) > 60 for scenes in by_split.values())
    for one, two in itertools.combinations(by_split, 2):
        assert not by_split[one] & by_split[two]
    texts = itertools.chain(itertools.islice(world("tracking").corpus(), 3000), itertools.islice(world("tracking").corpus(era=1), 1000))
    read = set().union(*map(together, texts))
    assert {scene.split(" ")[0] for scene in read} == {"box", "table", "code", "words", "names"}
    assert not read & set().union(*(scenes for split, scenes in by_split.items() if split != "train"))


@pytest.mark.parametrize("name", EVERY)
def test_the_corpus_speaks_as_the_tasks_do(name):
    """Without the words that change, every training prompt's last line is found in the corpus."""
    text = "\n".join(itertools.islice(world("tracking").corpus(), 500))
    for prompt, _ in drawn(name, 5):
        last = prompt.split("\n")[-1].split(". ")[-1]
        pattern = (
            re.sub(r"Box \w\b", r"Box \\w", last)
            if "Box" in last
            else r"\w+ \w+ the \w+ to"
            if "boxes" not in name and " to" in last
            else re.escape(last)
        )
        assert re.search(pattern, text), last


def options(name, row):
    if name.startswith("boxes"):
        return sorted(row.fields["objects"])
    return sorted((row.target, *row.fields["others"])) if name == "needles" else sorted(row.choices)


def probe(texts, labels):
    """Accuracy of a linear model on which words occur, on the second half."""
    counts = CountVectorizer(binary=True, token_pattern=r"\b\w+\b", lowercase=False).fit_transform(texts)
    half = len(texts) // 2
    return LogisticRegression(C=0.1, max_iter=200).fit(counts[:half], labels[:half]).score(counts[half:], labels[half:])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "n"), [("boxes", 3), ("boxes-moved", 3), ("indirect-object", 2), ("coloured-objects", 3), ("needles", 3)])
def test_which_words_occur_does_not_tell_the_answer(name, n):
    rows = [(prompt, row) for prompt, row in drawn(name, 15000) if len(options(name, row)) == n][:2500]
    labels = [options(name, row).index(row.target) for _, row in rows]
    assert max(Counter(labels).values()) / len(labels) < 1 / n + 0.05
    assert probe([prompt for prompt, _ in rows], labels) < 1 / n + 0.06


@pytest.mark.parametrize("name", ["boxes", "boxes-moved", "coloured-objects"])
def test_every_thing_and_colour_is_told_once_and_places_are_balanced(name):
    rows = drawn(name, 4200)
    for prompt, row in rows[:300]:
        told = re.findall(r"\w+", prompt.split("Question")[0])
        words = row.fields["objects"] if name != "coloured-objects" else row.fields["colours"] + row.fields["things"]
        assert all(told.count(word) == 1 for word in words)
    for level in {row.fields["level"] for _, row in rows}:
        counts = Counter(row.fields["segment"] for _, row in rows if row.fields["level"] == level)
        assert len(counts) == level
        assert max(counts.values()) < 1.6 * min(counts.values())


def test_neither_the_first_name_nor_the_depth_tells_the_answer():
    rows = [row for _, row in drawn("indirect-object", 1000)]
    assert Counter(row.fields["order"] for row in rows) == {"ABBA": 500, "BABA": 500}
    orders = [[value for value in re.findall(r"is (\w+ \w+)\.", prompt)].index(row.target) for prompt, row in drawn("needles", 3000)]
    assert all(0.3 < share / 3000 < 0.37 for share in Counter(orders).values())


def test_a_moved_box_never_holds_what_it_held_first():
    for prompt, row in drawn("boxes-moved", 2000):
        still = re.sub(r"(Swap|Empty) [^.]*\. ?", "", prompt)
        fields = row.fields
        assert fields["touched"] >= 1 and 1 <= len(fields["moves"]) <= 3
        assert fields["query"] not in fields["labels"] or read_boxes(still) != row.target


def test_levels_are_what_is_read():
    for prompt, row in drawn("boxes", 300):
        assert prompt.count(" is in Box ") == row.fields["level"] == len(row.fields["objects"])
        assert row.fields["objects"][row.fields["segment"]] == row.target
    assert {row.fields["level"] for _, row in drawn("boxes", 6)} == {2, 3, 4, 5, 6, 7}
    for prompt, row in drawn("needles", 300):
        sentences = prompt.split("\n")[0].split(". ")
        place = next(i for i, s in enumerate(sentences) if s.startswith(f"The code of the {row.fields['key']} "))
        before = sum(not s.startswith("The code") for s in sentences[:place])
        assert len(sentences) == row.fields["length"] + 3
        assert before == round(row.fields["depth"] * row.fields["length"])
    for prompt, row in drawn("recall", 300):
        assert prompt.count("Input:") == row.fields["level"] + 1


def test_recall_and_rule_disagree_in_the_conflict():
    tuned = [tuple(rule) for rule in world("tracking").truth()["tuned"]]
    for prompt, row in drawn("recall", 200, "ood"):
        items, query = read_items(prompt)
        rest = "\n".join(f"Input: {given}\nOutput: {out}" for given, out in items if given != query)
        assert read_rule(f"{rest}\nInput: {query}\nOutput:") == row.fields["by_rule"] != row.target
    assert {row.fields["rule"] for _, row in drawn("rule", 100)} == set(tuned)
    assert {row.fields["rule"] for _, row in drawn("rule", 100, "ood")} == {(0,), (1,), (2,), *itertools.permutations(range(3), 2)} - set(
        tuned
    )


SAME = {"labels", "order", "things"}  # kinds that leave the answer as it is
OTHER = {"objects", "query", "flip", "names", "colours"}


@pytest.mark.parametrize(("task", "kind"), [(task, kind) for task, kinds in CORRUPTIONS.items() for kind in kinds])
def test_counterfactuals(task, kind):
    made = world("tracking", seed=5)
    pairs = list(itertools.islice(made.corrupted(task, kind), 200))
    for pair in pairs:
        assert READ[task](pair.prompt) == pair.answer
        assert len(pair.prompt.split()) == len(pair.corrupted.split())
        if kind != "random":
            assert pair.prompt != pair.corrupted
        if kind == "abc":
            assert pair.corrupted_answer is None
        else:
            assert READ[task](pair.corrupted) == pair.corrupted_answer
        if kind in SAME | OTHER:
            assert (pair.answer == pair.corrupted_answer) == (kind in SAME)
        if kind == "order" and task.startswith("boxes"):
            assert pair.fields["segment"] != pair.corrupted_fields["segment"]
    held = set().union(*(together(p.prompt) | together(p.corrupted) for p in pairs))
    assert not held & set().union(*(together(prompt) for prompt, _ in drawn(task, 2000)))


def test_unknown_counterfactuals_are_named():
    with pytest.raises(UserError, match="flip"):
        next(world("tracking").corrupted("indirect-object", "flipp"))


def test_regression_estimators_equal_their_definitions():
    mixture = world("tracking").regression(dim=3, count=7, noise=0.7)
    made = mixture.draw(6, 9, alpha=0.5, rng=np.random.default_rng(0))
    ridge, discrete, chance = (
        mixture.continuous(made.x, made.y),
        mixture.discrete(made.x, made.y),
        mixture.chance_discrete(made.x, made.y, alpha=0.3),
    )
    for n, k in itertools.product(range(6), range(1, 9)):
        x, y, new = made.x[n, :k], made.y[n, :k], made.x[n, k]
        w = np.linalg.solve(x.T @ x + 0.49 * np.eye(3), x.T @ y)
        assert ridge[n, k] == pytest.approx(new @ w)
        likely = [np.exp(-((y - x @ v) ** 2).sum() / 0.98) for v in mixture.weights]
        assert discrete[n, k] == pytest.approx(np.average(mixture.weights @ new, weights=likely))
        by_set = np.mean([multivariate_normal.pdf(y, x @ v, 0.49 * np.eye(k)) for v in mixture.weights])
        by_normal = multivariate_normal.pdf(y, np.zeros(k), x @ x.T + 0.49 * np.eye(k))
        assert chance[n, k] == pytest.approx(0.3 * by_set / (0.3 * by_set + 0.7 * by_normal))
    assert chance[:, 0] == pytest.approx(0.3)


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.5, 1.0])
def test_the_mixed_estimator_is_best_on_its_mixture(alpha):
    mixture = world("tracking", seed=1).regression(dim=4, count=16)
    made = mixture.draw(4000, 10, alpha=alpha, rng=np.random.default_rng(1))
    errors = {
        "mixed": mixture.mixed(made.x, made.y, alpha=alpha), "ridge": mixture.continuous(made.x, made.y), "set": mixture.discrete(made.x, made.y),
    }  # fmt: skip
    loss = {key: ((made.y - guess) ** 2).mean() for key, guess in errors.items()}
    assert made.discrete.mean() == pytest.approx(alpha, abs=0.03)
    assert loss["mixed"] <= min(loss.values()) + 1e-9
    with pytest.raises(UserError, match="alpha"):
        mixture.draw(1, 1, alpha=1.5, rng=np.random.default_rng(0))
