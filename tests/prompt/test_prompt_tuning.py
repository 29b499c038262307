"""Prompt tuning: what is trained is what is read; peft reads the same; and it learns."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.tiny import tiny_causal, tiny_task

from metier.errors import UserError
from metier.model import Specialist
from metier.model.causal import CausalReader, Voice
from metier.prompt.prompt_tuning import Settings, SoftPrompt, prompt_tuning, start_vectors
from metier.train import Budget, Run, Trainable
from metier.train.items import collate, items


def soft(n: int, seed: int = 0) -> torch.Tensor:
    return 0.5 * torch.randn(n, tiny_causal().hidden, generator=torch.Generator().manual_seed(seed))


def test_the_loss_is_what_the_reader_says() -> None:
    """Sum of cross-entropies in training = - sum of log-probabilities of answer and end at inference, with the same prompt."""
    base, task = tiny_causal(), tiny_task("generate")
    start, vectors = Specialist(base), torch.nn.Parameter(soft(5))
    what = Trainable(start, task, {"prompt": vectors}, lambda: SoftPrompt(vectors.detach()), prefix=vectors)
    loss = what.loss(collate(items(start, task, task.train, reserve=5), start, pack=False))
    coded = [(base.encode_prompt(task.prompt(e)), e) for e in task.train]
    answers = [[base.encode_answer(text, e.answer, separator=" ", end=True)] for (text, _), e in coded]
    said = CausalReader([Voice(base.model, vectors.detach())], base.tokenizer).choose([ids for (_, ids), _ in coded], answers)
    assert float(loss.detach()) == pytest.approx(-sum(float(s) for s in said), rel=1e-5)


def test_peft_reads_the_same() -> None:
    """peft's PromptTuning with the same embeddings gives the same logits as our reader's log-probabilities."""
    import peft
    from transformers import AutoModelForCausalLM

    base, vectors = tiny_causal(), soft(7)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=7, token_dim=base.hidden, num_layers=2)
    theirs = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base.path), config).eval()
    with torch.no_grad():
        theirs.prompt_encoder["default"].embedding.weight.copy_(vectors)
        prompts = [base.encode("Text: a red hat\nFeeling:"), base.encode("Text: a blue coat indeed\nFeeling:")]
        answers = [base.encode(f" {w}", special=False) for w in ("warm", "cold")]
        ours = CausalReader([Voice(base.model, vectors)], base.tokenizer).choose(prompts, [answers, answers])
        for prompt, said in zip(prompts, ours, strict=True):
            for answer, value in zip(answers, said.tolist(), strict=True):
                ids = torch.tensor([prompt + answer])
                logits = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -ids.shape[1] :].log_softmax(-1)
                picked = logits[len(prompt) - 1 + torch.arange(len(answer)), torch.tensor(answer)]
                assert value == pytest.approx(float(picked.sum()), abs=1e-4)


def test_generation_reads_the_prompt() -> None:
    """The first token written is the argmax of the logits after [P; E(x)]."""
    base, task = tiny_causal(), tiny_task("generate")
    ids = base.encode_prompt(task.prompt(task.dev[0]))[1]
    for seed in range(4):
        vectors = soft(3, seed) * 20
        embeds = torch.cat([vectors, base.model.get_input_embeddings()(torch.tensor(ids))]).unsqueeze(0)
        first = int(base.model(inputs_embeds=embeds).logits[0, -1].argmax())
        written = CausalReader([Voice(base.model, vectors)], base.tokenizer).generate([ids], max_new_tokens=1)
        assert written[0].text == base.tokenizer.decode([first], skip_special_tokens=True).lstrip()


def test_it_starts_from_the_labels_then_frequent_words() -> None:
    base, task = tiny_causal(), tiny_task("choose")
    table = base.model.get_input_embeddings().weight
    vectors = start_vectors(Specialist(base), task, 6, "labels", 0)
    for row, label in zip(vectors, task.choices, strict=False):
        torch.testing.assert_close(row, table[base.encode(label, special=False)].mean(0))
    seen = {t for e in task.train for t in base.encode(task.prompt(e).query, special=False)}
    for row in vectors[2:]:
        assert any(torch.equal(row, table[t]) for t in seen)
    assert torch.equal(vectors, start_vectors(Specialist(base), task, 6, "labels", 0))
    assert not torch.equal(vectors[2:], start_vectors(Specialist(base), task, 6, "labels", 1)[2:])
    assert start_vectors(Specialist(base), task, 300, "vocabulary", 0).shape == (300, base.hidden)
    assert start_vectors(Specialist(base), dataclasses.replace(task, train=()), 3, "vocabulary", 0).shape == (3, base.hidden)


def test_it_learns() -> None:
    task = tiny_task("choose", train=20, dev=8)
    start = Specialist(tiny_causal())
    run = Run(budget=Budget(320))
    change = prompt_tuning(start, task.sealed(), Settings(length=8, lr=0.05, batch_size=8), run)
    assert run.spent.trainable == 8 * tiny_causal().hidden == change.vectors.numel()
    answers = [e.answer for e in task.train]

    def sure(s: Specialist) -> float:
        return sum(float(p[task.choices.index(a)]) for p, a in zip(s.choose(task, task.train), answers, strict=True)) / len(answers)

    assert sure(start.then(change)) > sure(start) + 0.05


def test_a_dev_example_without_room_is_an_error() -> None:
    """Also where only dev, not train, is too long beside the prompt that is trained, or beside one that the start has."""
    task = tiny_task("generate")
    long = dataclasses.replace(task.dev[0], fields={"question": "Where does Mia live? " * 12})
    base, task = tiny_causal(max_length=128), dataclasses.replace(task, dev=(long,))
    tokens = len(base.encode_prompt(task.prompt(long))[1])
    assert tokens < 128 - 8
    run, tuned = Run(budget=Budget(16)), Settings(length=128 - tokens)  # no room for an answer
    with pytest.raises(UserError, match="exceed the 128"):
        prompt_tuning(Specialist(base), task.sealed(), tuned, run)
    with pytest.raises(UserError, match="exceed the 128"):
        prompt_tuning(Specialist(base, (SoftPrompt(soft(tuned.length)),)), task.sealed(), Settings(length=1), run)


def test_no_room_is_an_error() -> None:
    with pytest.raises(UserError, match="exceed the 256"):
        prompt_tuning(Specialist(tiny_causal()), tiny_task("choose").sealed(), Settings(length=250), Run(budget=Budget(16)))
