"""Task files: every key works, every fault is told at once with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from metier.errors import UserError
from metier.task import load_task

FULL = """\
name: mine
kind: choose
splits: {train: train.csv, test: test.csv}
fields: {target: klass, body: Text Body}
template: "{{ body }} =>"
choices: [no, affirmative]
metric: exact
instruction: Choose.
documents: docs
ood: far.csv
retain: [train.csv, "world:facts"]
separator: "\\n"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, n in (("train", 40), ("test", 6), ("far", 4)):
        rows = "".join(f'"{name} {i}",{i % 2}\n' for i in range(n))
        (tmp_path / f"{name}.csv").write_text("Text Body,klass\n" + rows)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("a document")
    (tmp_path / "schema.sql").write_text("CREATE TABLE t(a);")
    return tmp_path


def test_every_key_is_used(folder: Path) -> None:
    (folder / "task.yaml").write_text(FULL.replace("[no,", '["no",'))
    task = load_task(folder / "task.yaml")
    assert (task.name, task.kind, task.metric, task.choices) == ("mine", "choose", "exact", ("no", "affirmative"))
    assert [len(s) for s in (task.train, task.dev, task.test, task.ood)] == [34, 6, 6, 4]
    assert task.prompt(task.ood[1]).text() == "Choose.\n\nfar 1 =>"
    assert (task.ood[1].target, task.separator, task.documents[0].text) == ("affirmative", "\n", "a document")
    assert task.options["retain"] == [str(folder / "train.csv"), "world:facts"]
    assert load_task(folder).digest() == task.digest(), "a folder with a task.yaml is that task"
    assert load_task(folder, overrides={"name": "other"}).name == "other"


def test_generated_answers_and_a_database(folder: Path) -> None:
    (folder / "sql.yml").write_text(
        "data: train.csv\nfields: {question: Text Body, query: klass}\ndatabase: schema.sql\nmetric: sql\nstop: [';']\nmax_new_tokens: 9\ncutoff: 3\n"
    )
    task = load_task(folder / "sql.yml")
    assert (task.kind, task.metric, task.stop, task.max_new_tokens) == ("generate", "sql", (";",), 9)
    assert (task.options["database"], task.options["cutoff"]) == ("CREATE TABLE t(a);", 3)


def test_all_faults_are_told_at_once_with_their_lines(folder: Path) -> None:
    (folder / "task.yaml").write_text(
        "data: train.csv\nmetrics: exact\nchoices: [yes, no]\n\nmax_new_tokens: '9'\ntemplate: '{{ body'\nkind: chose\n"
    )
    with pytest.raises(UserError) as caught:
        load_task(folder / "task.yaml")
    told = str(caught.value).splitlines()
    assert told[0].endswith("task.yaml: 5 errors.")
    assert told[1].startswith("  line 2: unknown key 'metrics'. Did you mean 'metric'?")
    assert told[2].startswith("  line 3: choices holds True (YAML reads a bare yes or no")
    assert told[3] == "  line 5: max_new_tokens must be a whole number of at least 1; got '9'."
    assert told[4].startswith("  line 6: template is not Jinja2")
    assert told[5].startswith("  line 7: kind 'chose' is unknown. Did you mean 'choose'?")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: train.csv\ndata: test.csv\n", r"task\.yaml:2: the key 'data' was already given on line 1"),
        ("name: x\n", "neither 'data' nor 'splits' is given"),
        ("data: a: b\n", r"task\.yaml:1: not valid YAML"),
        ("- a\n", "a task file is a mapping"),
        ("data: train.csv\nsplits: {train: train.csv}\n", "line 2: give either data or splits"),
        ("splits: {trian: train.csv}\n", "unknown split 'trian'. Did you mean 'train'"),
        ("data: trian.csv\nfields: {target: klass}\n", r"trian\.csv: no such file or folder\. Did you mean 'train\.csv'"),
        ("data: train.csv\nfields: {target: class}\n", "no column 'class' .*Did you mean 'klass'"),
        ("data: train.csv\nfields: {target: klass}\ntemplate: '{{ txt }}'\n", "the template shows 'txt', but there is no such column"),
        ("data: train.csv\nfields: {target: klass}\ntemplate: '{{ target }}'\n", "the template shows 'target', which holds the answer"),
        ("data: train.csv\nfields: {text: Text Body, label: klass}\nmetric: bleu\n", "the metric 'bleu' does not fit the kind 'choose'"),
        ("data: train.csv\nfields: {text: Text Body, label: klass}\nchoices: ['x', 'y', 'z']\n", "has the label '0'|has the label '1'"),
    ],
)  # fmt: skip
def test_faults_are_named(folder: Path, text: str, message: str) -> None:
    (folder / "task.yaml").write_text(text.replace("choices: ['x', 'y', 'z']", "choices: ['x']"))
    with pytest.raises(UserError, match=message):
        load_task(folder / "task.yaml")


def test_a_file_to_rank(folder: Path) -> None:
    (folder / "queries.jsonl").write_text("".join(f'{{"q": "query {i}", "relevant": ["a.txt"]}}\n' for i in range(20)))
    (folder / "rank.yaml").write_text("data: queries.jsonl\nkind: rank\nfields: {query: q, target: relevant}\ndocuments: docs\n")
    task = load_task(folder / "rank.yaml")
    assert (task.kind, task.metric, task.train[0].target) == ("rank", "ndcg", {"a.txt": 1})
