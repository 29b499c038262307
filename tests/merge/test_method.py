"""A merge is a method: its settings come from its file, its experts from folders of any kind, its change from the merge."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from tests.tiny import tiny_causal, tiny_encoder, tiny_task
from torch import Tensor

from metier.delta import Checkpoint, Delta, Dense, New, Sparse, diff, save
from metier.errors import BaseMismatch, KeyMismatch, UserError
from metier.merge._experts import opened, weights_of, weights_of_model
from metier.method import catalogue, find, read
from metier.model import Specialist, WeightChange, load_base
from metier.model import change as changes_on_disk
from metier.study.job import Job
from metier.study.plan import DEFAULT_METHODS, chosen_methods
from metier.task import Task
from metier.train import Budget, Run

NAME = "model.layers.0.self_attn.q_proj.weight"


def entry(seed: int, name: str = NAME) -> Tensor:
    weight = dict(tiny_causal().model.named_parameters())[name]
    return 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))


def specialist(place: Path, value: Tensor) -> str:
    base = tiny_causal()
    Specialist(base, (WeightChange(Delta({NAME: Dense(value)}, base.fingerprint)),)).save(place)
    return str(place)


def checkpoint(place: Path, value: Tensor) -> str:
    base = tiny_causal()
    model = copy.deepcopy(base.model)
    with torch.no_grad():
        dict(model.named_parameters())[NAME].add_(value)
    model.save_pretrained(place)
    return str(place)


def run(name: str, task: Task | None = None, **settings: object) -> WeightChange:
    found = find(name)
    change = found.load()[0](Specialist(tiny_causal()), task or tiny_task("choose"), found.configure(settings), Run(budget=Budget(4)))
    assert isinstance(change, WeightChange)
    return change


# --- settings ------------------------------------------------------------------------------------------------------------
def test_a_merge_is_listed_with_its_settings() -> None:
    found = catalogue()["ties"]
    assert (found.room, found.about.place, found.about.reads, found.merge) == ("merge", "weights", ("experts",), True)
    assert [s.name for s in found.settings] == ["experts", "coef", "lines", "density", "scale", "scope"]
    density = next(s for s in found.settings if s.name == "density")
    assert (density.type, density.default) == ("float", 0.2) and density.help.startswith("Fraction")


def test_settings_of_a_merge_from_text() -> None:
    given = find("ties").configure({"experts": "a,b", "coef": "0.5,-1", "density": "0.5", "scope": "model", "lines": "0.2"})
    assert (given.experts, given.coef, given.density, given.scope, given.lines) == (("a", "b"), (0.5, -1.0), 0.5, "model", 0.2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"method ties: needs --experts \(compare: --set ties.experts=...\)."),
        ({"experts": ""}, "ties: takes at least 1 expert; got 0"),
        ({"experts": "a", "density": "20"}, "write 0.2 for 20 %"),
        ({"experts": "a", "coef": "1,2"}, "2 coefficients for 1 experts"),
        ({"experts": "a", "scope": "modle"}, "Did you mean 'model'"),
        ({"experts": "a", "densty": "1"}, "Did you mean 'density'"),
    ],
)
def test_wrong_settings_of_a_merge_are_told(settings: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find("ties").configure(settings)


def test_a_comparison_tries_merges_only_where_they_are_named(tmp_path: Path) -> None:
    assert not set(DEFAULT_METHODS) & {n for n, m in catalogue().items() if m.merge}
    with pytest.raises(UserError, match="needs --experts"):
        chosen_methods(["ties"], {})
    chosen, fixed = chosen_methods(["ties", "linear"], {"ties": {"experts": "A,B"}, "linear": {"experts": "A,B"}})
    assert chosen == ["zero-shot", "ties", "linear"] and fixed["ties"] == {"experts": ("A", "B")}


def test_a_trial_on_other_experts_is_another_trial(tmp_path: Path) -> None:
    place = specialist(tmp_path / "a", entry(0))
    job = Job("ties", tiny_task("choose"), 0, Budget(4), "float32", {"ties": {"experts": (place,)}})
    before = job.key(tiny_causal())
    assert job.key(tiny_causal()) == before
    specialist_again = tmp_path / "b"
    specialist(specialist_again, entry(1))
    for file in specialist_again.rglob("*.safetensors"):
        (tmp_path / "a" / file.relative_to(specialist_again)).write_bytes(file.read_bytes())
    assert job.key(tiny_causal()) != before


def test_a_merge_without_help_or_with_computed_defaults(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    text = 'from metier.method import About\n"""Mine: x."""\nABOUT = About(place="weights")\ndef mine(*, a: float = {}) -> Merge: ...\n'
    file.write_text(text.format("0.5"))
    found = read(file, "mine", "outside")
    assert found is not None and found.settings[-1].help == "" and found.settings[-1].default == 0.5
    file.write_text(text.format("half()"))
    with pytest.raises(UserError, match="must be written as literal values"):
        read(file, "mine", "outside")


# --- experts -------------------------------------------------------------------------------------------------------------
def test_experts_of_every_kind_are_one_change(tmp_path: Path) -> None:
    value, base = entry(0), tiny_causal()
    specialist(tmp_path / "specialist", value)
    changes_on_disk.save(WeightChange(Delta({NAME: Dense(value)}, base.fingerprint)), tmp_path / "change", base=base.fingerprint)
    save(Delta({NAME: Sparse.of(value)}, base.fingerprint), tmp_path / "delta")
    checkpoint(tmp_path / "checkpoint", value)
    for where in (base, Checkpoint(base.path)):
        for kind in ("specialist", "change", "delta", "checkpoint"):
            found = opened(tmp_path / kind, where)
            torch.testing.assert_close(found[NAME].dense(), value, atol=1e-6, rtol=1e-4, msg=lambda m, kind=kind: f"{kind}: {m}")
            assert not any(found[n].dense().any() for n in found if n != NAME), kind


def test_a_merge_of_experts_of_different_kinds(tmp_path: Path) -> None:
    one, two = entry(0), entry(1)
    places = [specialist(tmp_path / "a", one), checkpoint(tmp_path / "b", two)]
    found = run("linear", experts=places, coef=(1.0, 3.0))
    torch.testing.assert_close(found.delta[NAME].dense(), (one + 3 * two) / 4, atol=1e-6, rtol=1e-4)
    assert found.delta.base == tiny_causal().fingerprint
    half = run("slerp", experts=places, t=0.5).delta[NAME].dense()
    before = weights_of_model(tiny_causal())[NAME]
    assert float((before + half).norm()) > float((before + (one + two) / 2).norm())  # the arc lies outside the chord


def test_a_merge_in_another_order_is_the_merge_of_the_order_given(tmp_path: Path) -> None:
    places = [specialist(tmp_path / "a", entry(0)), specialist(tmp_path / "b", entry(1))]
    one, other = (run("slerp", experts=p, t=0.2).delta[NAME].dense() for p in (places, places[::-1]))
    assert not torch.allclose(one, other)


def test_names_may_differ_by_a_prefix(tmp_path: Path) -> None:
    """Of a model's trunk saved by itself the names lack 'model.'."""
    value, base = entry(0), tiny_causal()
    save(Delta({NAME.removeprefix("model."): Dense(value)}), tmp_path / "delta")
    assert list(opened(tmp_path / "delta", base)) == [NAME]


def test_what_is_no_expert_is_refused(tmp_path: Path) -> None:
    base = tiny_causal()
    with pytest.raises(UserError, match="no such folder"):
        opened(tmp_path / "nowhere", base)
    with pytest.raises(UserError, match="no safetensors file"):
        opened(tmp_path, base)
    save(Delta({"other.weight": Dense(torch.ones(2))}), tmp_path / "stranger")
    with pytest.raises(KeyMismatch, match="changes 'other.weight', which the base does not have"):
        opened(tmp_path / "stranger", base)
    save(Delta({NAME: Dense(torch.ones(2, 2))}), tmp_path / "shape")
    with pytest.raises(UserError, match=r"'model.*' has shape \(32, 32\) in the base, \(2, 2\) in the change"):
        opened(tmp_path / "shape", base)
    place = specialist(tmp_path / "a", entry(0))
    with pytest.raises(BaseMismatch, match="made from base"):
        opened(place, tiny_causal(seed=1))
    Specialist(base, ()).save(tmp_path / "bare")
    with pytest.raises(UserError, match="has 0 changes"):
        opened(tmp_path / "bare", base)


def test_a_specialist_of_the_base_in_another_type_is_of_this_base(tmp_path: Path) -> None:
    half = load_base(tiny_causal().path, dtype="bfloat16", device="cpu")
    changes_on_disk.save(WeightChange(Delta({NAME: Dense(entry(0))}, half.fingerprint)), tmp_path / "c", base=half.fingerprint)
    assert list(opened(tmp_path / "c", Checkpoint(half.path))) == [NAME]


def test_whole_weights_of_an_expert() -> None:
    base = weights_of_model(tiny_causal())
    whole = weights_of(Delta({NAME: Dense(entry(0))}), base)
    assert list(whole) == [n for n in base if base[n].is_floating_point()]
    torch.testing.assert_close(whole[NAME].dense(), base[NAME] + entry(0))
    assert torch.equal(whole[NAME].part(3, 40), whole[NAME].dense().reshape(-1)[3:40])
    tuned = {**base, NAME: base[NAME] + entry(0)}
    assert torch.equal(weights_of(diff(base, tuned), base)[NAME].dense(), tuned[NAME])


# --- heads ---------------------------------------------------------------------------------------------------------------
def test_the_head_of_the_expert_for_the_task_stays(tmp_path: Path) -> None:
    base, task = tiny_encoder(), tiny_task("choose")
    name = "encoder.layer.0.output.dense.weight"
    weight = dict(base.model.named_parameters())[name]
    places = []
    for i, labels in enumerate((("yes", "no", "maybe"), tuple(task.choices or ()))):
        head = {"metier.head.weight": New(torch.full((len(labels), 32), float(i))), "metier.head.bias": New(torch.zeros(len(labels)))}
        delta = Delta({name: Dense(torch.full(weight.shape, 1e-3 * (i + 1))), **head}, base.fingerprint)
        Specialist(base, (WeightChange(delta, labels),)).save(tmp_path / str(i))
        places.append(str(tmp_path / str(i)))
    found = find("task-arithmetic")
    change = found.load()[0](Specialist(base), task, found.configure({"experts": places}), Run())
    assert change.labels == task.choices and float(change.new_tensors()["metier.head.weight"].mean()) == 1.0
    assert float(change.delta[name].dense().mean()) == pytest.approx(3e-3)
    only = found.load()[0](Specialist(base), task, found.configure({"experts": places[:1]}), Run())
    assert only.labels == () and not only.new_tensors()


def test_a_merged_change_saves_as_json(tmp_path: Path) -> None:
    change = run("dare-ties", experts=(specialist(tmp_path / "a", entry(0)),), density=1.0, lines=0.5)
    changes_on_disk.save(change, tmp_path / "out", base=tiny_causal().fingerprint)
    assert json.loads((tmp_path / "out" / "change.json").read_text())["place"] == "weights"
    torch.testing.assert_close(change.delta[NAME].dense(), 0.5 * entry(0))  # layer 0 is the first of those that change
