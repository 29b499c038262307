"""Reading files: what comes in comes out, and every fault names file and line."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metier.errors import UserError
from metier.task.documents import load_documents
from metier.task.read import read_table, read_text

TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0\r"), max_size=20)
ROWS = st.lists(st.fixed_dictionaries({"text": TEXT.filter(str.strip), "label": TEXT.filter(str.strip)}), min_size=1, max_size=6)
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(rows=ROWS)
def test_every_format_gives_the_rows_back(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    import pyarrow
    import pyarrow.parquet

    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8", newline="")
    with gzip.open(tmp_path / "a.jsonl.gz", "wt", encoding="utf-8", newline="") as stream:
        stream.write(lines)
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, ["text", "label"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "a.tsv", "a.parquet"):
        assert read_table(tmp_path / name).rows == rows, name


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n' * 4710 + b'{"a": 1,, "b"}\n', r"a\.jsonl:4711: not valid JSON .*'\{\"a\": 1,, \"b\"\}'"),
        ("a.jsonl", b"[1, 2]\n", r"a\.jsonl:1: a JSON list where an object was expected"),
        ("a.jsonl", b'{"a": 1}\n{"a": "caf\xe9"}\n', r"a\.jsonl:2: byte 0xe9 at position 11 of the line is not UTF-8"),
        ("a.jsonl", b"", r"a\.jsonl: the file is empty"),
        ("a.jsonl", b"\n\n", r"a\.jsonl: no rows"),
        ("a.json", b'[{"a": 1},\n {"a": }]', r"a\.json:2: not valid JSON"),
        ("a.json", b'"text"', r"must hold a list of objects"),
        ("a.csv", b"text,label\nfine,x\nwhat, indeed,y\n", r"a\.csv:3: 3 cells where the header has 2 \(text, label\): 'what, indeed,y'"),
        ("a.csv", b'text,label\n"two\nlines",x\nshort\n', r"a\.csv:4: 1 cell "),
        ("a.csv", b"text,text\na,b\n", r"a\.csv:1: the header has a repeated column name 'text'"),
        ("a.csv", b"t\0e\0", r"NUL byte"),
        ("a.csv", b'text,label\n"open,x\n', r"a\.csv:2: not valid CSV"),
        ("a.parquet", b"PAR1 no", r"not a readable Parquet file"),
        ("a.jsonl.gz", b"no gzip", r"gzip data end early or are broken"),
        ("a.xlsx", b"x", r"unknown format '\.xlsx'.*\.jsonl"),
    ],
)
def test_faults_name_the_place(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_table(tmp_path / name)


def test_a_missing_file_is_answered_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text("text,label\n")
    with pytest.raises(UserError, match=r"no such file or folder\. Did you mean 'reviews\.csv'"):
        read_table(tmp_path / "review.csv")


def test_truncated_gzip_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"a": 1}\n' * 10_000)
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="end early or are broken"):
        read_table(tmp_path / "a.jsonl.gz")


def test_byte_order_marks_and_semicolons_are_understood(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbftext;label\nhello, you;x\n")
    assert read_table(tmp_path / "a.csv").rows == [{"text": "hello, you", "label": "x"}]
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert read_text(tmp_path / "a.txt") == "hello"


def test_lines_of_a_csv_count_the_lines_within_quotes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,label\n"one\ntwo",x\n\nthree,y\n')
    assert read_table(tmp_path / "a.csv").lines == [2, 5]


def test_documents_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.md").write_text("# Title\ntext")
    (tmp_path / "a.html").write_text("<title>Home</title><style>p{}</style><p>One &amp; two</p><script>x()</script><p>three</p>")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    found = load_documents(tmp_path)
    assert [(d.id, d.title, d.text) for d in found] == [("a.html", "Home", "One & two\nthree"), ("sub/b.md", "b", "# Title\ntext")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "text": "x"}, {"id": "a", "text": "y"}], "the document id 'a' occurs twice"),
        ([{"id": "a", "text": " "}], r"documents\.jsonl:1: the document's text is ' '"),
        ([{"id": "a", "words": "x"}], "no text column among id, words"),
    ],
)
def test_faulty_documents_are_named(tmp_path: Path, rows: list[dict[str, str]], message: str) -> None:
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(UserError, match=message):
        load_documents(tmp_path / "documents.jsonl")
