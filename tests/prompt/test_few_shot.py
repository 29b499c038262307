"""Few-shot: which exemplars are shown, that they fit, that an example is never shown itself, and that saving changes nothing."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny import tiny_causal, tiny_seq2seq, tiny_task

from metier.contract import check_method
from metier.errors import BaseMismatch, UserError
from metier.model import Specialist, load_base
from metier.model import change as changes_on_disk
from metier.model.known import SLACK, Known
from metier.prompt.exemplars import Exemplars
from metier.prompt.few_shot import Settings, few_shot, in_turn
from metier.task import Example, Prompt, Task
from metier.train import Run

PICKS = ("random", "balanced", "bm25", "nearest")


def made(task: Task, seed: int = 0, start: Specialist | None = None, run: Run | None = None, **settings: Any) -> Exemplars:
    return few_shot(start or Specialist(tiny_causal()), task.sealed(), Settings(**settings), run or Run(seed=seed))


def shown(change: Exemplars, task: Task, example: Example) -> tuple[tuple[str, str], ...]:
    return change.prompt(task.prompt(example), example, task).exemplars


@pytest.mark.parametrize("pick", PICKS)
def test_shows_solved_train_examples(pick: str) -> None:
    task = tiny_task("choose")
    solutions = {(task.prompt(e).query, e.answer) for e in task.train}
    change = made(task, pick=pick, shots=3)
    for example in task.dev:
        pairs = shown(change, task, example)
        assert len(set(pairs)) == 3
        assert set(pairs) <= solutions
    text = Specialist(tiny_causal(), (change,)).prompt(task, task.dev[0]).text()
    assert text.startswith(task.instruction + "\n\nText: a ")
    assert text.endswith(task.prompt(task.dev[0]).query)


@pytest.mark.parametrize("pick", PICKS)
@pytest.mark.parametrize("kind", ["choose", "generate"])
def test_an_example_is_never_shown_itself(pick: str, kind: str) -> None:
    task = tiny_task(kind)
    copies = tuple(Example(f"copy-{e.id}", e.fields, e.target) for e in task.train)
    task = dataclasses.replace(task, train=task.train + copies)
    change = made(task, pick=pick, shots=3)
    for example in task.train:
        pairs = shown(change, task, example)
        assert len(set(pairs)) == 3
        assert task.prompt(example).query not in {q for q, _ in pairs}


def test_fixed_exemplars_begin_every_prompt() -> None:
    task = tiny_task("choose")
    for pick in ("random", "balanced"):
        change = made(task, pick=pick, shots=4)
        assert len({shown(change, task, e) for e in task.dev}) == 1
        assert len({shown(made(task, seed=s, pick=pick), task, task.dev[0]) for s in range(5)}) > 1


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=20))
def test_in_turn_is_balanced(answers: list[str]) -> None:
    examples = [Example(str(i), {"i": i}, a) for i, a in enumerate(answers)]
    turned = in_turn(examples)
    assert sorted(e.id for e in turned) == sorted(e.id for e in examples)
    total = Counter(answers)
    for n in range(len(turned)):
        count = Counter(e.answer for e in turned[:n])
        most = max(count.values(), default=0)
        assert all(count[a] >= min(most - 1, total[a]) for a in total)  # nobody is behind who has examples left


def test_bm25_takes_the_most_alike_and_puts_it_last() -> None:
    train = tuple(Example(str(i), {"text": t}, "warm") for i, t in enumerate(["a red hat", "a blue coat", "a red red boat", "a lamp"]))
    task = dataclasses.replace(tiny_task("choose"), train=train, template="{{ text }}")
    query = Example("q", {"text": "red boat"}, "warm")
    assert [q for q, _ in shown(made(task, pick="bm25", shots=2), task, query)] == ["a red hat", "a red red boat"]
    assert [q for q, _ in shown(made(task, pick="bm25", shots=2, order="best-first"), task, query)] == ["a red red boat", "a red hat"]


def test_nearest_is_the_argmax_of_cosines() -> None:
    task = tiny_task("choose")
    start = Specialist(tiny_causal())
    change = made(task, pick="nearest", shots=1)
    pool = start.embed([s.query for s in change.pool])
    for example in task.dev:
        likeness = pool @ start.embed([task.prompt(example).query])[0]
        assert shown(change, task, example)[0][0] == change.pool[int(likeness.argmax())].query


@pytest.mark.parametrize("pick", PICKS)
def test_saved_and_loaded_it_shows_the_same(pick: str, tmp_path: Path) -> None:
    task, base = tiny_task("generate"), tiny_causal()
    change = made(task, pick=pick)
    changes_on_disk.save(change, tmp_path / "c", base=base.fingerprint)
    loaded = changes_on_disk.load(tmp_path / "c", base=base.fingerprint)
    assert isinstance(loaded, Exemplars)
    assert [shown(loaded, task, e) for e in (*task.train, *task.dev)] == [shown(change, task, e) for e in (*task.train, *task.dev)]
    assert loaded.provenance["fit"] == {"prompts": 6, "with_fewer_exemplars": 0, "fewest": 4}


def test_nearest_refuses_other_weights_under_the_same_name(tmp_path: Path) -> None:
    task, base = tiny_task("choose"), tiny_causal()
    change = made(task, pick="nearest")
    facts, tensors = change.state()
    facts = {**facts, "base": {**facts["base"], "name": tiny_causal(seed=3).path}}
    with pytest.raises(BaseMismatch, match="Make it again"):
        shown(Exemplars.from_state(facts, tensors), task, task.dev[0])
    assert base.fingerprint == change.base.fingerprint


# --- room ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["choose", "generate"])
@pytest.mark.parametrize("pick", ["balanced", "bm25"])
def test_what_does_not_fit_is_left_out_and_said(kind: str, pick: str) -> None:
    base = tiny_causal(max_length=96)
    task, said = tiny_task(kind), []
    change = made(task, start=Specialist(base), run=Run(say=said.append), pick=pick, shots=10)
    counts = {len(shown(change, task, e)) for e in task.dev}
    assert 0 < max(counts) < 10
    assert len(said) == 1
    assert "show fewer than 10 exemplars" in said[0]
    assert "the base cannot read more" in said[0]
    assert change.provenance["fit"]["with_fewer_exemplars"] == len(task.dev)
    Specialist(base, (change,)).answer(task, [*task.train, *task.dev])  # every prompt fits, or this would raise
    wide = made(task, pick=pick, shots=10)
    for example in task.dev:  # those nearest to the query stay
        kept = shown(change, task, example)
        assert kept == shown(wide, task, example)[-len(kept) :]


@pytest.mark.slow
@given(st.integers(40, 256), st.integers(0, 11))
def test_a_prompt_always_fits(limit: int, index: int) -> None:
    task = tiny_task("choose")
    base = dataclasses.replace(tiny_causal(), max_length=limit)
    change = made(task, start=Specialist(base), shots=11, pick="bm25")
    example = task.train[index]
    text, ids = base.encode_prompt(change.prompt(task.prompt(example), example, task))
    answers = [base.encode_answer(text, c, separator=" ") for c in task.choices]
    assert len(ids) + max(map(len, answers)) <= limit


@pytest.mark.slow
@given(st.integers(60, 200), st.integers(0, 5))
def test_room_is_not_wasted(limit: int, index: int) -> None:
    """One exemplar more would not fit."""
    task, base = tiny_task("choose"), dataclasses.replace(tiny_causal(), max_length=limit)
    change, all_of_them = made(task, start=Specialist(base), shots=10), made(task, shots=10)
    example = task.dev[index]
    shown_ones, every = shown(change, task, example), shown(all_of_them, task, example)
    if len(shown_ones) < 10:
        more = task.prompt(example).with_(exemplars=every[-len(shown_ones) - 1 :])
        assert len(base.encode_prompt(more)[1]) + change.base.answer > limit


def test_it_fits_on_another_task_too(tmp_path: Path) -> None:
    """What is retained is measured with the same change: there, too, prompts must fit, also when the change has been loaded."""
    base, other = tiny_causal(max_length=128), tiny_task("generate")
    other = dataclasses.replace(
        other, max_new_tokens=30, template="Question: {{ question }} 1 2 3 4 5 6 7 8 9 0 9 8 7 6 5 4 3 2 1\nAnswer:"
    )
    change = made(tiny_task("choose"), start=Specialist(base), shots=10)
    changes_on_disk.save(change, tmp_path / "c", base=base.fingerprint)
    loaded = changes_on_disk.load(tmp_path / "c", base=base.fingerprint)
    assert [a.prompt for a in Specialist(base, (change,)).answer(other, other.dev)] == [
        a.prompt for a in Specialist(base, (loaded,)).answer(other, other.dev)
    ]


@given(st.text(max_size=200))
def test_no_text_has_more_tokens_than_bytes(text: str) -> None:
    """What `fits` leans on; and it agrees with counting."""
    base, task = tiny_causal(), tiny_task("choose")
    known, prompt = Known.of(dataclasses.replace(base, max_length=100)), Prompt(text)
    count = len(base.encode_prompt(prompt)[1])
    assert count <= len(text.encode()) + SLACK
    longest = max(len(base.encode_answer(text, c, separator=" ")) for c in task.choices)
    assert known.fits(prompt, task.dev[0], task) == (count + longest <= 100)


# --- the edges -----------------------------------------------------------------------------------------------------------
def test_few_examples_are_said() -> None:
    task, said = tiny_task("choose", train=3), []
    change = made(task, run=Run(say=said.append), shots=8)
    assert [len(shown(change, task, e)) for e in task.dev] == [3] * 6
    assert "train has only 3 different examples" in said[0]


def test_no_train_is_an_error() -> None:
    with pytest.raises(UserError, match="no train examples to show"):
        made(dataclasses.replace(tiny_task("choose"), train=()))


def test_bad_settings() -> None:
    with pytest.raises(UserError, match="shots must be at least 1; got 0"):
        Settings(shots=0)
    with pytest.raises(UserError, match="Did you mean 'nearest'"):
        Settings(pick="nerest")  # type: ignore[arg-type]


def test_exemplars_are_added_to_those_there() -> None:
    task = tiny_task("choose")
    change = made(task, shots=2)
    prompt = task.prompt(task.dev[0]).with_(exemplars=(("q", "a"),))
    assert change.prompt(prompt, task.dev[0], task).exemplars[0] == ("q", "a")
    assert len(change.prompt(prompt, task.dev[0], task).exemplars) == 3


@pytest.mark.parametrize("pick", PICKS)
def test_contract(pick: str) -> None:
    check_method("few-shot", base=tiny_causal(), task=tiny_task("choose"), settings={"pick": pick})
    check_method("few-shot", base=tiny_seq2seq(), task=tiny_task("generate"), settings={"pick": pick, "order": "best-first"})


def test_on_a_real_base(shared: Path) -> None:
    base = load_base(str(shared / "models" / "stories3M"))
    task = tiny_task("choose")
    change = made(task, start=Specialist(base), shots=4)
    answers = Specialist(base, (change,)).answer(task, task.dev)
    assert all(a.prompt.count("Feeling:") == 5 for a in answers)
