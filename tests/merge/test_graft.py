"""Graft: exact sizes, the boundary cases, controls, what is learnt against the naive formula, overlaps, and sequences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.merge.learning import colours, noise, saved, with_head
from tests.tiny import tiny_causal, tiny_encoder, tiny_task

from metier.delta import Delta, Dense, Sparse
from metier.errors import UserError
from metier.merge.graft import Settings, graft, in_sequence, overlap, support
from metier.model import Specialist, WeightChange
from metier.study import adapt
from metier.train import Budget, Run


def made(place: Path, **given: object):
    base = tiny_causal()
    delta = noise(base, 1, 0.3)
    options = {"batch_size": 12, **given}
    return base, delta, graft(Specialist(base), colours(), Settings(experts=saved(base, place, [delta]), **options), Run(budget=Budget(24)))


@pytest.mark.parametrize("mask", ["learned", "magnitude", "random"])
def test_exactly_the_density_is_kept_with_the_experts_values(tmp_path: Path, mask: str) -> None:
    base, delta, change = made(tmp_path, mask=mask, density=0.013)
    entries = change.delta.entries
    assert all(isinstance(e, Sparse) for e in entries.values())
    assert sum(len(e.indices) for e in entries.values()) == round(0.013 * sum(d.shape.numel() for d in delta.entries.values()))
    for name, entry in entries.items():
        torch.testing.assert_close(entry.values, delta[name].dense().flatten()[entry.indices], rtol=0, atol=0)
        assert entry.indices.tolist() == sorted(set(entry.indices.tolist()))
    assert change.delta.base == base.fingerprint


@pytest.mark.parametrize("mask", ["learned", "magnitude", "random"])
def test_density_one_is_the_expert(tmp_path: Path, mask: str) -> None:
    _, delta, change = made(tmp_path, mask=mask, density=1.0)
    assert all(torch.equal(change.delta[n].dense(), delta[n].dense()) for n in delta)


def test_magnitude_keeps_the_largest(tmp_path: Path) -> None:
    _, delta, change = made(tmp_path, mask="magnitude", density=0.05)
    every = torch.cat([delta[n].dense().abs().flatten() for n in delta])
    kept = torch.cat([change.delta[n].values.abs() for n in change.delta])
    assert torch.equal(kept.sort().values, every.sort().values[-len(kept) :])


def test_without_training_the_learned_mask_is_the_largest(tmp_path: Path) -> None:
    """With a learning rate of nearly zero the base mask stays."""
    _, _, still = made(tmp_path / "a", lr=1e-9, density=0.05)
    _, _, largest = made(tmp_path / "b", mask="magnitude", density=0.05)
    assert all(torch.equal(still.delta[n].indices, largest.delta[n].indices) for n in largest.delta)


def test_first_step_goes_down_the_naive_gradient(tmp_path: Path) -> None:
    """One step of AdamW moves S against the sign of dL/dS = dL/dW * d * (1 - 2 m0) s (1 - s): the entries that change sides are of that sign."""
    base, task = tiny_causal(), replace(colours(train=6), dev=())
    delta = noise(base, 1, 0.3, lambda n: "mlp" in n)
    options = Settings(
        experts=saved(base, tmp_path, [delta]), density=0.3, lr=20.0, batch_size=6
    )  # far enough to flip what should be flipped
    change = graft(Specialist(base), task, options, Run(budget=Budget(6)))
    flat = torch.cat([delta[n].dense().abs().flatten() for n in delta])
    cut = flat.sort(descending=True).values[round(0.3 * len(flat)) - 1]
    s = torch.sigmoid(torch.tensor(-5.0))
    mask = {n: delta[n].dense().abs() >= cut for n in delta}
    weights = {n: base.model.get_parameter(n).detach().clone() for n in delta}
    live = {n: (weights[n] + torch.where(mask[n], 1 - s, s) * delta[n].dense()).requires_grad_() for n in delta}
    _answer_loss(base, task, live).backward()
    helpful = {n: (live[n].grad * delta[n].dense()) < 0 for n in delta}  # more of the change lowers the loss
    moved = {n: (live[n].grad * delta[n].dense()) != 0 for n in delta}
    wanted = torch.cat([(helpful[n] & moved[n]).flatten() for n in delta])
    kept = torch.cat([(change.delta[n].dense() != 0).flatten() for n in delta])
    assert float(wanted[kept].float().mean()) > 0.99


def _answer_loss(base, task, weights):
    total, count = torch.zeros(()), 0
    for example in task.train:
        text, ids = base.encode_prompt(task.prompt(example))
        answer = base.encode_answer(text, example.answer, separator=task.separator, end=True)
        logits = torch.func.functional_call(base.model, weights, (torch.tensor([[*ids, *answer]]),)).logits[0].log_softmax(-1)
        total, count = total - sum(logits[len(ids) - 1 + i, t] for i, t in enumerate(answer)), count + len(answer)
    return total / count


def test_random_masks_follow_the_seed_and_grafts_of_an_encoder_have_the_experts_head(tmp_path: Path) -> None:
    base, task = tiny_encoder(), colours()
    expert = with_head(base, noise(base, 1), task, 7)
    places = saved(base, tmp_path, [expert])
    one, same, other = (graft(Specialist(base), task, Settings(experts=places, mask="random", density=0.1), Run(seed=s)) for s in (0, 0, 1))
    name = "encoder.layer.0.output.dense.weight"
    assert torch.equal(one.delta[name].indices, same.delta[name].indices)
    assert not torch.equal(one.delta[name].indices, other.delta[name].indices)
    assert one.labels == task.choices
    assert torch.equal(one.new_tensors()["metier.head.weight"], expert.new_tensors()["metier.head.weight"])
    learnt = graft(Specialist(base), task, Settings(experts=places, density=0.1), Run(budget=Budget(12)))
    assert torch.equal(learnt.new_tensors()["metier.head.weight"], expert.new_tensors()["metier.head.weight"])


SETS = st.lists(st.sets(st.integers(0, 11)), min_size=1, max_size=4)


def sparse(positions: set[int], value: float = 1.0) -> Delta:
    where = torch.tensor(sorted(positions), dtype=torch.long)
    return Delta({"w": Sparse(where, torch.full((len(where),), value), torch.Size((3, 4)))}, "b")


@settings(max_examples=50, deadline=None)
@given(SETS)
def test_overlap_is_that_of_sets(sets: list[set[int]]) -> None:
    found = overlap([sparse(s) for s in sets])
    for i, a in enumerate(sets):
        for j, b in enumerate(sets):
            assert float(found[i, j]) == pytest.approx(len(a & b) / max(len(a), 1))


@settings(max_examples=50, deadline=None)
@given(SETS)
def test_in_sequence_the_first_graft_keeps_its_entries(sets: list[set[int]]) -> None:
    together = in_sequence([sparse(s, float(i + 1)) for i, s in enumerate(sets)])
    owner = {p: float(next(i for i, s in enumerate(sets) if p in s) + 1) for p in set().union(*sets)}
    assert support(together)["w"].tolist() == sorted(owner)
    assert together["w"].values.tolist() == [owner[p] for p in sorted(owner)]


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exactly one expert; got 2"):
        Settings(experts=("a", "b"))
    with pytest.raises(UserError, match=r"write 0\.02 for 2 %"):
        Settings(experts=("a",), density=2)
    with pytest.raises(UserError, match="keeps none"):
        made(tmp_path, density=1e-9)
    with pytest.raises(UserError, match="not Sparse. Give grafts"):
        overlap([Delta({"w": Dense(torch.ones(2))})])


@pytest.mark.slow
def test_the_task_learnt_first_is_kept_where_the_second_comes_after_it() -> None:
    """Sparse changes of two tasks that share entries: in sequence the first task stays near what it was alone, overwritten it is lost."""
    base = tiny_causal()
    tasks = [replace(t, dev=()) for t in (tiny_task("generate").sealed(), colours())]
    settings = {"lt-sft": {"density": 0.2, "lr": 1e-2}}
    grafts = [adapt("lt-sft", t, base, settings=settings, budget="240ex").changes[0].delta for t in tasks]  # type: ignore[attr-defined]
    assert float(overlap(grafts)[0, 1]) > 0.3, "the tasks want the same entries"

    def likelihood(*changes: Delta) -> float:
        one, examples = Specialist(base, tuple(map(WeightChange, changes))), list(tasks[0].train)
        rows = one.score([one.prompt(tasks[0], e) for e in examples], [[e.answer] for e in examples])
        return float(sum(r.sum() for r in rows)) / len(examples)

    untuned, alone = likelihood(), likelihood(grafts[0])
    kept, lost = likelihood(in_sequence(grafts)), likelihood(in_sequence(grafts[::-1]))
    assert alone > untuned + 1, "the first task is learnt"
    assert alone - kept < (alone - untuned) / 4, "and kept"
    assert alone - lost > (alone - untuned) / 2
