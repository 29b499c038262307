"""Changes: attached they hold, afterwards the base is as it was to the bit; saved and loaded they are the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tests.model.architectures import base
from tests.tiny import tiny_causal, tiny_encoder, tiny_task

from metier.delta import Checkpoint, Delta, Dense, LowRank, New, Sparse
from metier.errors import BaseMismatch, KeyMismatch, ShapeMismatch, UserError
from metier.model import InputChange, Specialist, WeightChange, load_base
from metier.model.change import load, save
from metier.model.encoder import HEAD
from metier.task import Prompt

UP = "model.layers.0.mlp.up_proj.weight"


def weight(name: str, value: float = 0.5, kind: str = "dense", of: str = "llama") -> WeightChange:
    shape = dict(base(of).model.named_parameters(remove_duplicate=False))[name].shape
    full = torch.full(shape, value)
    entry = {"dense": Dense(full), "sparse": Sparse.of(full), "lowrank": LowRank(full[:, :1], torch.ones(1, shape[1]))}[kind]
    return WeightChange(Delta({name: entry}, base(of).fingerprint))


def state(model: Any) -> dict[str, tuple[int, int, torch.Tensor]]:
    return {n: (id(p), p.data_ptr(), p.detach().clone()) for n, p in model.named_parameters(remove_duplicate=False)}


def same(model: Any, before: dict[str, Any]) -> bool:
    now = state(model)
    return now.keys() == before.keys() and all(
        a[:2] == b[:2] and torch.equal(a[2], b[2]) for a, b in zip(now.values(), before.values(), strict=True)
    )


@pytest.mark.parametrize("kind", ["dense", "sparse", "lowrank"])
def test_attached_and_taken_away(kind: str) -> None:
    model, change = base("llama").model, weight(UP, kind=kind)
    before = state(model)
    with change.attach(model):
        torch.testing.assert_close(dict(model.named_parameters())[UP], before[UP][2] + 0.5)
    assert same(model, before)
    with pytest.raises(RuntimeError, match="inside"), change.attach(model):
        raise RuntimeError("inside")
    assert same(model, before)


@pytest.mark.parametrize(
    ("entries", "error"),
    [({UP: Dense(torch.ones(64, 32)), "model.nowhere": Dense(torch.ones(1))}, KeyMismatch),
     ({UP: Dense(torch.ones(64, 32)), "lm_head.weight": Dense(torch.ones(2))}, ShapeMismatch)],
)  # fmt: skip
def test_what_does_not_fit_leaves_nothing_behind(entries: dict[str, Any], error: type[Exception]) -> None:
    model = base("llama").model
    before = state(model)
    with pytest.raises(error, match="another"), WeightChange(Delta(entries)).attach(model):
        pass
    assert same(model, before)


def test_a_tied_output_layer_is_untied_for_the_while() -> None:
    model = base("tied").model
    before = state(model)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    change = weight("lm_head.weight", of="tied")
    with change.attach(model), change.attach(model):
        torch.testing.assert_close(model.lm_head.weight, before["lm_head.weight"][2] + 1.0)
        assert torch.equal(model.model.embed_tokens.weight, before["lm_head.weight"][2])
    assert same(model, before)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    with weight("model.embed_tokens.weight", of="tied").attach(model):
        torch.testing.assert_close(model.lm_head.weight, before["lm_head.weight"][2] + 0.5)
    assert same(model, before)


def test_changes_compose_in_order() -> None:
    one, two = weight(UP, 0.5), weight(UP, 0.25, "lowrank")
    model = base("llama").model
    before = state(model)
    specialist = Specialist(base("llama")).then(one).then(two)
    with specialist.attached():
        torch.testing.assert_close(dict(model.named_parameters())[UP], before[UP][2] + 0.75)
    assert same(model, before)
    scores = specialist.score([Prompt("abc")], [["x", "y"]])[0]
    added = Specialist(base("llama"), (WeightChange(one.delta + two.delta),)).score([Prompt("abc")], [["x", "y"]])[0]
    torch.testing.assert_close(scores, added, rtol=1e-4, atol=1e-4)


def test_prompts_compose_in_order() -> None:
    class Adds(InputChange):
        provenance: ClassVar[dict[str, Any]] = {}

        def __init__(self, text: str) -> None:
            self.text = text

        def prompt(self, prompt: Prompt, example: Any, task: Any) -> Prompt:
            return prompt.with_(instruction=prompt.instruction + self.text)

        def state(self) -> Any:
            return {}, {}

        @classmethod
        def from_state(cls, facts: Any, tensors: Any) -> Any:
            return cls("")

    task = tiny_task("choose")
    assert Specialist(base("llama"), (Adds(" A"), Adds(" B"))).prompt(task, task.train[0]).instruction.endswith(" A B")


# --- on disk -------------------------------------------------------------------------------------------------------------
def test_saved_and_loaded(tmp_path: Path) -> None:
    place = tmp_path / "Änderung 変更"
    change = WeightChange(
        Delta({UP: LowRank(torch.ones(64, 1), torch.ones(1, 32), 0.5), HEAD[0]: New(torch.ones(2, 3))}, "f"), ("a", "ö"), {"seed": 3}
    )
    save(change, place, base="f")
    save(change, place, base="f")
    found = load(place, base="f")
    assert isinstance(found, WeightChange)
    assert (found.labels, found.provenance, found.delta.base) == (("a", "ö"), {"seed": 3}, "f")
    assert torch.equal(found.delta[UP].dense(), change.delta[UP].dense())
    assert sorted(p.name for p in place.iterdir()) == ["change.json", "change.safetensors"]
    with pytest.raises(BaseMismatch, match="made from base f, not g"):
        load(place, base="g")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(weight(UP), tmp_path / "change", base="f")
    return tmp_path / "change"


def edit(place: Path, **changes: Any) -> None:
    card = json.loads((place / "change.json").read_text())
    (place / "change.json").write_text(json.dumps({k: v for k, v in (card | changes).items() if v is not None}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "os:system"}, "is not a change"), ({"type": "antigravity:fly"}, "not of an installed metier package"),
        ({"type": "metier.model.change:Nothing"}, "unknown type"),
        ({"type": "metier.nowhere:X"}, "unknown type"), ({"type": "metier.model.base:Base"}, "is not a change"), ({"type": 5}, "not of an installed"),
        ({"type": "metier.model.change:json.loads"}, "is not a change"), ({"type": "metierish.x:Y"}, "not of an installed"),
        ({"format": 99}, "this version reads 1"), ({"state": None}, r"lacks \['state'\]"), ({"state": {}}, "state does not fit"),
        ({"state": []}, "state does not fit"), ({"state": {"delta": [], "labels": []}}, "state does not fit"),
        ({"state": {"delta": {"entries": {}, "base": "", "provenance": {}}, "labels": []}}, "the tensor file holds 1 tensors"),
        ({"state": {"delta": {"entries": {UP: {"kind": "dense", "shape": [1]}}, "base": "", "provenance": {}}, "labels": []}}, "its header says"),
    ],
)  # fmt: skip
def test_damaged_cards_are_refused(saved: Path, changes: dict[str, Any], message: str) -> None:
    edit(saved, **changes)
    with pytest.raises(UserError, match=message) as caught:
        load(saved, base="f")
    assert str(saved) in str(caught.value)


def test_no_foreign_code_is_loaded(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "foreign_change.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    edit(saved, type="foreign_change:Change")
    with pytest.raises(UserError, match="code is only loaded from those"):
        load(saved)
    assert "foreign_change" not in sys.modules


@pytest.mark.parametrize("name", ["change.json", "change.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", None])
def test_damaged_files_are_refused(saved: Path, name: str, content: bytes | None) -> None:
    if content is None:
        (saved / name).unlink()
    else:
        (saved / name).write_bytes(content)
    with pytest.raises(UserError, match="not a saved change|damaged"):
        load(saved)


def test_truncated_tensors_are_refused(saved: Path) -> None:
    file = saved / "change.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match="not a saved change"):
        load(saved)


# --- specialists ---------------------------------------------------------------------------------------------------------
def test_a_specialist_comes_back(tmp_path: Path) -> None:
    task = tiny_task("choose")
    for made in (tiny_causal(), tiny_encoder()):
        name = next(n for n, p in made.model.named_parameters() if p.ndim == 2)
        shape = made.model.get_parameter(name).shape
        change = WeightChange(Delta({name: Dense(0.5 * torch.randn(shape))}, made.fingerprint))
        before = Specialist(made, (change,))
        before.save(tmp_path / "x")
        after = Specialist.load(tmp_path / "x")
        for a, b in zip(before.answer(task, task.test), after.answer(task, task.test), strict=True):
            assert (a.output, a.logprobs) == (b.output, b.logprobs)


def test_a_specialist_in_bf16_comes_back(tmp_path: Path) -> None:
    made = load_base(tiny_causal().name, dtype="bfloat16", device="cpu", truncate=True)
    Specialist(made).save(tmp_path / "x")
    found = Specialist.load(tmp_path / "x").base
    assert (found.dtype, found.truncate, found.fingerprint) == ("bfloat16", True, made.fingerprint)


def test_a_specialist_refuses_another_base(tmp_path: Path) -> None:
    Specialist(tiny_causal()).save(tmp_path / "x")
    with pytest.raises(BaseMismatch, match="made from base"):
        Specialist.load(tmp_path / "x", base=tiny_causal(seed=1))
    with pytest.raises(UserError, match="not a saved specialist"):
        Specialist.load(tmp_path / "y")
    (tmp_path / "x" / "specialist.json").write_text('{"base": 5}')
    with pytest.raises(UserError, match="not a saved specialist"):
        Specialist.load(tmp_path / "x")


def test_what_a_family_cannot_do_is_said() -> None:
    class Soft(InputChange):
        provenance: ClassVar[dict[str, Any]] = {}

        def prefix(self) -> torch.Tensor:
            return torch.ones(2, 32)

        def state(self) -> Any:
            return {}, {}

        @classmethod
        def from_state(cls, facts: Any, tensors: Any) -> Any:
            return cls()

    task = tiny_task("choose")
    for name in ("t5", "bert"):
        with pytest.raises(UserError, match="soft prompts"):
            Specialist(base(name), (Soft(),)).answer(task, task.test)
    for ask in (lambda s: s.generate([Prompt("a")], max_new_tokens=1), lambda s: s.score([Prompt("a")], [["b"]])):
        with pytest.raises(UserError, match="is an encoder"):
            ask(Specialist(base("bert")))


def test_base_plus_delta_is_a_specialist() -> None:
    made = base("llama")
    change = weight(UP)
    before, found = state(made.model), made + change.delta
    with found.attached() as model:
        assert torch.equal(model.get_parameter(UP), before[UP][2] + 0.5)
    assert same(made.model, before)
    plain = load_base("metier-tiny", device="cpu")  # float32, its files bfloat16
    assert (plain + Delta({}, Checkpoint(plain.path).fingerprint())).base is plain
    with pytest.raises(BaseMismatch, match="made from base eeee"):
        _ = made + Delta({}, "e" * 64)
    with pytest.raises(TypeError, match="unsupported operand"):
        _ = made + 1  # type: ignore[operator]
