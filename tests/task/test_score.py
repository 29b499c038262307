"""Scorers: bounds, perfect answers, agreement with the libraries that define a score, and odd outputs."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.errors import UserError
from metier.task import SCORERS, Example, Task
from metier.task.match import answer_number, is_number, normalise, rouge_l, target_number, token_f1

TASK = Task(name="t", kind="generate", template="{{ q }}", metric="exact")
TEXTS = ("accuracy", "exact", "normalised", "f1", "rougeL", "bleu", "chrf", "number")
QUICK = settings(max_examples=40, deadline=None)
WORDS = st.lists(st.text("abcdeéß019.,-$/# ", min_size=1, max_size=6), min_size=1, max_size=12).map(" ".join).filter(lambda t: t.strip())


def example(target: object, **fields: object) -> Example:
    return Example("e", fields, target)


@QUICK
@given(WORDS, WORDS)
def test_scores_are_between_0_and_1_and_a_perfect_answer_scores_1(output: str, answer: str) -> None:
    for name in TEXTS:
        assert 0 <= SCORERS[name].score(output, example(answer), TASK) <= 1, name
        if name != "bleu":  # a sentence without a word for 13a's tokenizer has no n-grams
            assert SCORERS[name].score(answer, example(answer), TASK) == pytest.approx(1), name


@QUICK
@given(WORDS, st.lists(WORDS, min_size=1, max_size=4), st.randoms())
def test_the_order_of_acceptable_answers_does_not_matter(output: str, answers: list[str], random: object) -> None:
    shuffled = list(answers)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for name in ("exact", "normalised", "f1", "rougeL", "number", "chrf"):
        score = SCORERS[name].score
        assert score(output, example(tuple(answers)), TASK) == pytest.approx(score(output, example(tuple(shuffled)), TASK)), name


@QUICK
@given(WORDS, WORDS)
def test_f1_and_rouge_are_symmetric(a: str, b: str) -> None:
    assert token_f1(a, b) == token_f1(b, a)
    assert rouge_l(a, b) == rouge_l(b, a)


@QUICK
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_summed_statistics_give_the_corpus_score_of_sacrebleu(pairs: list[tuple[str, str]]) -> None:
    from sacrebleu.metrics import BLEU, CHRF

    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        scorer = SCORERS[name]
        assert scorer.statistics is not None
        assert scorer.total is not None
        summed = [sum(column) for column in zip(*(scorer.statistics(o, example(a)) for o, a in pairs), strict=True)]
        expected = metric.corpus_score([o for o, _ in pairs], [[a for _, a in pairs]]).score
        assert scorer.total(summed) == pytest.approx(expected / 100, abs=1e-9), name


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 1,000 in all", 1000),
        ("3/4", Fraction(3, 4)),
        ("1 3/4 cups", Fraction(7, 4)),
        ("-2.5", Fraction(-5, 2)),
        ("5-3", 3),
        ("$18.", 18),
        ("18 (apples)", 18),
        ("16 - 7 = <<16-7=9>>9\n#### 9", 9),
        ("#### 1,234 dollars, 7", 1234),
        ("#### 5\n\nQuestion: 7?\n#### 8", 5),
        ("50%", 50),
        (".5", Fraction(1, 2)),
        ("none", None),
        ("", None),
    ],
)
def test_numbers_are_read(text: str, number: Fraction | int | None) -> None:
    assert answer_number(text) == number


def test_numbers_as_targets() -> None:
    assert target_number("5 (1/2 cups)") == 5
    assert all(map(is_number, ("12", "1,000.5", "34 (minutes)", "$3", "50%", "so\n#### 4")))
    assert not any(map(is_number, ("about 12", "Harry", "3 or 4", "#### x")))
    score = SCORERS["number"].score
    assert score("the answer is 0.3333333", example("1/3"), TASK) == 1
    assert score("Harry.", example("harry"), TASK) == 1
    assert score("I do not know", example("12"), TASK) == 0


def test_normalisation_is_squads() -> None:
    assert normalise("The  Cat, a dog!") == "cat dog"
    assert SCORERS["normalised"].score("", example("the"), TASK) == 0, "an empty output is not the article that vanishes"


@QUICK
@given(st.permutations("abcdefghijkl"), st.dictionaries(st.sampled_from("abcdefghijklxyz"), st.integers(0, 3), min_size=1))
def test_ranking_scores(ranked: list[str], grades: dict[str, int]) -> None:
    output, judged = json.dumps(ranked), example(grades)
    for name in ("ndcg", "mrr", "recall"):
        assert 0 <= SCORERS[name].score(output, judged, TASK) <= 1
    best = json.dumps(sorted(grades, key=lambda d: -grades[d]))
    if 0 < sum(g > 0 for g in grades.values()) <= 10:
        assert all(SCORERS[name].score(best, judged, TASK) == pytest.approx(1) for name in ("ndcg", "mrr", "recall"))
    assert SCORERS["ndcg"].score(output, judged, TASK) == SCORERS["ndcg"].score(json.dumps(ranked + ranked), judged, TASK)


def test_ndcg_by_hand_and_the_cutoff() -> None:
    judged = example({"a": 2, "b": 1})
    dcg, ideal = 1 + 2 / math.log2(3), 2 + 1 / math.log2(3)
    assert SCORERS["ndcg"].score('["b", "a"]', judged, TASK) == pytest.approx(dcg / ideal)
    one = Task(name="t", kind="rank", template="{{ q }}", metric="recall", options={"cutoff": 1})
    assert SCORERS["recall"].score('["b", "a"]', judged, one) == 0.5
    with pytest.raises(ValueError, match="JSON list"):
        SCORERS["mrr"].score("a, b", judged, TASK)


def test_votes_are_compared_in_normal_form() -> None:
    assert SCORERS["number"].normalise("so 1,000.0") == SCORERS["number"].normalise("#### 1000")
    assert SCORERS["f1"].normalise("The cat.") == SCORERS["f1"].normalise("cat")


def test_code_runs_against_its_tests() -> None:
    score = SCORERS["code"].score
    row = example("    return x + 1", prompt="import math\ndef f(x):\n", test="def check(c):\n    assert c(1) == 2", entry_point="f")
    assert score(row.answer, row, TASK) == 1
    assert score("    return x", row, TASK) == 0
    assert score("```python\ndef f(x):\n    return math.floor(x) + 1\n```\nThere.", row, TASK) == 1
    listed = example("", test_list=["assert f(1) == 2", "assert f(2) == 3"])
    assert score("def f(x): return x + 1", listed, TASK) == 1
    assert score("import sys\nsys.exit(0)", listed, TASK) == 0
    with pytest.raises(UserError, match="needs the fields test and entry_point"):
        score("x", example("x", text="t"), TASK)


def test_sql_compares_results() -> None:
    script = "CREATE TABLE t(a INT, b TEXT); INSERT INTO t VALUES (1, 'x'), (2, 'y'), (3, 'y');"
    score = SCORERS["sql"].score
    row = example("SELECT a FROM t WHERE b = 'y'", database=script)
    assert score("```sql\nselect a from t where b like 'y' order by a desc;\n```", row, TASK) == 1
    assert score("select a from t", row, TASK) == 0
    assert score("drop table t", row, TASK) == 0
    assert score("", row, TASK) == 0
    ordered = example("SELECT a FROM t ORDER BY a", database=script)
    assert score("SELECT a FROM t ORDER BY a DESC", ordered, TASK) == 0
    several = example(("SELECT a FROM t", "SELECT a, b FROM t"), database=script)
    assert score("SELECT a, b FROM t", several, TASK) == 1
    with pytest.raises(UserError, match="gold query fails"):
        score("SELECT 1", example("SELECT nothing FROM t", database=script), TASK)
    with pytest.raises(UserError, match="needs a database"):
        score("SELECT 1", example("SELECT 1"), TASK)
    with pytest.raises(UserError, match="does not load"):
        score("SELECT 1", example("SELECT 1", database="CREATE TALBE t(a)"), TASK)
