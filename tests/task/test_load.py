"""load_task: what is guessed, what is split, where documents come from, and which faults are told how."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metier.errors import UserError
from metier.task import Task, load_task
from metier.task.auditing import input_key, shown_fields

Rows = list[dict[str, Any]]


def write(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def reviews(n: int, start: int = 0) -> Rows:
    return [{"text": f"review number {i}", "label": ("good", "bad", "fair")[i % 3]} for i in range(start, start + n)]


def test_a_csv_of_60_rows_is_split_and_shown(tmp_path: Path) -> None:
    task = load_task(write(tmp_path / "mine.csv", reviews(60)))
    assert (task.name, task.kind, task.metric, task.choices) == ("mine", "choose", "accuracy", ("bad", "fair", "good"))
    assert [len(s) for s in (task.train, task.dev, task.test)] == [36, 12, 12]
    assert all(sum(e.target == c for e in task.test) == 4 for c in task.choices), "classes keep their shares"
    first = task.train[0]
    assert task.prompt(first).text() == f"Text: {first.fields['text']}\nLabel:"
    assert "label" not in first.fields
    assert task.inputs == ("text",)
    assert task.options["split"] == {"how": "60/20/20 of one table", "seed": 0}


GUESSED: list[tuple[dict[str, Any], str, str, Any, str]] = [
    ({"question": "Who?", "answer": "Ann"}, "Question: Who?\nAnswer:", "normalised", "Ann", " "),
    ({"question": "How many?", "answer": 12}, "Question: How many?\nAnswer:", "number", "12", " "),
    ({"question": "How many?", "answer": "1+1=2\n#### 2"}, "Question: How many?\nAnswer:", "number", "1+1=2\n#### 2", " "),
    ({"context": "Ann did.", "question": "Who?", "answers": {"text": ["Ann", "Anna"], "answer_start": [0, 0]}},
     "Context: Ann did.\nQuestion: Who?\nAnswer:", "f1", ("Ann", "Anna"), " "),
    ({"question": "Who?", "answers": ["Ann", "Anna"]}, "Question: Who?\nAnswer:", "f1", ("Ann", "Anna"), " "),
    ({"question": "Who?", "answer": {"value": "Ann", "aliases": ["Anna"]}}, "Question: Who?\nAnswer:", "f1", ("Ann", "Anna"), " "),
    ({"prompt": "Say:", "completion": " hello"}, "Say:", "normalised", " hello", ""),
    ({"instruction": "Add.", "input": "1 2", "output": "three"}, "Add.\n1 2", "normalised", "three", "\n"),
    ({"premise": "A.", "hypothesis": "B.", "label": "neutral"}, "Premise: A.\nHypothesis: B.\nRelation:", "accuracy", "neutral", " "),
    ({"sentence1": "A.", "sentence2": "B.", "label": 1}, "Sentence 1: A.\nSentence 2: B.\nLabel:", "accuracy", "1", " "),
    ({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}, "Hi", "normalised", "Hello", "\n"),
    ({"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]},
     "System: Be kind.\nUser: Hi\nAssistant:", "normalised", "Yes", " "),
    ({"question": "Who?", "choices": ["Ann", "Bob"], "answer": 1}, "Question: Who?\nAnswer:", "accuracy", "Bob", " "),
    ({"question": "Who?", "choices": {"text": ["Ann", "Bob"], "label": ["A", "B"]}, "answerKey": "A"},
     "Question: Who?\nAnswer:", "accuracy", "Ann", " "),
    ({"text": "Add one.", "code": "def f(x):\n    return x + 1", "test_list": ["assert f(1) == 2"]},
     "Add one.\nThe code should pass these tests:\nassert f(1) == 2\nCode:", "code", "def f(x):\n    return x + 1", "\n"),
    ({"prompt": "def f():\n", "canonical_solution": "    return 1", "test": "def check(c): pass", "entry_point": "f"},
     "def f():\n", "code", "    return 1", ""),
    ({"question": "All?", "query": "SELECT 1", "schema": "t(a)", "database": "CREATE TABLE t(a)"},
     "Tables: t(a)\nQuestion: All?\nSQL:", "sql", "SELECT 1", " "),
]  # fmt: skip


@pytest.mark.parametrize(("row", "query", "metric", "target", "separator"), GUESSED)
def test_obvious_columns_are_guessed(tmp_path: Path, row: dict[str, Any], query: str, metric: str, target: Any, separator: str) -> None:
    for split in ("train", "dev", "test"):
        write(tmp_path / f"{split}.jsonl", [row, row])
    overrides = {"choices": [target, "another"]} if "label" in row else None  # one label is nothing to choose from
    task = load_task(tmp_path, allow_leak=True, overrides=overrides)
    example = task.test[0]
    assert (task.prompt(example).query, task.metric, example.target, task.separator) == (query, metric, target, separator)


def test_numbers_of_labels_give_the_order_of_choices(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": i % 2, "label_text": ("no", "affirmative")[i % 2]} for i in range(20)]
    assert load_task(write(tmp_path / "a.jsonl", rows)).choices == ("no", "affirmative")
    plain = [{k: v for k, v in row.items() if k != "label_text"} for row in rows]
    assert load_task(write(tmp_path / "b.jsonl", plain)).choices == ("0", "1")
    named = load_task(tmp_path / "b.jsonl", overrides={"choices": ["no", "affirmative"]})
    assert [e.target for e in named.train] == [e.target for e in load_task(tmp_path / "a.jsonl").train]
    rows[3]["label_text"] = "no"
    with pytest.raises(UserError, match=r"a\.jsonl:4: label_text 'no' has label 1 here and 0 before"):
        load_task(write(tmp_path / "a.jsonl", rows), allow_leak=True)


def test_columns_are_known_whatever_their_case(tmp_path: Path) -> None:
    plain = load_task(write(tmp_path / "plain" / "mine.csv", reviews(60)))
    spelt = [{"Text": row["text"], "LABEL": row["label"], "Id": f"row {i}"} for i, row in enumerate(reviews(60))]
    task = load_task(write(tmp_path / "spelt" / "mine.csv", spelt))
    assert [(task.prompt(e).text(), e.target) for e in task.test] == [(plain.prompt(e).text(), e.target) for e in plain.test]
    (tmp_path / "own.yaml").write_text(
        "data: spelt/mine.csv\ntemplate: '{{ Text }}?'\nfields: {target: LABEL}\nchoices: [good, bad, fair]\n"
    )
    own = load_task(tmp_path / "own.yaml")
    assert own.prompt(own.test[0]).query == f"{own.test[0].fields['Text']}?", "a task file's names are taken as they stand"
    two = [{"text": row["text"], "Label": row["label"], "LABEL": "x"} for row in reviews(60)]
    with pytest.raises(UserError, match="not obvious"):
        load_task(write(tmp_path / "two.csv", two))


def test_unclear_columns_are_listed_with_the_yaml_to_write(tmp_path: Path) -> None:
    rows = [{"id": i, "body": f"b{i}", "klass": "xy"[i % 2]} for i in range(30)]
    write(tmp_path / "rows.csv", rows)
    with pytest.raises(UserError, match=r"the columns are: id, body, klass \(is the first line a header\?\)\.") as caught:
        load_task(tmp_path / "rows.csv")
    shown = str(caught.value).split("task.yaml:\n")[1]
    (tmp_path / "task.yaml").write_text("\n".join(line.removeprefix("    ") for line in shown.splitlines()))
    task = load_task(tmp_path / "task.yaml", overrides={"kind": "choose"})
    assert (task.kind, task.choices, task.prompt(task.train[0]).query) == ("choose", ("x", "y"), f"{task.train[0].fields['body']}\nAnswer:")


@pytest.mark.parametrize(
    ("given", "sizes", "how"),
    [
        ({"train": 20, "dev": 5, "test": 5}, (20, 5, 5, 0), "as given"),
        ({"train": 40, "test": 5}, (34, 6, 5, 0), "dev is 15 % of train"),
        ({"train": 40, "validation": 5}, (34, 6, 5, 0), "no test was given"),
        ({"train": 40}, (24, 8, 8, 0), "60/20/20"),
        ({"train": 40, "ood": 4}, (24, 8, 8, 4), "60/20/20"),
        ({"test": 5}, (0, 0, 5, 0), "test only"),
    ],
)
def test_missing_splits_are_made_and_told(tmp_path: Path, given: dict[str, int], sizes: tuple[int, ...], how: str) -> None:
    start = 0
    for split, n in given.items():
        rows = [{"prompt": f"p{i}", "completion": f"c{i}"} for i in range(start, start + n)]
        write(tmp_path / f"{split}.jsonl", rows)
        start += n
    task = load_task(tmp_path)
    assert tuple(len(task.split(s)) for s in ("train", "dev", "test", "ood")) == sizes
    assert how in task.options["split"]["how"]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=st.lists(st.sampled_from("abcdefg"), min_size=12, max_size=60), seed=st.integers(0, 5), repeats=st.integers(1, 3))
def test_a_split_loses_nothing_and_parts_equal_rows_never(tmp_path: Path, labels: list[str], seed: int, repeats: int) -> None:
    rows = [{"text": f"Text {i // repeats}", "label": label} for i, label in enumerate(labels * 2)]
    task = load_task(write(tmp_path / "a.jsonl", rows), seed=seed, overrides={"choices": list("abcdefg")})
    parts = [set(input_key(e, shown_fields(task)) for e in s) for s in (task.train, task.dev, task.test)]
    assert sum(map(len, (task.train, task.dev, task.test))) == len(rows)
    assert len(set.union(*parts)) == sum(map(len, parts))
    assert all(parts)


def test_a_split_is_the_same_on_every_run_and_differs_by_seed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", reviews(40))
    code = f"from metier.task import load_task; t = load_task({str(path)!r}, seed=3); print([e.id for e in t.test], t.digest())"
    source = str(Path(__file__).resolve().parents[2] / "src")
    told = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": s, "PYTHONPATH": source}, capture_output=True, text=True, check=True
        ).stdout
        for s in ("1", "2")
    }
    assert len(told) == 1
    assert load_task(path, seed=3).test != load_task(path, seed=4).test


def test_importing_the_room_is_light() -> None:
    code = "import sys, metier.task; metier.task.load_task; metier.task.SCORERS; print([m for m in sys.modules if m in " + repr(
        ("torch", "transformers", "datasets", "pandas", "sklearn", "pyarrow", "jinja2", "yaml", "sacrebleu")
    )
    source = str(Path(__file__).resolve().parents[2] / "src")
    ran = subprocess.run([sys.executable, "-c", code + "])"], env={"PYTHONPATH": source}, capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_datasets_are_read_from_disk_with_their_label_names(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    data = datasets.Dataset.from_list([{"text": f"t{i}", "label": i % 2} for i in range(40)], features=features)
    datasets.DatasetDict({"train": data.select(range(30)), "validation": data.select(range(30, 40))}).save_to_disk(str(tmp_path / "set"))
    task = load_task(tmp_path / "set")
    assert (task.choices, len(task.test), task.test[0].target) == (("neg", "pos"), 10, "neg")


def test_a_name_that_is_no_path_is_asked_of_the_hub_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "reviews" / "train.csv", reviews(30))
    with pytest.raises(UserError, match=r"no file or folder is called 'review'\. Did you mean 'reviews'.*Hugging Face hub"):
        load_task("review")
    with pytest.raises(UserError, match=r"owner/thing: cannot be had from the Hugging Face hub"):
        load_task("hf:owner/thing")
    with pytest.raises(UserError, match=r"data/rows\.csv: no such file"):
        load_task("data/rows.csv")


def test_documents_and_contexts_beside_the_rows(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "answer": f"a{i}", "context_id": f"c{i % 3}"} for i in range(30)]
    write(tmp_path / "train.jsonl", rows)
    write(tmp_path / "contexts.jsonl", [{"context_id": f"c{i}", "context": f"context {i}"} for i in range(3)])
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "one.txt").write_text("more")
    task = load_task(tmp_path)
    assert [d.id for d in task.documents] == ["one.txt", "c0", "c1", "c2"]
    example = task.train[0]
    assert task.prompt(example).query.startswith("Context: context ")
    rows[4]["context_id"] = "c9"
    write(tmp_path / "train.jsonl", rows)
    with pytest.raises(UserError, match=r"train\.jsonl:5: context_id is 'c9', which .*contexts\.jsonl does not have"):
        load_task(tmp_path)


def test_documents_from_a_field_leave_the_template(tmp_path: Path) -> None:
    rows = [{"context": f"context {i % 4}", "question": f"q{i}", "answer": "a b"} for i in range(20)]
    task = load_task(write(tmp_path / "a.jsonl", rows), overrides={"documents_from": "context"})
    assert [d.text for d in task.documents] == [f"context {i}" for i in range(4)]
    assert "context" not in task.prompt(task.train[0]).query


def test_ranking_from_corpus_queries_and_judgements(tmp_path: Path) -> None:
    write(tmp_path / "corpus.jsonl", [{"_id": f"d{i}", "title": "", "text": f"document {i}"} for i in range(5)])
    write(tmp_path / "queries.jsonl", [{"_id": f"q{i}", "text": f"query {i}"} for i in range(4)])
    judged = [{"query-id": f"q{i // 2}", "corpus-id": f"d{i}", "score": 1 + i % 2} for i in range(4)]
    write(tmp_path / "test.jsonl", judged)
    task = load_task(tmp_path)
    assert (task.kind, task.metric, len(task.documents)) == ("rank", "ndcg", 5)
    assert [(e.id, e.fields, e.target) for e in task.test] == [
        ("q0", {"query": "query 0"}, {"d0": 1, "d1": 2}),
        ("q1", {"query": "query 1"}, {"d2": 1, "d3": 2}),
    ]
    judged[2]["corpus-id"] = "d77"
    write(tmp_path / "test.jsonl", judged)
    with pytest.raises(UserError, match=r"test\.jsonl:3: corpus-id 'd77' is not in"):
        load_task(tmp_path)


def test_a_finished_task_can_be_restated_but_not_remade(tmp_path: Path) -> None:
    task = load_task(write(tmp_path / "a.csv", reviews(30)))
    assert load_task(task) is task
    assert load_task(task, overrides={"instruction": "Judge."}).instruction == "Judge."
    with pytest.raises(UserError, match="'choices' cannot be changed on a finished task"):
        load_task(task, overrides={"choices": ["a", "b"]})
    with pytest.raises(UserError, match="the metric 'bleu' does not fit the kind 'choose'"):
        load_task(task, overrides={"metric": "bleu"})


def test_worlds_are_loaded_by_name() -> None:
    pytest.importorskip("metier.worlds")
    task = load_task("world:facts")
    assert isinstance(task, Task)
    assert task.train or task.dev
    with pytest.raises(UserError, match="facts"):
        load_task("world:fact")
    with pytest.raises(UserError, match=r"world:intents: is a task, not a world\. Say world:classification/intents\."):
        load_task("world:intents")


def test_a_folder_without_splits_or_with_two_of_one_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "one.csv", reviews(30))
    write(tmp_path / "two.csv", reviews(30))
    with pytest.raises(UserError, match=r"no train, dev or test file here \(one\.csv, two\.csv\)"):
        load_task(tmp_path)
    write(tmp_path / "train.csv", reviews(30))
    write(tmp_path / "train.jsonl", reviews(30))
    with pytest.raises(UserError, match=r"train\.csv and train\.jsonl are both 'train'"):
        load_task(tmp_path)


FAULTS: list[tuple[Rows, str]] = [
    ([{"text": " ", "label": "a"}], r"a\.jsonl:31: text is empty\. Fill it in or remove the row"),
    ([{"text": None, "label": "a"}], r"a\.jsonl:31: text is missing"),
    ([{"text": "x", "label": None}], r"a\.jsonl:31: label is missing"),
    ([{"text": "x", "label": "nan"}], r"a\.jsonl:31: label is NaN"),
    (
        [{"text": "x", "label": ""}, {"text": "y", "label": ""}],
        r"a\.jsonl:31: label is empty.*\(1 more rows have faults, the next on line 32\.\)",
    ),
    ([{"text": 7, "label": "a"}], r"a\.jsonl:31: text is the number 7 here and the text on line 1\. Write all rows alike"),
    ([{"text": "x", "label": 7}], r"a\.jsonl:31: label is the number 7 here and the text on line 1"),
    ([{"text": "x", "label": "new"}], r"row:31: the class 'new' has a single example in train"),
]


@pytest.mark.parametrize(("rows", "message"), FAULTS)
def test_faulty_rows_are_named(tmp_path: Path, rows: Rows, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_task(write(tmp_path / "a.jsonl", reviews(30) + rows))


def test_labels_that_are_fractions_or_nan_are_refused(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": float(i % 2)} for i in range(30)]
    assert load_task(write(tmp_path / "a.jsonl", rows)).choices == ("0", "1")
    rows[4]["label"] = float("nan")
    with pytest.raises(UserError, match=r"a\.jsonl:5: label is NaN"):
        load_task(write(tmp_path / "a.jsonl", rows))
    rows[4]["label"] = 0.5
    with pytest.raises(UserError, match=r"a\.jsonl:5: label is 0\.5, a fraction"):
        load_task(write(tmp_path / "a.jsonl", rows))


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"9 rows are too few to be split"):
        load_task(write(tmp_path / "a.csv", reviews(9)))


def test_rows_bring_their_own_choices_where_fields_say_so(tmp_path: Path) -> None:
    rows = [{"body": f"b{i}", "from": ["x", "y", str(i)], "right": "xy"[i % 2]} for i in range(30)]
    write(tmp_path / "rows.jsonl", rows)
    said = {"fields": {"target": "right", "choices": "from"}, "template": "{{ body }}\nAnswer:", "inputs": [], "stop": []}
    task = load_task(tmp_path / "rows.jsonl", overrides=said)
    assert (task.kind, task.metric, task.choices, task.inputs, task.stop) == ("choose", "accuracy", (), (), ())
    row = task.train[0]
    assert set(row.fields) == {"body"} and row.choices == ("x", "y", row.fields["body"][1:]) and row.target in row.choices
    shown = load_task(tmp_path / "rows.jsonl", overrides={**said, "template": "{{ body }}: {{ choices | join(', ') }}\nAnswer:"})
    assert shown.prompt(shown.train[0]).query == f"{row.fields['body']}: {', '.join(row.choices)}\nAnswer:"
    with pytest.raises(UserError, match=r"inputs names 'bodi', but there is no such column\. Did you mean 'body'"):
        load_task(tmp_path / "rows.jsonl", overrides={**said, "inputs": ["bodi"]})
    with pytest.raises(UserError, match=r"rows\.jsonl:1: choices must be a list of at least two texts; got 'b0'"):
        load_task(tmp_path / "rows.jsonl", overrides={**said, "template": "{{ from }}", "fields": {"target": "right", "choices": "body"}})
