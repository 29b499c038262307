"""BM25 as a way of ranking, against the formula written out, and in a comparison."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
from tests.tiny import tiny_causal, tiny_encoder, tiny_task

from metier.errors import UserError
from metier.method import find
from metier.model import Base, Specialist
from metier.study import compare
from metier.study.plan import DEFAULT_METHODS, make_plan
from metier.task import Document, Example, Task
from metier.train import Budget, Run

TEXTS = {
    "a": "Ada has a house in Oslo. Oslo is cold.",
    "b": "Ben has a house in Rome.",
    "c": "Nothing here.",
    "d": "ADA, Ada and again Ada!",
    "e": "Ben has a house in Rome.",
}
ASKED = ("house of Ada", "a house in Rome", "Oslo Oslo", "who?", "ben")


def task() -> Task:
    documents = tuple(Document(name, text, title="Note" if name == "c" else "") for name, text in TEXTS.items())
    rows = tuple(Example(str(i), {"query": q}, {"a": 1, "e": 2}) for i, q in enumerate(ASKED))
    return Task(name="notes", kind="rank", template="{{ query }}", metric="ndcg", documents=documents, dev=rows, test=rows)


def literal(query: str, k1: float, b: float) -> list[str]:
    """Ids of the documents whose score is above 0, best first, equal ones in their order."""
    held = [(d.id, re.findall(r"\w+", f"{d.title} {d.text}".lower())) for d in task().documents]
    n, mean = len(held), sum(len(words) for _, words in held) / len(held)
    scores = {}
    for name, words in held:
        scores[name] = 0.0
        for term in re.findall(r"\w+", query.lower()):
            df = sum(term in other for _, other in held)
            tf = words.count(term)
            if tf:
                scores[name] += math.log(1 + (n - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b * len(words) / mean))
    return sorted((name for name, score in scores.items() if score > 0), key=lambda name: -round(scores[name], 5))


@pytest.mark.parametrize("base", [tiny_causal(), tiny_encoder()])
@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.4), (0.0, 0.0), (3.0, 1.0)])
def test_ranks_by_the_formula(base: Base, k1: float, b: float) -> None:
    method = find("bm25")
    change = method.load()[0](Specialist(base), task().sealed(), method.configure({"k1": k1, "b": b}), Run())
    answers = Specialist(base, (change,)).answer(task(), task().test)
    assert [json.loads(a.output) for a in answers] == [literal(q, k1, b) for q in ASKED]
    assert {a.tokens_in for a in answers} == {0}, "the model read nothing"


@pytest.mark.slow
def test_is_compared_with_the_models_own_ranking(tmp_path: Path) -> None:
    found = compare(tiny_task("rank"), tiny_causal(), methods=["bm25"], seeds=1, budget=Budget(16), out=tmp_path, quiet=True)
    rows = {r["method"]: r for r in found.report["tasks"][0]["methods"]}
    assert rows["bm25"]["score"]["value"] == 1.0 > rows["zero-shot"]["score"]["value"], "every query holds its document's name"
    assert len(rows["bm25"]["trials"][0]["search"]) == 4 and rows["bm25"]["cost"]["trainable_parameters"] == 0
    saved = Specialist.load(tmp_path / "trials" / rows["bm25"]["trials"][0]["key"] / "specialist", base=tiny_causal())
    assert saved.changes[0].state()[0] == rows["bm25"]["trials"][0]["settings"]["bm25"]


@pytest.mark.slow
def test_is_among_the_default_methods_where_documents_are_ranked() -> None:
    rest = {"methods": None, "budget": Budget(16), "retain": (), "seeds": (0,), "settings": {}, "precision": "float32"}
    assert make_plan(tiny_causal(), [tiny_task("choose"), task()], **rest).methods == DEFAULT_METHODS
    assert make_plan(tiny_causal(), [tiny_task("choose")], **rest).methods == tuple(m for m in DEFAULT_METHODS if m != "bm25")


def test_refuses() -> None:
    method = find("bm25")
    with pytest.raises(UserError, match="bm25: task notes has no documents"):
        method.load()[0](Specialist(tiny_causal()), dataclasses.replace(task(), documents=()), method.configure(), Run())
    with pytest.raises(UserError, match="b must be .*; got 2"):
        method.configure({"b": "2"})
