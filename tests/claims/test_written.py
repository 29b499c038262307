"""The claims that train models of their own or read heads: their data and measures do what their files say."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny import tiny_causal

from metier.claims import r003_entity_tracking as r003
from metier.claims import r008_conjugate_prompting as r008
from metier.claims import r066_metadata_conditioning as r066
from metier.claims import r078_head_tuning_risk as r078
from metier.claims import r142_explanation_roles as r142
from metier.claims import running
from metier.claims._scratch import Decoder, scored, trained
from metier.claims.claim import catalogue, find
from metier.claims.lab import Lab
from metier.model import Specialist
from metier.worlds._grammars.pcfg import LevelGrammar
from metier.worlds.grammars import Grammars
from metier.worlds.tracking import Tracking


def lab(out: Path) -> Lab:
    return Lab((), (0,), out, quick=True)


# --- models trained from scratch ---------------------------------------------------------------------------------------------
def test_a_decoder_does_not_see_what_comes_later() -> None:
    torch.manual_seed(0)
    model = Decoder(7, 5, width=16, layers=2, heads=2).eval()
    tokens = torch.randint(7, (3, 9))
    other = tokens.clone()
    other[:, 5:] = (other[:, 5:] + 1) % 7
    torch.testing.assert_close(model(tokens)[:, :5], model(other)[:, :5])
    assert not torch.allclose(model(tokens)[:, 5:], model(other)[:, 5:])
    torch.testing.assert_close(model(tokens), torch.cat([model(row[None]) for row in tokens]))


def test_a_decoder_tells_places_apart() -> None:
    torch.manual_seed(0)
    model = Decoder(7, 5, width=16, layers=2, heads=2).eval()
    assert not torch.allclose(model(torch.tensor([[1, 2, 3]]))[0, -1], model(torch.tensor([[2, 1, 3]]))[0, -1], atol=1e-4)


def test_a_model_that_was_trained_is_not_trained_again(tmp_path: Path) -> None:
    steps: list[int] = []

    def loss(model: Decoder, step: int) -> torch.Tensor:
        steps.append(step)
        return model(torch.tensor([[0, 1, 2]])).square().mean()

    def one(seed: int, **settings: Any) -> tuple[Decoder, Lab]:
        here = lab(tmp_path)
        return trained(here, "x", seed, lambda: Decoder(3, 2, width=8, layers=1, heads=1), loss, steps=4, lr=1e-2, **settings), here

    first, here = one(0)
    again, there = one(0)
    assert steps == [0, 1, 2, 3]
    assert here.trials == there.trials == [first.key]
    assert here.seconds == there.seconds > 0
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert len({one(s, **more)[0].key for s, more in ((0, {}), (1, {}), (0, {"width": 8}))}) == 3


def test_training_lowers_a_loss(tmp_path: Path) -> None:
    tokens = (torch.arange(5)[:, None] + torch.arange(8)) % 5

    def loss(model: Decoder, step: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    model = trained(lab(tmp_path), "x", 0, lambda: Decoder(5, 5, width=16, layers=1, heads=2), loss, steps=60, lr=1e-2)
    assert loss(model, 0) < 0.7 * np.log(5)


def test_scores_keep_seeds_and_order() -> None:
    found = scored({1: np.array([3.0, 4.0]), 0: np.array([1.0, 2.0])})
    assert found.seeds == (0, 1)
    assert found.values.tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.slow
@pytest.mark.parametrize("row", ["8", "66", "78", "142"])
def test_a_claim_without_a_base_runs_and_repeats(row: str, tmp_path: Path) -> None:
    entry = find(row)
    found = [running.run(entry, tmp_path / name, quick=True, seeds=1, quiet=True) for name in ("a", "a", "b")]
    assert found[0]["effects"] == found[1]["effects"] == found[2]["effects"]
    assert found[0]["trials"] == found[1]["trials"]
    assert len(found[0]["trials"]) == entry.claim.trials
    assert found[0]["bases"] == []


# --- row 8 -------------------------------------------------------------------------------------------------------------------
@given(st.integers(0, 20), st.floats(0.5, 4))
def test_conjugation_does_not_change_ridge_regression(seed: int, gamma: float) -> None:
    mixture = Tracking(seed).regression(dim=3, count=4)
    asked = mixture.draw(4, 6, alpha=0.0, rng=np.random.default_rng(seed))
    np.testing.assert_allclose(mixture.continuous(asked.x, gamma * asked.y) / gamma, mixture.continuous(asked.x, asked.y), atol=1e-9)


def test_a_place_reads_its_question_and_the_pair_before() -> None:
    x, y = np.arange(12.0).reshape(1, 3, 4), np.array([[0.5, 0.6, 0.7]])
    rows = r008.read(x, y)[0]
    assert rows.shape == (3, 9)
    assert rows[0].tolist() == [0, 1, 2, 3, 0, 0, 0, 0, 0]
    assert rows[2].tolist() == pytest.approx([8, 9, 10, 11, 4, 5, 6, 7, 0.6])


# --- row 66 ------------------------------------------------------------------------------------------------------------------
def test_texts_are_of_the_grammar_and_of_their_metadata() -> None:
    grammar = LevelGrammar(random.Random(0), depth=r066.DEPTH, symbols=r066.SYMBOLS)
    texts = r066.drawn(grammar, random.Random(1), 50, shortest=r066.LONG + 1)
    assert all(grammar.accepts(text, metadata) and r066.LONG < len(text) <= r066.MOST for metadata, text in texts)


def test_a_continuation_begins_with_its_prompt() -> None:
    torch.manual_seed(0)
    model = Decoder(r066.NONE + 1, r066.SYMBOLS + 1, width=16, layers=1, heads=2)
    prompts = [[0, 1, 2], [4, 3, 2], [1, 1, 1]] * 20
    written = r066.continued(model, prompts, 0)
    assert written == r066.continued(model, prompts, 0)
    ended = [(w, p) for w, p in zip(written, prompts, strict=True) if w is not None]
    assert ended
    assert all(w[:3] == p and r066.END not in w for w, p in ended)


# --- row 78 ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("n", "p"), [(12, 5), (12, 12), (12, 30)])
def test_a_head_is_the_least_squares_solution_of_least_norm(n: int, p: int) -> None:
    rng = np.random.default_rng(0)
    held, targets = rng.standard_normal((n, p)), rng.standard_normal((n, 3))
    np.testing.assert_allclose(r078.head(held, targets), np.linalg.pinv(held) @ targets, atol=1e-8)


def test_the_exact_posterior_has_no_risk() -> None:
    drawn = Grammars(0).hmm.sample(np.random.default_rng(0), 5, 4)
    assert r078._risk(drawn.filtered[:, -1], drawn.filtered[:, -1]) == 0


# --- row 142 -----------------------------------------------------------------------------------------------------------------
def test_labels_follow_from_the_task_and_nothing_less() -> None:
    rng = np.random.default_rng(0)
    tasks = np.array([rng.choice(np.arange(1, r142.NUMBERS + 1), 4, replace=False) for _ in range(40)])
    drawn = r142.draw(tasks, 50, rng)
    assert drawn.rows.shape == (2000, r142.LENGTH)
    counts = (drawn.rows[:, 2:, None] == tasks[drawn.tasks][:, None, :]).sum(1)
    first, second = counts[:, 0] > counts[:, 1], counts[:, 2] > counts[:, 3]
    assert (np.where(drawn.rows[:, 1] == 0, first, second) == drawn.labels).all()
    assert drawn.labels.mean() == 0.5
    for pair in (first, second):  # either pair alone is right where it is asked for, and a coin where it is not
        assert abs((pair == drawn.labels).mean() - 0.75) < 0.04
    larger = counts[:, :2].sum(1) > counts[:, 2:].sum(1)
    assert abs(np.where(larger, first, second).mean() - 0.5) < 0.05


def test_the_index_finds_the_explanation() -> None:
    rng = np.random.default_rng(1)
    tasks = np.array([rng.choice(np.arange(1, r142.NUMBERS + 1), 4, replace=False) for _ in range(30)])
    drawn = r142.draw(tasks, 4, rng)
    texts = [r142.explanation(i, numbers) for i, numbers in enumerate(tasks)]
    assert (r142.retrieved(texts, drawn) == drawn.tasks).mean() > 0.9


def test_only_inputs_show_an_explanation_before_the_question() -> None:
    rng = np.random.default_rng(2)
    tasks = np.array([rng.choice(np.arange(1, r142.NUMBERS + 1), 4, replace=False) for _ in range(3)])
    drawn = r142.draw(tasks, 2, rng)
    none, target, given_ = (r142.encoded(role, tasks, drawn, drawn.tasks) for role in ("none", "target", "input"))
    assert torch.equal(none, target[:, : none.shape[1]])
    assert torch.equal(none, given_[:, 5:])
    assert torch.equal(target[:, -4:], torch.from_numpy(tasks[drawn.tasks]))
    assert torch.equal(given_[:, 1:5], torch.from_numpy(tasks[drawn.tasks]))
    assert (target[:, none.shape[1]] - r142.LABEL).tolist() == drawn.labels.tolist()


# --- row 3 -------------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def scenes() -> tuple[Specialist, list[r003.Asked]]:
    plain = Specialist(tiny_causal(hidden=32, max_length=512), ())
    task = Tracking().task("boxes").subset(train=1, dev=1, test=6)
    return plain, [r003.asked(plain, task, e) for e in task.test]


def test_the_clause_names_the_answer(scenes: tuple[Specialist, list[r003.Asked]]) -> None:
    plain, asked = scenes
    task = Tracking().task("boxes").subset(train=1, dev=1, test=6)
    for scene, example in zip(asked, task.test, strict=True):
        text = plain.base.tokenizer.decode([scene.ids[i] for i in scene.clause])
        assert str(example.target) in text
        assert f"Box {example.fields['query']}" in text
        assert text.count("Box") == 1


def test_patching_a_model_with_its_own_outputs_changes_nothing(scenes: tuple[Specialist, list[r003.Asked]]) -> None:
    plain, asked = scenes
    rows = r003.read(plain, asked)
    heads = list(range(len(rows[0].attention)))
    assert r003.patched(plain, asked, rows, heads) == [r.right for r in rows]
    assert all((r.attention >= 0).all() and (r.attention <= 1 + 1e-6).all() for r in rows)
    assert plain.base.model.config._attn_implementation != "eager"


def test_every_claim_of_this_file_is_listed() -> None:
    assert {e.claim.row for e in catalogue().values()} >= {3, 8, 66, 74, 78, 142}
