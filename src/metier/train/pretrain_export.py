"""A pretrained base as a Hugging Face folder in bf16, with its card and curve, written as a whole or not at all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from metier import atomic
from metier.train import pretrain_data as text
from metier.train.pretrain_recipe import Recipe


def export(model: LlamaForCausalLM, tokenizer: Tokenizer, plan: Recipe, curve: list[dict[str, Any]], out: Path) -> None:
    """Write a Hugging Face folder in bf16, with the card and the curve; an older folder is replaced in one rename."""
    config = json.loads(model.config.to_json_string()) | {"dtype": "bfloat16", "prompting": "plain"}
    weights = LlamaForCausalLM(LlamaConfig(**config)).to(torch.bfloat16)
    weights.load_state_dict({name: value.to(torch.bfloat16) for name, value in model.state_dict().items()})
    weights.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=text.PAD, bos_token=text.BOS, eos_token=text.EOS, chat_template=text.CHAT,
                                   model_max_length=plan.model.context, padding_side="left", clean_up_tokenization_spaces=False)  # fmt: skip
    fast.add_special_tokens({"additional_special_tokens": list(text.SPECIAL[3:])})
    with atomic.folder(Path(out)) as folder:
        weights.save_pretrained(folder)
        fast.save_pretrained(folder)
        (folder / "curve.jsonl").write_text("".join(json.dumps(line) + "\n" for line in curve))
        (folder / "CARD.md").write_text(card(model, plan, curve))
        for file in folder.iterdir():
            file.chmod(0o644)  # safetensors writes files that only their owner can read


def card(model: LlamaForCausalLM, plan: Recipe, curve: list[dict[str, Any]]) -> str:
    """The model card: recipe, cost, curve. Measurements are added by benchmarks/base_card.py."""
    count, last = sum(p.numel() for p in model.parameters()), curve[-1]
    spent = f"{last['seconds'] / 60:.1f} minutes with {plan.training.workers} x {plan.training.threads} CPU threads"
    loss = f"{last['eval_loss']} nats per token, {last['eval_answer_loss']} on answers"
    recipe = yaml.safe_dump(dataclasses.asdict(plan), sort_keys=False).strip()
    lines = [
        f"# {plan.name}",
        "",
        f"A Llama-architecture decoder with {count:,} parameters, for experiments on generated worlds. Apache-2.0.",
        "",
        f"Trained on {last['tokens']:,} tokens ({plan.data.tokens:,} distinct at hand) in {spent}; final held-out loss {loss}.",
        *("", "## Recipe", "", "```yaml", recipe, "```", "", "## Curve", ""),
        "| tokens | minutes | train loss (weighted) | held-out loss | on answers |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {c['tokens']:,} | {c['seconds'] / 60:.1f} | {c['train_loss']} | {c['eval_loss']} | {c['eval_answer_loss']} |" for c in curve
    ]
    return "\n".join(lines) + "\n"
