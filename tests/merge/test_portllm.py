"""PortLLM: the patch unchanged on another base, what is refused, rows moved by token text, and what is kept of the gain."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.merge.learning import colours, noise, saved, with_head
from tests.merge.models import adapter, checkpoint
from tests.merge.models import noise as smear
from tests.tiny import tiny_causal, tiny_encoder
from tests.tune import tiny

from metier.delta import Checkpoint, Delta, Dense, LowRank, New, Sparse
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
        assert change.delta.provenance["settings"]["tokens"] is False
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


def test_of_which_base_a_patch_is_must_be_known(tmp_path: Path) -> None:
    old, new = tiny_causal(), tiny_causal(seed=1)
    whole, lora = str(checkpoint(old, tmp_path / "whole", smear(1))), adapter(old, tmp_path / "lora")

    def carried(place: object, base: Base, **settings: Any) -> Delta:
        return portllm(Specialist(base), colours(), Settings(experts=(str(place),), **settings), Run()).delta

    with pytest.raises(BaseMismatch, match=r"whole is a full checkpoint; .*--allow-base"):
        carried(whole, new)
    with pytest.raises(UserError, match="not known by a fingerprint. Give the old base itself"):
        carried(whole, new, allow_base=old.fingerprint)
    change = carried(whole, new, allow_base=old.path)[UP].dense()
    torch.testing.assert_close(change, Checkpoint(whole)[UP] - old.model.get_parameter(UP))
    with pytest.raises(BaseMismatch, match="was tuned on the base"):
        carried(lora, new)
    assert len(carried(lora, new, allow_base=old.path)) == len(carried(lora, old))
    config = lora / "adapter_config.json"
    config.write_text(config.read_text().replace(old.path, "nobody/knows"))
    with pytest.raises(BaseMismatch, match=r"was tuned on nobody/knows, which cannot be found here .*--allow-base"):
        carried(lora, new)
    assert len(carried(lora, new, allow_base=old.fingerprint))
    swapped = json.loads((Path(new.path) / "tokenizer.json").read_text())
    swapped["model"]["vocab"] |= {"a": swapped["model"]["vocab"]["b"], "b": swapped["model"]["vocab"]["a"]}
    (lora / "tokenizer.json").write_text(json.dumps(swapped))
    with pytest.raises(UserError, match="another vocabulary than"):
        carried(lora, new, allow_base=old.fingerprint)


@pytest.mark.parametrize("make", [tiny_causal, tiny_encoder])
def test_what_is_kept_is_measured_said_and_stored(tmp_path: Path, make: Callable[..., Base]) -> None:
    old, new, task, said = make(), make(seed=1), colours(), []  # type: ignore[var-annotated]
    patch = with_head(old, noise(old, 1, 0.5), task, 2)
    (place,) = saved(old, tmp_path, [patch])
    change = portllm(Specialist(new), task, Settings(experts=(place,), allow_base=old.path), Run(say=said.append))
    found = change.delta.provenance["portability"]
    assert found["old_patched"] == _accuracy(Specialist(old, (patch,)), task)
    assert found["new_patched"] == _accuracy(Specialist(new, (change,)), task)
    assert found["old"] == _accuracy(Specialist(old), task) and found["new"] == _accuracy(Specialist(new), task)
    assert said == [f"portllm: {Portability(found['old'], found['old_patched'], found['new'], found['new_patched']).text()}"]
    Specialist(new, (change,)).save(tmp_path / "carried")
    assert '"portability"' in next((tmp_path / "carried").rglob("change.json")).read_text()
    for settings in ({"allow_base": old.fingerprint}, {"allow_base": old.path, "measure": False}):
        quiet = portllm(Specialist(new), task, Settings(experts=(place,), **settings), Run(say=said.append))  # type: ignore[arg-type]
        assert len(said) == 1 and "portability" not in quiet.delta.provenance


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
    assert Portability(0.2, 0.2, 0.3, 0.6).facts()["kept"] is None
    old, new, task = tiny_causal(), tiny_causal(seed=1), colours()
    patch = noise(old, 1, 0.5)
    found = portability(patch, old, new, task)
    assert found.old_patched == _accuracy(Specialist(old, (WeightChange(patch),)), task)
    assert found.new == _accuracy(Specialist(new), task)


def _accuracy(specialist: Specialist, task) -> float:
    answers = specialist.answer(task, list(task.dev))
    return sum(a.output == e.target for a, e in zip(answers, task.dev, strict=True)) / len(task.dev)
