"""PortLLM: the patch unchanged on another base, what is refused, rows moved by token text, and what is kept of the gain."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.merge.learning import colours, noise, saved
from tests.tiny import tiny_causal, tiny_encoder
from tests.tune import tiny

from metier.delta import Delta, Dense, LowRank, New, Sparse
from metier.errors import BaseMismatch, KeyMismatch, ShapeMismatch, UserError
from metier.merge.portllm import Portability, Settings, port, portability, portllm, token_rows
from metier.model import Base, Specialist, WeightChange
from metier.train import Run

UP, EMBED = "model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight"


def low_rank(base: Base, name: str = UP) -> LowRank:
    out, in_ = base.model.get_parameter(name).shape
    generator = torch.Generator().manual_seed(0)
    return LowRank(torch.randn(out, 2, generator=generator), torch.randn(2, in_, generator=generator), 0.5)


def test_a_patch_stays_low_rank_and_gives_new_base_plus_change(tmp_path: Path) -> None:
    old, new = tiny_causal(), tiny_causal(seed=1)
    patch = Delta({UP: low_rank(old)}, old.fingerprint)
    (place,) = saved(old, tmp_path, [patch])
    for allowed in (old.path, old.fingerprint):
        change = portllm(Specialist(new), colours(), Settings(experts=(place,), allow_base=allowed), Run())
        assert isinstance(change.delta[UP], LowRank)
        assert change.delta.base == new.fingerprint
        assert change.delta.provenance["ported"]["tokens"] is False
        with change.attach(new.model):
            got = new.model.get_parameter(UP).detach().clone()
        torch.testing.assert_close(got, new.model.get_parameter(UP) + patch[UP].dense())
    own = portllm(Specialist(old), colours(), Settings(experts=(place,)), Run())
    assert torch.equal(own.delta[UP].dense(), patch[UP].dense())


def test_another_base_is_refused_unless_named(tmp_path: Path) -> None:
    old, new = tiny_causal(), tiny_causal(seed=1)
    (place,) = saved(old, tmp_path, [noise(old, 1)])
    for allowed in ("", new.path, "0" * 64):
        with pytest.raises(BaseMismatch, match="made from base"):
            portllm(Specialist(new), colours(), Settings(experts=(place,), allow_base=allowed), Run())
    with pytest.raises(UserError, match="exactly one patch is carried; got 2"):
        Settings(experts=("a", "b"))
    with pytest.raises(UserError, match="old tokens are not known by a fingerprint"):
        portllm(Specialist(new), colours(), Settings(experts=(place,), allow_base=old.fingerprint, remap="tokens"), Run())


def vocabularies(place: Path) -> tuple[Base, Base]:
    """A base, and one whose tokens are the same letters in another order with two more."""
    old = tiny.stored(place / "old", tiny.llama(tied=True), tiny.tokenizer())
    words = tiny.tokenizer(("<x>", "<y>"))
    return old, tiny.stored(place / "new", tiny.llama(seed=1, vocabulary=261, tied=True), words)


@pytest.mark.parametrize("kind", ["dense", "sparse", "low-rank"])
def test_rows_go_to_the_tokens_of_the_same_text(tmp_path: Path, kind: str) -> None:
    old, new = vocabularies(tmp_path)
    value = torch.randn(259, 32, generator=torch.Generator().manual_seed(3))
    entry = {"dense": Dense(value), "sparse": Sparse.of(value * (value > 1.5)), "low-rank": low_rank(old, EMBED)}[kind]
    (place,) = saved(old, tmp_path, [Delta({EMBED: entry, UP: low_rank(old)}, old.fingerprint)])
    with pytest.raises(UserError, match=r"vocabularies of the old base \(259 tokens\) and of this one \(261\) differ; .*remap=tokens"):
        portllm(Specialist(new), colours(), Settings(experts=(place,), allow_base=old.path), Run())
    change = portllm(Specialist(new), colours(), Settings(experts=(place,), allow_base=old.path, remap="tokens"), Run())
    found, before, after = change.delta[EMBED], old.tokenizer.get_vocab(), new.tokenizer.get_vocab()
    assert type(found) is type(entry)
    assert tuple(found.shape) == (261, 32)
    for text, i in after.items():  # one row after another, as written in the docstring
        wanted = entry.dense()[before[text]] if text in before else torch.zeros(32)
        torch.testing.assert_close(found.dense()[i], wanted)
    assert torch.equal(change.delta[UP].dense(), low_rank(old).dense())


def test_token_rows() -> None:
    class Words:
        def __init__(self, *texts: str) -> None:
            self.texts = texts

        def get_vocab(self) -> dict[str, int]:
            return {t: i for i, t in enumerate(self.texts)}

    assert token_rows(Words("a", "b"), Words("a", "b"), "no") is None
    assert token_rows(Words("a", "b"), Words("c", "b", "a"), "tokens").tolist() == [-1, 1, 0]


def test_what_does_not_fit_is_named() -> None:
    base = tiny_causal()
    with pytest.raises(KeyMismatch, match="has no tensor 'nowhere'"):
        port(Delta({"nowhere": Dense(torch.ones(2))}), base)
    with pytest.raises(ShapeMismatch, match="no version of the patch's base"):
        port(Delta({UP: Dense(torch.ones(2, 2))}), base)
    with pytest.raises(ShapeMismatch, match="re-mapped with remap=tokens"):
        port(Delta({EMBED: Dense(torch.ones(2, 32))}), base)
    head = Delta({"metier.head.weight": New(torch.ones(2, 32))})
    assert isinstance(port(head, tiny_encoder())["metier.head.weight"], New)


def test_portability_is_the_share_of_the_gain() -> None:
    assert Portability(0.2, 0.8, 0.3, 0.6).kept == pytest.approx(0.5)
    assert math.isnan(Portability(0.2, 0.2, 0.3, 0.6).kept)
    old, new, task = tiny_causal(), tiny_causal(seed=1), colours()
    patch = noise(old, 1, 0.5)
    found = portability(patch, old, new, task)
    assert found.old_patched == _accuracy(Specialist(old, (WeightChange(patch),)), task)
    assert found.new == _accuracy(Specialist(new), task)


def _accuracy(specialist: Specialist, task) -> float:
    answers = specialist.answer(task, list(task.dev))
    return sum(a.output == e.target for a, e in zip(answers, task.dev, strict=True)) / len(task.dev)
