"""A world on disk: it loads back as it was, it is written in little memory, and whole or not at all."""

import dataclasses
import itertools
import json
import struct
import tracemalloc
import wave
import zlib

import numpy as np
import pytest

from metier import load_task
from metier.errors import UserError
from metier.task import Document, Example, Task
from metier.worlds import WORLDS, world
from metier.worlds.base import Sheet, World
from metier.worlds.media import write_array
from metier.worlds.write import amount, write_world

pytestmark = pytest.mark.slow  # a world changes rarely; whoever changes it runs its own file


class Plain(World):
    """A world of sums, as long as one likes."""

    docs = "sums"
    fails_at = None

    def shown(self):
        return {"kind": "generate", "template": "{{ sum }}\nAnswer:", "metric": "number"}

    def corpus(self, era=0):
        return (f"document {i} of era {era}" for i in itertools.count())

    def sheets(self):
        def rows(split):
            for i in itertools.count():
                if (split, i) == self.fails_at:
                    raise RuntimeError("the generator burst")
                yield self.row(split, i)

        return {"sums": Sheet(Task(name="sums", **self.shown()), {"train": 100, "dev": 20, "test": 20}, rows)}

    def row(self, split, i):
        start = {"train": 0, "dev": 10**6, "test": 10**7}[split]
        return Example(f"{split}-{i}", {"sum": f"{start + i} + 1", "level": i % 3}, str(start + i + 1))

    def truth(self):
        return {"rule": "add"}

    def tools(self):
        return [{"name": "add"}]


PARTS = [field.name for field in dataclasses.fields(Task) if field.name not in ("train", "dev", "test", "ood", "source", "options")]


def as_json(value):
    """What JSON makes of a value: lists of tuples, for one."""
    return json.loads(json.dumps(value))


def rows_of(task, files=()):
    """Every row with all that it holds, less the fields that were written as files."""
    return [
        (split, row.id, {k: as_json(v) for k, v in row.fields.items() if k not in files}, row.target, row.choices)
        for split in ("train", "dev", "test", "ood")
        for row in task.split(split)
    ]


def same(back, task):
    """The loaded task says what the written one said; to the options a loader adds notes of its own."""
    files = {name for row in task.test for name, value in row.fields.items() if isinstance(value, np.ndarray)}
    assert {part: getattr(back, part) for part in PARTS} == {part: getattr(task, part) for part in PARTS}
    assert {name: back.options[name] for name in task.options} == task.options
    assert set(back.options) - set(task.options) <= {"split", "choices", "warnings"}
    assert rows_of(back, files) == rows_of(task, files)
    assert [back.prompt(row).text() for row in back.test] == [task.prompt(row).text() for row in task.test]


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "code")) for name in WORLDS])
def test_written_tasks_load_back(name, tmp_path):
    made = world(name, seed=1, size=0.05)
    write_world(made, tmp_path / "out", corpus=3)
    for key, task in made.tasks().items():
        same(load_task(tmp_path / "out" / key), task)
    assert json.loads((tmp_path / "out" / "truth.json").read_text()) == as_json(made.truth())
    texts = [json.loads(line)["text"] for line in (tmp_path / "out" / "corpus.jsonl").read_text().splitlines()]
    assert texts == list(itertools.islice(made.corpus(), 3))


@pytest.mark.parametrize(
    "said",
    [
        {"stop": (), "separator": "", "instruction": "Add.", "max_new_tokens": 7},
        {"stop": ("\n\n", "###"), "inputs": ("sum",)},
        {"options": {"retain": ["world:instructions/first"], "database": "create table t (x);"}},
        {"kind": "choose", "metric": "accuracy", "choices": tuple(str(n) for n in range(1, 200)), "inputs": ("sum",)},
        {"kind": "choose", "metric": "accuracy", "choices": tuple(str(n) for n in range(1, 200))},
    ],
)
def test_whatever_a_task_says_loads_back(said, tmp_path):
    class Saying(Plain):
        def shown(self):
            return super().shown() | said

        def row(self, split, i):
            plain = super().row(split, i)
            return plain if "choices" not in said else Example(plain.id, plain.fields, said["choices"][i % 199])

    write_world(Saying(), tmp_path / "out")
    same(load_task(tmp_path / "out" / "sums"), Saying().task("sums"))


def test_documents_and_a_cutoff_load_back(tmp_path):
    class Ranking(Plain):
        def shown(self):
            pages = (Document("a", "one", "A", {"year": 7, "by": "x"}), Document("b", "two"))
            return {"kind": "rank", "template": "{{ sum }}", "metric": "ndcg", "documents": pages, "options": {"cutoff": 3}}

        def row(self, split, i):
            plain = super().row(split, i)
            return Example(plain.id, plain.fields, {"b": 1, "a": i % 2})

    write_world(Ranking(size=0.1), tmp_path / "out")
    same(load_task(tmp_path / "out" / "sums"), Ranking(size=0.1).task("sums"))


def fails(tmp_path, match, shown=None, row=None):
    """Writing a task that cannot be loaded back is refused, and nothing is left."""

    class Odd(Plain):
        def shown(self):
            return super().shown() | (shown or {})

        def row(self, split, i):
            return row(i) if row else super().row(split, i)

    with pytest.raises(ValueError, match=match):
        write_world(Odd(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_a_task_file_cannot_say_is_refused(tmp_path):
    def mixed(i):
        return Example(f"{i}", {"sum": "1 + 1"}, "2", ("2", "3") if i else None)

    fails(tmp_path, "the option 'seconds' cannot be written", shown={"options": {"seconds": 3}})
    fails(tmp_path, "either every row brings choices of its own, or none does", row=mixed)
    own = {"kind": "choose", "metric": "accuracy", "choices": ("2", "4")}
    fails(tmp_path, "either the task has choices, or its rows have", shown=own, row=lambda i: mixed(1))
    fails(tmp_path, "document a: the field 'id' cannot be written", shown={"documents": (Document("a", "one", "", {"id": "b"}),)})
    fails(
        tmp_path, "the field 'target' cannot be written", row=lambda i: Example(f"{i}", {"sum": "1 + 1", "target": "something else"}, "2")
    )


def test_all_that_is_there(tmp_path):
    write_world(Plain(size=0.1), tmp_path / "out", corpus=2)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["corpus.jsonl", "sums", "tools.json", "truth.json"]
    assert sorted(p.name for p in (tmp_path / "out" / "sums").iterdir()) == ["dev.jsonl", "task.yaml", "test.jsonl", "train.jsonl"]
    assert json.loads((tmp_path / "out" / "tools.json").read_text()) == [{"name": "add"}]


def test_progress_counts_every_row(tmp_path):
    seen = []
    made = Plain(size=0.1)
    write_world(made, tmp_path / "out", corpus=5, advance=lambda n, what: seen.append((n, what)))
    assert sum(n for n, _ in seen) == amount(made, 5) == 19
    assert seen[0][1] == "sums, train" and seen[-1][1] == "corpus"


def peak(size, out):
    tracemalloc.start()
    write_world(Plain(size=size), out, corpus=int(100 * size))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


@pytest.mark.slow
def test_memory_does_not_grow_with_the_size(tmp_path):
    peak(1, tmp_path / "warm")
    small, large = peak(1, tmp_path / "small"), peak(100, tmp_path / "large")
    assert (tmp_path / "large" / "sums" / "train.jsonl").stat().st_size > 400_000
    assert large - small < 100_000


def test_whole_or_not_at_all(tmp_path):
    made = Plain()
    made.fails_at = ("dev", 7)
    with pytest.raises(RuntimeError, match="burst"):
        write_world(made, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something already"):
        write_world(Plain(), tmp_path)
    with pytest.raises(UserError, match="holds something already"):
        write_world(Plain(), tmp_path / "mine.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    write_world(Plain(size=0.1), tmp_path / "out")
    assert (tmp_path / "out" / "truth.json").exists()


def test_a_row_brings_its_own_choices_whatever_its_fields_are_called(tmp_path):
    class Choosing(Plain):
        def shown(self):
            return {"kind": "choose", "template": "{{ sum }}\nAnswer:", "metric": "accuracy", "separator": "\n"}

        def row(self, split, i):
            plain = super().row(split, i)
            return Example(plain.id, plain.fields, plain.target, (plain.target, f"{i}", "no idea"))

    write_world(Choosing(size=0.1), tmp_path / "out")
    same(load_task(tmp_path / "out" / "sums"), Choosing(size=0.1).task("sums"))


def read_png(path):
    """The pixels of a PNG as this project writes it, by the format's specification."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    at, parts = 8, {}
    while at < len(content):
        (length,), kind = struct.unpack(">I", content[at : at + 4]), content[at + 4 : at + 8]
        data = content[at + 8 : at + 8 + length]
        assert struct.unpack(">I", content[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + data)
        parts[kind] = data
        at += 12 + length
    width, height, depth, colour = struct.unpack(">IIBB", parts[b"IHDR"][:10])
    assert (depth, colour) == (8, 2)
    lines = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(height, width, 3)


def read_wav(path):
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2"), file.getframerate()


def test_pictures_and_sounds_are_written_without_loss(tmp_path):
    made = world("signals", size=0.02)
    write_world(made, tmp_path / "out")
    for key in ("image-box", "sound-count", "digits"):
        task, back = made.task(key), load_task(tmp_path / "out" / key)
        for mine, gold in zip(back.test, task.test, strict=True):
            if "sound" in gold.fields:
                samples, rate = read_wav(tmp_path / "out" / key / mine.fields["sound"])
                assert rate == gold.fields["rate"]
                np.testing.assert_array_equal(samples / 32768, gold.fields["sound"])
            else:
                np.testing.assert_array_equal(read_png(tmp_path / "out" / key / mine.fields["image"]), gold.fields["image"])


@pytest.mark.parametrize("array", [np.zeros((4, 4), np.uint8), np.zeros(5), np.zeros((2, 2, 3)), np.zeros(5, np.float32)])
def test_an_array_without_a_format_is_refused(array, tmp_path):
    with pytest.raises(TypeError, match="no file format"):
        write_array(tmp_path / "image" / "a", array, {"text": "no rate here"})
