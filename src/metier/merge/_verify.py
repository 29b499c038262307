"""Verify: what was written is loaded again and says what the composition it should equal says; and it still writes language.

Outputs (logits, of encoders hidden states) on a few fixed texts are compared with those of base + change formed in memory. The
perplexity on the same texts, beside the base's, tells gibberish. The texts are English prose that every Python brings along; large
models are asked fewer. Of results on disk weights are read when they are used, so that no model is ever in memory as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from metier.delta import Checkpoint, Delta
from metier.errors import UserError
from metier.merge._verdict import Verdict, composed
from metier.model import Specialist, WeightChange
from metier.model.base import Base
from metier.model.change import no_grad_module
from metier.model.loading import load_base
from metier.model.padding import IGNORE, pad_right
from metier.model.streamed import reading, streamed
from metier.task.general import continuation

TOKENS = 48  # of each text that is read
FEWEST, MOST, WORK = 2, 16, 1_600_000_000  # texts that are read, and parameters times texts


class Probe:
    """What models say on the fixed texts, read with one tokenizer. `outputs`: (tokens, vocabulary or hidden), float32."""

    def __init__(self, base: Base, device: torch.device | None = None) -> None:
        self.base, self.device = base, device
        room, count = min(TOKENS, base.max_length), min(MOST, max(FEWEST, WORK // max(1, base.parameters)))
        texts = [f"{e.fields['text']} {e.target}" for e in continuation(count).test]
        self.ids = [(base.encode(t) or [base.start])[:room] for t in texts]

    @torch.inference_mode()
    def outputs(self, model: nn.Module) -> Tensor:
        """What the model computes for every token of every text, all read at once."""
        ids, mask = pad_right(self.ids, self.base.tokenizer.pad_token_id, self.device)
        there, inputs = mask.bool(), {"input_ids": ids, "attention_mask": mask}
        if self.base.family == "seq2seq":
            inputs["labels"] = ids.masked_fill(~there, IGNORE)
        found = model(**inputs, **({"use_cache": False} if self.base.family == "causal" else {}))
        return (found.last_hidden_state if self.base.family == "encoder" else found.logits)[there].float().cpu()

    def perplexity(self, outputs: Tensor) -> float | None:
        """exp of the mean negative log-likelihood of the texts' tokens; None for encoders."""
        if self.base.family == "encoder":
            return None
        losses, at = [], 0
        for ids in self.ids:
            logits, target = outputs[at : at + len(ids)], torch.tensor(ids)
            at += len(ids)
            if self.base.family == "causal":
                logits, target = logits[:-1], target[1:]
            losses.append(nn.functional.cross_entropy(logits, target, reduction="none"))
        loss = float(torch.cat(losses).mean())
        return math.exp(min(loss, 700.0)) if loss == loss else math.inf


def checkable(place: str | Path) -> Base:
    """The base that results are verified beside, in float32 on the CPU. Raises UserError where it cannot be loaded, or not be held."""
    try:
        return streamed(place) or load_base(_fitting(place), device="cpu")
    except UserError as error:
        raise UserError(f"verification: {error} Say --no-verify to go without it.") from error


def written(plain: Base, out: Path, expected: Mapping[str, Tensor]) -> Verdict:
    """Verify a checkpoint: `expected` are the weights it should hold, by their names in the file."""
    found = checkable(out)
    return judged(found, plain, model_of(found, expected), found.model)


def changed(plain: Base, found: Delta, expected: Delta, weights: Mapping[str, Tensor]) -> Verdict:
    """Verify a stored change: base + `found` (read again) beside base + `expected` (in memory). weights: the base's, by name."""
    return judged(plain, plain, model_of(plain, composed(weights, expected)), model_of(plain, composed(weights, found)))


def saved(specialist: Specialist, again: Specialist, remedy: str) -> Verdict | None:
    """The verdict on a saved specialist, read again, beside the one in memory; None where it changes no weights.

    Perplexities are those of causal bases. remedy: what is advised against gibberish.
    """
    if not any(isinstance(c, WeightChange) for c in specialist.changes):
        return None
    probe, said = Probe(specialist.base, specialist.base.device), []
    for one in (Specialist(specialist.base), specialist, again):
        with one.attached() as model:
            said.append(probe.outputs(model))
    before, now = (probe.perplexity(s) for s in (said[0], said[2])) if specialist.base.family == "causal" else (None, None)
    return replace(_verdict(said[1], said[2], now, before), remedy=remedy)


def judged(reader: Base, plain: Base, expected: nn.Module, found: nn.Module) -> Verdict:
    """The verdict on a model that should equal another; `plain` is the base, for its perplexity."""
    probe, before = Probe(reader), Probe(plain)
    should, says = probe.outputs(expected), probe.outputs(found)
    return _verdict(should, says, probe.perplexity(says), before.perplexity(before.outputs(plain.model)))


def _verdict(should: Tensor, says: Tensor, perplexity: float | None, base_perplexity: float | None) -> Verdict:
    """should, says: (tokens, outputs). Where both are not numbers they do not differ."""
    same = (should == says) | (should.isnan() & says.isnan())
    gap, there = float((should - says).abs().masked_fill(same, 0.0).max()), should[should.isfinite()]
    spread = float(there.std()) if len(there) > 1 else 0.0
    return Verdict(gap if gap == gap else math.inf, spread, perplexity, base_perplexity, bool(says.isfinite().all()))


def _fitting(place: str | Path) -> str:
    """The place; UserError where three models of its size in float32 would not fit into memory."""
    files = Checkpoint(place)
    need, free = 3 * 4 * sum(files.shape(n).numel() for n in files), psutil.virtual_memory().available
    if need > free:
        raise UserError(f"{place}: takes {need / 1e9:.0f} GB of memory to verify, {free / 1e9:.0f} are free.")
    return str(place)


def model_of(like: Base, weights: Mapping[str, Tensor]) -> nn.Module:
    """A model with these weights, named as in files, in float32, read when they are used where that can be."""
    found = reading(lambda: type(like.model)(like.model.config), weights)
    if found is not None:
        return found
    state = {n: t.to(torch.float32, copy=True) if t.is_floating_point() else t.clone() for n, t in weights.items()}
    model: nn.Module = type(like.model).from_pretrained(None, config=like.model.config, state_dict=state, dtype=torch.float32)
    no_grad_module(model)
    return model
