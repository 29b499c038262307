"""Audit: leaks, unseen labels, lone classes, and what goes on with a warning."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from metier.errors import UserError
from metier.task import Document, Example, Task, audit, load_task


def rows(labels: str, prefix: str = "t") -> tuple[Example, ...]:
    return tuple(Example(f"{prefix}:{i}", {"text": f"{prefix} text {i}"}, label) for i, label in enumerate(labels))


TASK = Task(
    name="t",
    kind="choose",
    template="{{ text }}",
    metric="accuracy",
    choices=("a", "b"),
    train=rows("aabb"),
    dev=rows("ab", "d"),
    test=rows("ab", "e"),
)


def test_a_sound_task_has_no_warnings() -> None:
    assert audit(TASK) == []
    assert audit(TASK.sealed()) == []


def test_leaks_are_errors_that_name_the_way_on() -> None:
    leaky = replace(TASK, test=(*TASK.test, Example("e:9", {"text": " T  TEXT 1 "}, "a")))
    with pytest.raises(
        UserError, match=r"1 of 3 test rows also occur in train \(case and spacing folded; first: e:9 = t:1\).*dedupe.*--allow-leak"
    ):
        audit(leaky)
    assert audit(leaky, allow_leak=True) == ["1 of 3 test rows also occur in train (case and spacing folded; first: e:9 = t:1)."]


def test_other_repeats_are_warnings() -> None:
    repeated = replace(TASK, train=(*TASK.train, Example("t:9", {"text": "t text 1"}, "b")), dev=(*TASK.dev, TASK.train[0]))
    told = audit(repeated)
    assert [w.split(" (")[0] for w in told] == [
        "1 of 3 dev rows also occur in train",
        "1 of 5 train rows repeat another.",
        "questions of train that occur with different answers: 1.",
    ]


def test_dedupe_drops_from_train_and_never_from_test(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = [{"text": f"x{i}", "label": "ab"[i % 2]} for i in range(20)]
    for name, part in (
        ("train", train),
        ("dev", train[:2] + [{"text": "d", "label": "a"}]),
        ("test", train[1:3] + [{"text": "e", "label": "a"}]),
    ):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in part))
    with pytest.raises(UserError, match="2 of 3 test rows also occur in train"):
        load_task(tmp_path)
    with caplog.at_level(logging.WARNING):
        task = load_task(tmp_path, overrides={"dedupe": True})
    assert [len(s) for s in (task.train, task.dev, task.test)] == [17, 2, 3]
    assert task.options["warnings"] == ["dedupe dropped 4 rows of train and dev that occur in a later split."]
    assert task.options["warnings"][0] in caplog.text
    kept = load_task(tmp_path, allow_leak=True)
    assert [len(s) for s in (kept.train, kept.dev, kept.test)] == [20, 3, 3]


def test_labels_must_be_known_to_train() -> None:
    with pytest.raises(UserError, match=r"e:1: test has the label 'c' \(1 rows\) that train lacks; known: 'a', 'b'"):
        audit(replace(TASK, test=rows("ac", "e")))
    with pytest.raises(UserError, match=r"t:4: the class 'c' has a single example in train"):
        audit(replace(TASK, train=rows("aabbc"), choices=("a", "b", "c")))
    with pytest.raises(UserError, match="every row has the label 'a': there is nothing to choose"):
        audit(replace(TASK, train=rows("aa"), dev=(), test=(), choices=("a",)))
    given = replace(TASK, train=rows("aabbc"), choices=("a", "b", "c", "d"), options={"choices": "given"})
    assert audit(given) == ["1 classes have a single example in train: 'c'.", "1 choices have no example in train: 'd'."]


def test_empty_texts_missing_fields_and_foreign_choices() -> None:
    with pytest.raises(UserError, match=r"e:0: text is empty"):
        audit(replace(TASK, test=(Example("e:0", {"text": "\n"}, "a"),)))
    with pytest.raises(UserError, match=r"e:0: the template shows 'text', which the row lacks; it has: body"):
        audit(replace(TASK, test=(Example("e:0", {"body": "x"}, "a"),)))
    with pytest.raises(UserError, match=r"the answer 'z' is not among its choices \['x', 'y'\]"):
        audit(replace(TASK, choices=(), train=(Example("t:0", {"text": "x"}, "z", ("x", "y")),), dev=(), test=()))
    with pytest.raises(UserError, match="no examples at all"):
        audit(replace(TASK, train=(), dev=(), test=()))


def test_judgements_must_name_documents() -> None:
    judged = (Example("q", {"query": "x"}, {"d1": 1}), Example("r", {"query": "y"}, {"d1": 0}))
    task = Task(name="r", kind="rank", template="{{ query }}", metric="ndcg", test=judged, documents=(Document("d1", "text"),))
    assert audit(task) == ["1 queries have no relevant document; they score 0."]
    with pytest.raises(UserError, match=r"q: judges the document 'd1', which is not among the documents"):
        audit(replace(task, documents=(Document("d2", "text"),)))
    with pytest.raises(UserError, match="nothing to rank"):
        audit(replace(task, documents=()))
