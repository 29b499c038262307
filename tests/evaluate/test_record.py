from __future__ import annotations

import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metier.errors import UserError
from metier.evaluate.record import Record, align, read_records, write_records

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NUMBER = st.floats(allow_nan=False)
TARGET = st.one_of(TEXT, st.none(), st.integers(), NUMBER, st.lists(TEXT, max_size=3), st.dictionaries(TEXT, st.integers(), max_size=3))


@st.composite
def records(draw: st.DrawFn) -> Record:
    choices = draw(st.none() | st.lists(TEXT, min_size=1, max_size=4))
    logprobs = draw(st.none() | st.lists(NUMBER, min_size=len(choices), max_size=len(choices))) if choices else None
    fraction = st.floats(0, 1)
    return Record(
        example=draw(TEXT), digest=draw(TEXT), task=draw(TEXT), split=draw(st.sampled_from(["test", "ood", "dev", "retain"])), output=draw(TEXT),
        target=draw(TARGET), score=draw(fraction), choices=choices, logprobs=logprobs, confidence=draw(st.none() | fraction),
        tokens_in=draw(st.integers(0, 2**40)), tokens_out=draw(st.integers(0, 2**40)), seconds=draw(st.floats(0, 1e9)),
        stats=draw(st.none() | st.lists(NUMBER, max_size=4)), prompt_tail=draw(TEXT),
    )  # fmt: skip


def record(**changes: object) -> Record:
    return Record(**({"example": "a", "digest": "0", "task": "t", "split": "test", "output": "x", "target": "x", "score": 1.0} | changes))  # type: ignore[arg-type]


@given(st.lists(records(), max_size=4))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_round_trip_is_exact(tmp_path: Path, rows: list[Record]) -> None:
    write_records(tmp_path / "r.parquet", rows)
    assert read_records(tmp_path / "r.parquet") == rows
    assert os.listdir(tmp_path) == ["r.parquet"], "no temporary file is left"


def test_minus_infinity_and_tuples(tmp_path: Path) -> None:
    row = record(choices=("a", "b"), logprobs=(0.0, float("-inf")), target=("x", "y"), output="ünïcode \U0001f600")
    write_records(tmp_path / "r.parquet", [row])
    assert read_records(tmp_path / "r.parquet") == [row]
    assert row.target == ["x", "y"]
    assert row.choices == ["a", "b"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": 1.2}, "score must be in"),
        ({"confidence": -0.1}, "confidence must be in"),
        ({"logprobs": [0.0]}, "1 log-prob"),
        ({"split": "tset"}, "Did you mean 'test'"),
    ],
)
def test_refuses_nonsense(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        record(**changes)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    write_records(path, [record()])
    with pytest.raises(ValueError, match="surrogate"):
        write_records(path, [record(output="\ud800")])
    assert read_records(path) == [record()]


def test_reading_what_is_not_ours(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such records file"):
        read_records(tmp_path / "none.parquet")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        read_records(tmp_path / "cut.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match="not a file of metier's records"):
        read_records(tmp_path / "other.parquet")
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({"metier.records": "99"}), tmp_path / "new.parquet")
    with pytest.raises(UserError, match="version 99"):
        read_records(tmp_path / "new.parquet")


def test_align_names_what_does_not_pair_up() -> None:
    a, b, c = (record(example=name) for name in "abc")
    assert align([a, b], [b, a]) == [(a, a), (b, b)]
    with pytest.raises(ValueError, match=r"1 only in the first: a; 1 only in the second: c"):
        align([a, b], [b, c])
    with pytest.raises(ValueError, match="must be unique; 1 occur more than once: a"):
        align([a, a], [a])


def test_needs_no_torch() -> None:
    import subprocess

    code = "import sys, metier.evaluate.record, metier.evaluate.metrics, metier.evaluate.stats; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=False).returncode
        == 0
    )
