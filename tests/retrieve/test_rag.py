"""RAG: the right passages are read, they fit, and a loaded change shows the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.tiny import tiny_causal, tiny_encoder, tiny_seq2seq, tiny_task

from metier.contract import check_method
from metier.errors import BaseMismatch, UserError
from metier.model import Specialist, load_base
from metier.model import change as changes_on_disk
from metier.model.loading import EMBEDDED
from metier.retrieve.index import fuse, passages, ranking
from metier.retrieve.passages import Passages, query_of
from metier.retrieve.rag import Settings, rag
from metier.task import Document, Example, Prompt, Task
from metier.train import Run
from metier.worlds import world

RETRIEVERS = ("bm25", "dense", "fused")


def made(task: Task, start: Specialist | None = None, run: Run | None = None, **settings: Any) -> Passages:
    return rag(start or Specialist(tiny_causal()), task.sealed(), Settings(**settings), run or Run())


def shown(change: Passages, task: Task, example: Example) -> tuple[str, ...]:
    return change.prompt(task.prompt(example), example, task).passages


def test_the_answer_is_in_the_passage() -> None:
    task = tiny_task("generate")
    change = made(task, passages=1)
    for example in (*task.train, *task.dev):
        (text,) = shown(change, task, example)
        assert f"in {example.answer} " in text
    text = Specialist(tiny_causal(), (change,)).prompt(task, task.dev[0]).text()
    assert text.startswith("Passage: ")
    assert text.endswith(task.prompt(task.dev[0]).query)


def test_order() -> None:
    task = tiny_task("generate")
    last, first = (made(task, passages=3, order=o) for o in ("best-last", "best-first"))
    for example in task.dev:
        assert shown(last, task, example) == shown(first, task, example)[::-1]
        assert example.answer in shown(first, task, example)[0]


def test_no_passage_without_a_shared_word() -> None:
    task = tiny_task("generate")
    odd = Example("odd", {"question": "Xyzzy?"}, "nothing")
    assert shown(made(task, passages=2), task, odd) == ()
    assert len(shown(made(task, passages=2, retriever="dense"), task, odd)) == 2


def test_dense_is_the_argmax_of_cosines() -> None:
    task = tiny_task("generate")
    for start, encoder in ((Specialist(tiny_causal()), ""), (Specialist(tiny_encoder()), tiny_encoder().path)):
        change = made(task, passages=1, retriever="dense", encoder=encoder)
        table = start.embed([p.text for p in change.found])
        for example in task.dev:
            best = int((table @ start.embed([example.fields["question"]])[0]).argmax())
            assert shown(change, task, example) == (change.found[best].text,)


def test_embedded_bases_search_with_the_embedded_encoder(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr("metier.retrieve.rag.load_base", lambda name, **options: asked.append(name) or tiny_encoder())
    tiny, task = load_base("metier-tiny"), tiny_task("generate")
    assert made(task, Specialist(tiny), retriever="dense").encoder.fingerprint == tiny_encoder().fingerprint
    made(task, Specialist(tiny), retriever="fused", encoder="minilm")
    assert made(task, Specialist(tiny_causal()), retriever="dense").encoder.fingerprint == tiny_causal().fingerprint
    made(task, Specialist(tiny))
    assert asked == ["metier-encoder", "minilm"]


@pytest.mark.slow
@pytest.mark.skipif(not (EMBEDDED / "encoder" / "config.json").exists(), reason="metier-encoder is not packaged: metier pretrain encoder")
def test_the_embedded_encoder_finds_the_document_and_is_the_same_when_loaded_again(tmp_path: Path) -> None:
    """Its folder holds all its weights, so that a saved change finds the same encoder."""
    one, two = load_base("metier-encoder"), load_base("metier-encoder")
    assert one.family == "encoder" and one.fingerprint == two.fingerprint
    assert {n for n, _ in one.model.named_parameters()} == set(load_file(EMBEDDED / "encoder" / "model.safetensors"))
    task, tiny = world("facts", size=0.2).task("facts"), Specialist(load_base("metier-tiny"))
    change = made(task, tiny, retriever="dense", passages=1)
    assert change.encoder is not None and change.encoder.name == "metier-encoder"
    rows = [*task.dev, *task.ood]
    right = [change.found[change.best(e.fields["question"])[0]].document == e.fields["document"] for e in rows]
    assert sum(right) >= 0.9 * len(rows) >= 20
    changes_on_disk.save(change, tmp_path / "c", base=tiny.base.fingerprint)
    loaded = changes_on_disk.load(tmp_path / "c", base=tiny.base.fingerprint)
    assert [shown(loaded, task, e) for e in task.dev] == [shown(change, task, e) for e in task.dev]


def test_fused_is_reciprocal_ranks_of_both() -> None:
    task = tiny_task("generate")
    fused, dense = made(task, passages=3, retriever="fused"), made(task, passages=100, retriever="dense")
    lexical = made(task, passages=100)
    for example in task.dev:
        query = example.fields["question"]
        assert fused.best(query) == fuse([lexical.best(query), dense.best(query)])[:3]


def test_what_is_searched_for() -> None:
    prompt = Prompt("rendered")
    assert query_of(prompt, Example("1", {"question": "q?", "query": "no"}, "")) == "q?"
    assert query_of(prompt, Example("1", {"query": "find"}, "")) == "find"
    assert query_of(prompt, Example("1", {"question": " ", "text": "t"}, "")) == "rendered"


def test_ties_go_to_the_first_by_id() -> None:
    documents = tuple(Document(i, "the same words") for i in ("c", "a", "b"))
    change = made(dataclasses.replace(tiny_task("generate"), documents=documents), passages=2)
    assert [change.found[i].document for i in change.best("same")] == ["a", "b"]


@pytest.mark.parametrize("retriever", RETRIEVERS)
def test_saved_and_loaded_it_shows_the_same(retriever: str, tmp_path: Path) -> None:
    task, base = tiny_task("choose"), tiny_causal()
    change = made(task, retriever=retriever, passages=2)
    changes_on_disk.save(change, tmp_path / "c", base=base.fingerprint)
    loaded = changes_on_disk.load(tmp_path / "c", base=base.fingerprint)
    assert isinstance(loaded, Passages)
    assert loaded.base.base is None
    assert loaded.encoder is None or loaded.encoder.base is None  # not loaded before it is needed
    assert [shown(loaded, task, e) for e in task.dev] == [shown(change, task, e) for e in task.dev]
    assert loaded.provenance["fit"] == {"prompts": 6, "without_room_for_all": 0}


def test_other_weights_under_the_encoder_s_name_are_refused() -> None:
    task = tiny_task("generate")
    facts, tensors = made(task, retriever="dense").state()
    facts = {**facts, "encoder": {**facts["encoder"], "name": tiny_causal(seed=3).path}}
    with pytest.raises(BaseMismatch, match="Make it again"):
        shown(Passages.from_state(facts, tensors), task, task.dev[0])


@pytest.mark.parametrize("kind", ["choose", "generate"])
def test_what_does_not_fit_is_left_out_and_said(kind: str) -> None:
    base = tiny_causal(max_length=128)
    task, said = tiny_task(kind), []
    task = dataclasses.replace(task, template=task.template.replace("\n", " of a house\n"))
    change = made(task, Specialist(base), Run(say=said.append), passages=12)
    wide = made(task, passages=12)
    counts = [len(shown(change, task, e)) for e in task.dev]
    assert 0 < max(counts) < 12
    assert "have no room for all their passages" in said[0]
    cut = sum(n < len(shown(wide, task, e)) for n, e in zip(counts, task.dev, strict=True))
    assert change.provenance["fit"] == {"prompts": 6, "without_room_for_all": cut}
    assert cut
    Specialist(base, (change,)).answer(task, [*task.train, *task.dev])  # every prompt fits, or this would raise
    for example in task.dev:  # the best stay
        kept = shown(change, task, example)
        assert kept == shown(wide, task, example)[-len(kept) :]


def test_it_composes_with_few_shot() -> None:
    """Both orders: all parts are in the prompt, and it fits a base that has no room for everything."""
    from metier.prompt import few_shot

    base, task = tiny_causal(max_length=128), tiny_task("generate")
    for order in ("rag first", "few-shot first"):
        start = Specialist(base)
        for name in sorted(("rag", "few-shot"), key=lambda n: not order.startswith(n)):
            if name == "rag":
                start = start.then(made(task, start, passages=2))
            else:
                start = start.then(few_shot.few_shot(start, task.sealed(), few_shot.Settings(shots=4), Run()))
        prompt = start.prompt(task, task.dev[0])
        assert prompt.exemplars
        start.answer(task, [*task.train, *task.dev])


def test_errors() -> None:
    with pytest.raises(UserError, match="has no documents with words in them"):
        made(dataclasses.replace(tiny_task("generate"), documents=(Document("d", " \n "),)))
    with pytest.raises(UserError, match="overlap must be between 0 and 9; got 10"):
        Settings(words=10, overlap=10)
    with pytest.raises(UserError, match="encoder 'minilm' is not used by retriever 'bm25'"):
        Settings(encoder="minilm")


@pytest.mark.parametrize("retriever", RETRIEVERS)
def test_contract(retriever: str) -> None:
    check_method("rag", base=tiny_causal(), task=tiny_task("choose"), settings={"retriever": retriever})
    check_method("rag", base=tiny_seq2seq(), task=tiny_task("generate"), settings={"retriever": retriever, "order": "best-first"})


@pytest.mark.slow
def test_minilm_finds_by_meaning(minilm: Path) -> None:
    """No word is shared: BM25 finds nothing, a sentence encoder finds the sentence."""
    task = tiny_task("generate")
    documents = (Document("1", "The physician examined her patient."), Document("2", "Stock markets fell sharply on Monday."))
    task = dataclasses.replace(task, documents=documents)
    asked = Example("q", {"question": "Did a doctor treat someone?"}, "yes")
    assert shown(made(task, passages=1), task, asked) == ()
    assert shown(made(task, passages=1, retriever="dense", encoder="minilm"), task, asked) == (documents[0].text,)
    assert ranking(made(task, passages=1, retriever="dense", encoder="minilm").vectors @ _minilm(["shares and bonds"])) == [1, 0]


def _minilm(texts: list[str]) -> Any:
    from metier.model import load_base

    return Specialist(load_base("minilm")).embed(texts)[0]


def test_index_is_what_the_settings_say() -> None:
    task = tiny_task("generate")
    change = made(task, words=4, overlap=2)
    assert list(change.found) == passages(task.documents, words=4, overlap=2)
