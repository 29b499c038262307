"""Train a small encoder by a recipe, contrastively on the worlds' pairs; safe to kill, resumes where it was."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import torch
import yaml
from transformers import BertModel, PreTrainedTokenizerFast

from metier import atomic
from metier.errors import UserError
from metier.model import load_base
from metier.train.encode_recipe import Encoder, load
from metier.train.encode_run import Report, Run


def encode(recipe: Path, out: Path, *, minutes: float | None = None, resume: bool = True, report: Report | None = None) -> Path:
    """Train the recipe's encoder and write it to `out` as a Hugging Face folder with CARD.md and curve.jsonl.

    `minutes` (of processor time) overrides the recipe's limit; the learning rate decays with whichever of time and steps is further on, so a
    run limited by steps alone is reproducible. Work in progress lies in '<out>.work'; with `resume` a killed run goes on from
    its last checkpoint. `training.keep` leaves the encoder as it was on the way in '<out>.checkpoints'.
    """
    plan, out, work = load(recipe), Path(out), Path(f"{out}.work")
    if out.exists() and any(out.iterdir()) and not (out / "curve.jsonl").exists():
        raise UserError(f"{out}: exists and is not a pretrained base. Name another folder.")
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(plan.training.threads)
    tokenizer = _tokenizer(plan)

    def keep(run: Run, fraction: float) -> None:
        export(run, tokenizer, Path(f"{out}.checkpoints") / f"{fraction:g}")

    run = Run(plan, work, lambda text: list(tokenizer(text, verbose=False)["input_ids"]), len(tokenizer), keep)
    run.go(minutes or plan.training.minutes, report or (lambda line: None))
    export(run, tokenizer, out)
    return out


def export(run: Run, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write a Hugging Face folder in bf16, with the card and the curve; an older folder is replaced in one rename."""
    weights = BertModel(run.model.config, add_pooling_layer=False).to(torch.bfloat16)
    weights.load_state_dict({name: value.to(torch.bfloat16) for name, value in run.model.state_dict().items()})
    with atomic.folder(out) as folder:
        weights.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "curve.jsonl").write_text("".join(json.dumps(line) + "\n" for line in run.curve))
        (folder / "CARD.md").write_text(card(run))
        for file in folder.iterdir():
            file.chmod(0o644)  # safetensors writes files that only their owner can read


def card(run: Run) -> str:
    """The model card: recipe, cost, curve. Measurements are added by benchmarks/base_card.py."""
    plan, worlds = run.plan, list(run.plan.data.shares)
    count, recipe = sum(p.numel() for p in run.model.parameters()), yaml.safe_dump(dataclasses.asdict(plan), sort_keys=False).strip()
    spent = f"{run.seconds / 60:.1f} minutes of processor time ({plan.training.threads} CPU thread{'s' * (plan.training.threads > 1)})"
    lines = [
        f"# {plan.name}",
        "",
        f"A BERT with {count:,} parameters that embeds queries and documents (mean of the last hidden states). Apache-2.0.",
        "",
        f"Trained on {run.step * plan.training.batch:,} pairs with a near miss each ({run.tokens:,} tokens) in {spent}.",
        *("", "## Recipe", "", "```yaml", recipe, "```", "", "## Curve", ""),
        f"'found': share of {plan.data.held_out} held-out queries of that world whose text is nearest, among {2 * plan.data.held_out} texts.",
        "",
        f"| pairs | minutes | train loss | {' | '.join(f'found, {name}' for name in worlds)} |",
        "|---" * (3 + len(worlds)) + "|",
    ]
    lines += [
        f"| {c['pairs']:,} | {c['seconds'] / 60:.1f} | {c['train_loss']} | {' | '.join(str(c[f'found_{name}']) for name in worlds)} |"
        for c in run.curve
    ]
    return "\n".join(lines) + "\n"


def _tokenizer(plan: Encoder) -> PreTrainedTokenizerFast:
    """The named base's tokenizer, padding on the right and without a chat template."""
    tokenizer: PreTrainedTokenizerFast = load_base(plan.tokenizer).tokenizer
    tokenizer.padding_side, tokenizer.chat_template, tokenizer.model_max_length = "right", None, plan.model.context
    return tokenizer
