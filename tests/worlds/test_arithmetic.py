"""The arithmetic world keeps its guarantees: problems are solved anew here, from their texts."""

import functools
import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from metier.errors import UserError
from metier.worlds import world

pytestmark = pytest.mark.slow  # a world changes rarely; whoever changes it runs its own file

OPS = ("add", "modular", "median", "sort")
STYLES = ("word-problems", "word-problems-direct", "word-problems-plan", "word-problems-enriched")
SPLITS = ("train", "dev", "test", "ood")
SEEDS = st.integers(0, 10**9)


def rows(task):
    return [row for split in SPLITS for row in task.split(split)]


def number(text):
    return int(text.replace(" ", ""))


def numbers_of(question):
    """The operands of a question, digits joined."""
    return [number(n) for n in re.findall(r"\d(?: \d)*", question.split(" mod ")[0])]


def solve(question):
    """The answer, from the question's text alone."""
    numbers = numbers_of(question)
    if question.startswith("median"):
        return sorted(numbers)[len(numbers) // 2]
    if question.startswith("sort"):
        return int("".join(str(n) for n in sorted(numbers)))
    return sum(numbers) % int(question.split(" mod ")[1]) if " mod " in question else sum(numbers)


def step_is_right(step):
    """Whether a step is true by itself: both sides of '=' are equal, or ':' is followed by the least of the list."""
    if "=" in step:
        left, right = step.split(" = ")
        return sum(number(n) for n in left.split(" + ")) == (product(right) if " x " in right else number(right))
    if ":" in step:
        listed, least = step.split(" : ")
        return min(number(n) for n in listed.split(" , ")) == number(least)
    return True


def product(text):
    """'0 2 6 x 5 + 2' as a number."""
    times, rest = text.split(" + ")
    a, b = times.split(" x ")
    return number(a) * number(b) + number(rest)


def steps_of(text):
    trace, answer = text.split("\nAnswer: ")
    return trace.split(" ; "), int(answer)


@functools.cache
def tasks(size=1.0):
    return world("arithmetic", size=size).tasks()


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS)
def test_answers_and_clean_steps_are_right(seed):
    made = world("arithmetic", seed=seed, size=0.1)
    for op in ("add", "modular"):
        assert all(number(row.target) == solve(row.fields["question"]) for row in rows(made.task(op)))
    for op in OPS:
        for row in rows(made.task(f"{op}-traced")):
            steps, answer = steps_of(row.target)
            assert answer == solve(row.fields["question"])
            assert all(step_is_right(step) for step in steps)


def test_no_operands_are_in_two_splits_nor_held_out_ones_in_the_corpus():
    seen = {split: set() for split in SPLITS}
    for name, task in tasks().items():
        for split in SPLITS:
            if not name.startswith("word"):
                seen[split] |= {tuple(sorted(numbers_of(row.fields["question"]))) for row in task.split(split)}
    for one, two in itertools.combinations(SPLITS, 2):
        assert not seen[one] & seen[two]
    text = "\n".join(itertools.islice(world("arithmetic").corpus(), 15000))
    read = {tuple(sorted(numbers_of(q))) for q in re.findall(r"^Question: (\d.*|median .*|sort .*)$", text, re.MULTILINE)}
    assert len(read) > 5000
    assert not read & (seen["dev"] | seen["test"] | seen["ood"])


def test_small_spaces_are_gone_through_once():
    for name in ("add", "modular"):
        for split in ("train", "dev", "test"):
            questions = [row.fields["question"] for row in tasks()[name].split(split) if row.fields["level"] == 1]
            assert len(set(questions)) == len(questions)
    huge = world("arithmetic", size=30.0).sheets()["modular"]
    first = list(itertools.islice(huge.rows("dev"), 10**5))
    assert len({(row.fields["question"], row.fields["level"]) for row in first}) == len(first) < 10**5, "the stream ends"


def test_levels_are_equally_frequent_and_harder():
    for op in OPS:
        task = tasks()[f"{op}-traced"]
        levels = [[row for row in task.test if row.fields["level"] == level] for level in (1, 2, 3)]
        assert max(map(len, levels)) - min(map(len, levels)) <= 1 or op == "median", "only 84 sets of three digits differ"
        lengths = [sum(len(row.target.split()) for row in part) / len(part) for part in levels]
        if op == "modular":
            assert [{row.fields["question"].split(" mod ")[1] for row in part} for part in levels] == [{"2"}, {"5"}, {"7"}]
        elif op == "add":
            assert lengths[0] <= lengths[1] < lengths[2]
        else:
            assert lengths == sorted(lengths) and len(set(lengths)) == 3


def test_ood_is_longer():
    for op in ("add", "median", "sort"):
        made = tasks()[f"{op}-traced"]
        longest = max(len(row.fields["question"].split()) for row in (*made.train, *made.test))
        assert all(len(row.fields["question"].split()) > longest for row in made.ood)
        assert {row.fields["level"] for row in made.ood} == {4}


@settings(max_examples=12, deadline=None)
@given(seed=SEEDS, op=st.sampled_from(OPS), digits=st.integers(1, 4), rate=st.floats(0, 1), share=st.floats(0, 1))
def test_noise_is_accounted_for(seed, op, digits, rate, share):
    made = world("arithmetic", seed=seed)
    clean, static, dynamic = (
        list(itertools.islice(made.traced(op, digits, noise=kind, rate=rate, share=share), 40)) for kind in ("none", "static", "dynamic")
    )
    for plain, local, spread in zip(clean, static, dynamic, strict=True):
        assert plain.question == local.question == spread.question
        assert plain.wrong == plain.changed == () and plain.answer == plain.right == solve(plain.question)
        assert local.wrong == spread.wrong
        assert local.answer == local.right == plain.right == spread.right
        assert [i for i, (a, b) in enumerate(zip(plain.steps, local.steps, strict=True)) if a != b] == list(local.wrong)
        for noisy in (local, spread):
            before, after = plain.text.split(), noisy.text.split()
            assert [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] == list(noisy.changed)
            assert noisy.text.endswith(f"Answer: {noisy.answer}")
            assert bool(noisy.changed) == bool(noisy.wrong)


@pytest.mark.parametrize("op", OPS)
def test_dynamic_noise_is_carried_on_and_static_noise_is_not(op):
    made = world("arithmetic")
    for trace in itertools.islice(made.traced(op, 2, noise="dynamic", rate=0.4), 500):
        wrong = {i for i, step in enumerate(trace.steps) if not step_is_right(step)}
        assert wrong == set(trace.wrong), "every other step follows from what stands before it"
        assert trace.answer == read_off(op, trace.steps)
    for trace in itertools.islice(made.traced(op, 2, noise="static", rate=0.4), 500):
        assert {i for i, step in enumerate(trace.steps) if not step_is_right(step)} == set(trace.wrong)


def read_off(op, steps):
    """The answer that the results of the steps amount to, whether they are right or wrong."""
    results = [re.split(" [=:] ", step)[-1] for step in steps]
    if op == "add":
        digits = [result.split()[1] for result in results[:-1]]
        return int(results[-2].split()[0] + "".join(reversed(digits)))
    if op == "modular":
        return int(results[-1].split()[-1])
    if op == "median":
        return number(results[-2])
    taken = [number(result) for result in results[:-1]]
    left = [number(n) for n in steps[0].split(" : ")[0].split(" , ")]
    for value in taken:
        left.remove(value)
    return int("".join(map(str, [*taken, *left])))


def test_carried_digits_are_those_of_the_step_before():
    for trace in itertools.islice(world("arithmetic").traced("add", 3, noise="dynamic", rate=0.5), 300):
        for one, two in itertools.pairwise(trace.steps[:-1]):
            assert two.split(" = ")[0].split(" + ")[2] == one.split(" = ")[1].split()[0]


def test_rates_are_those_asked_for():
    traces = list(itertools.islice(world("arithmetic").traced("add", 3, noise="static", rate=0.3, share=0.5), 4000))
    noised = [t for t in traces if t.wrong]
    assert abs(len(noised) / len(traces) - 0.5 * (1 - 0.7**3)) < 0.03
    assert abs(sum(len(t.wrong) for t in traces) / (3 * len(traces)) - 0.15) < 0.015


def test_noised_tasks_change_training_traces_only():
    made, clean = world("arithmetic", size=0.2), world("arithmetic", size=0.2).task("add-traced")
    noisy = made.noised("add", noise="static", rate=0.5)
    assert (noisy.dev, noisy.test, noisy.ood) == (clean.dev, clean.test, clean.ood)
    for before, after in zip(clean.train, noisy.train, strict=True):
        assert before.fields["question"] == after.fields["question"]
        assert (before.target == after.target) == (after.fields["wrong_steps"] == ())
        words = zip(before.target.split(), after.target.split(), strict=True)
        assert tuple(i for i, (a, b) in enumerate(words) if a != b) == after.fields["changed_words"]


def test_bad_noise_is_refused():
    with pytest.raises(UserError, match="rate"):
        next(world("arithmetic").traced("add", 2, noise="static", rate=1.5))
    with pytest.raises(UserError, match="Did you mean 'static'"):
        world("arithmetic").noised("add", noise="statics", rate=0.5)
    with pytest.raises(UserError, match="op"):
        world("arithmetic").traced("multiply", 2)


def tale(problem):
    """(answer, numbers that do not matter) of a word problem, read from its text."""
    thing, who = re.search(r"How many (\w+) does (\w+) have", problem).groups()
    now, aside = 0, []
    for sentence in problem.split(" . ")[:-1]:
        n = int(re.search(r"\d+", sentence)[0])
        if not re.search(rf"^{who} .* {thing}$", sentence):
            aside.append(n)
        elif re.search(r" (loses|sells|gives away) ", sentence):
            now -= n
        else:
            now += n
    return now, aside


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS)
def test_word_problems(seed):
    made = world("arithmetic", seed=seed, size=0.1)
    for name in STYLES:
        for row in rows(made.task(name)):
            answer, aside = tale(row.fields["problem"])
            assert int(re.search(r"(\d+)$", row.target)[0]) == answer
            assert sorted(aside) == sorted(row.fields["irrelevant"])
            sums = re.findall(r"(\d+) ([+-]) (\d+) = (\d+)", row.fields["steps"])
            assert len(sums) == row.fields["level"] and int(sums[-1][3]) == answer
            assert all(int(c) == (int(a) + int(b) if sign == "+" else int(a) - int(b)) for a, sign, b, c in sums)
            assert all(a[3] == b[0] for a, b in itertools.pairwise(sums))
            assert re.findall(r"(\d+) ([+-]) (\d+) = (\d+)", row.fields["enriched"]) == sums
            todo = row.fields["plan"].split("\n")[0].split(" , ")[1:]
            assert todo == ["add" if sign == "+" else "subtract" for _, sign, _, _ in sums]


def test_word_problem_styles_are_of_the_same_problems():
    for split in SPLITS:
        texts = [[row.fields["problem"] for row in tasks()[name].split(split)] for name in STYLES]
        assert all(one == texts[0] for one in texts)


def test_word_problems_of_two_splits_differ_in_their_numbers():
    def operands(split):
        return {tuple(re.findall(r"\d+", row.fields["steps"].rpartition("\n")[0])) for row in tasks()["word-problems"].split(split)}

    assert not operands("train") & operands("test") and not operands("train") & operands("dev") and not operands("dev") & operands("test")
    made = tasks()["word-problems"]
    assert {len(row.fields["irrelevant"]) for row in made.train} == {0, 1, 2}
    assert {len(row.fields["irrelevant"]) for row in made.ood} == {3}


@pytest.mark.slow
def test_verify_is_balanced_and_right_and_has_no_surface_cue():
    made = tasks(4.0)["verify"]
    for row in rows(made):
        steps, answer = steps_of(row.fields["trace"])
        assert (row.target == "yes") == (answer == solve(row.fields["question"]))
        assert (row.target == "yes") == all(step_is_right(step) for step in steps)
    assert abs(sum(row.target == "yes" for row in made.train) * 2 - len(made.train)) <= 2
    texts = {split: [f"{row.fields['question']} {row.fields['trace']}" for row in made.split(split)] for split in ("train", "test")}
    for option in ({"token_pattern": r"\S+"}, {"token_pattern": r"\S+", "ngram_range": (1, 2), "binary": True}):
        vectors = CountVectorizer(**option)
        probe = LogisticRegression(C=0.05, max_iter=200).fit(vectors.fit_transform(texts["train"]), [row.target for row in made.train])
        assert 0.44 < probe.score(vectors.transform(texts["test"]), [row.target for row in made.test]) < 0.56
