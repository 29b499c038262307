"""Self-consistency: the majority counted by hand, the same by seed, the same in any batch."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from tests.tune import tiny

from metier.decode.self_consistency import Majority, Settings, self_consistency
from metier.errors import UserError
from metier.method import find
from metier.model import Specialist
from metier.model import change as changes
from metier.model.causal import Generated
from metier.task import Example
from metier.train import Run

EXAMPLE = Example("e", {"text": "a"}, "aa")


def drawn(*texts: str, logprobs: tuple[float, ...] = ()) -> list[Generated]:
    return [Generated(t, 1, lp) for t, lp in zip(texts, logprobs or [0.0] * len(texts), strict=True)]


def test_the_majority_wins_after_normalisation() -> None:
    task = replace(tiny.generate(), metric="normalised")
    change = Majority(5, 0.7)
    assert change.vote(drawn("Paris", "London", "the paris.", "London!", "PARIS"), EXAMPLE, task) == ("Paris", 0.6)
    assert change.vote(drawn("Paris", "paris", "London"), EXAMPLE, replace(task, metric="exact")) == ("Paris", 1 / 3)


def test_numbers_are_compared_as_numbers() -> None:
    task = replace(tiny.generate(), metric="number")
    found = Majority(4, 0.7).vote(drawn("3 + 4 #### 7", "so it is 8", "7.0", "the answer is 7"), EXAMPLE, task)
    assert found == ("3 + 4 #### 7", 0.75)


def test_ties_go_to_the_likelier_answer_then_to_the_first() -> None:
    task, change = tiny.generate(), Majority(4, 0.7)
    assert change.vote(drawn("a", "b", "a", "b", logprobs=(-1.0, -0.5, -1.0, -0.6)), EXAMPLE, task) == ("b", 0.5)
    assert change.vote(drawn("a", "b", "b", "a"), EXAMPLE, task) == ("a", 0.5)


@pytest.mark.parametrize("family", ["causal", "seq2seq"])
def test_the_specialist_says_what_most_of_its_samples_say(family: str) -> None:
    base, task = tiny.base(tiny.t5() if family == "seq2seq" else None, family), replace(tiny.generate(), max_new_tokens=1, stop=())
    change = self_consistency(Specialist(base), task, Settings(samples=7, temperature=0.4), Run())
    wise = Specialist(base, (change,))
    answers = wise.answer(task, task.train, seed=3)
    for example, answer in zip(task.train, answers, strict=True):
        prompt = task.prompt(example)
        seeds = [f"3|{example.id}|{k}" for k in range(7)]
        texts = [g.text for g in wise.generate([prompt] * 7, max_new_tokens=1, temperature=0.4, seeds=seeds)]
        votes = Counter(t.strip() for t in texts)
        assert votes[answer.output.strip()] == max(votes.values())
        assert answer.confidence == max(votes.values()) / 7
    assert len({a.confidence for a in answers}) > 1


@pytest.mark.parametrize("family", ["causal", "seq2seq"])
def test_a_seed_decides_and_the_batch_does_not(family: str) -> None:
    base, task = tiny.base(tiny.t5() if family == "seq2seq" else None, family), tiny.generate()
    task = replace(task, train=[replace(e, id=f"a-long-name-{e.id}") for e in task.train])
    wise = Specialist(base, (Majority(5, 1.0),))
    told = [(a.output, a.confidence) for a in wise.answer(task, task.train, seed=1)]
    assert told == [(a.output, a.confidence) for a in wise.answer(task, task.train, seed=1)]
    assert told == [(a.output, a.confidence) for e in task.train for a in wise.answer(task, [e], seed=1)]
    assert told != [(a.output, a.confidence) for a in wise.answer(task, task.train, seed=2)]


def test_it_is_saved_and_checked(tmp_path: Path) -> None:
    changes.save(Majority(5, 0.9), tmp_path / "c", base="b")
    assert changes.load(tmp_path / "c", base="b") == Majority(5, 0.9)
    with pytest.raises(UserError, match="temperature must be above 0"):
        find("self-consistency").configure({"temperature": 0})
    with pytest.raises(UserError, match="is an encoder and cannot generate"):
        Specialist(tiny.base(tiny.bert(), "encoder"), (Majority(2, 1.0),)).answer(tiny.generate(), [EXAMPLE])
