"""Reading with encoders: pooled embeddings, and choices by a linear head.

Without tuning, the head's rows are the embeddings of the choices' own texts, so an encoder can choose zero-shot; every
method that tunes an encoder starts from that head. logits = (W normalise(pool(h)) + b), with W = normalise(pool(label)) / TEMPERATURE.
"""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metier.errors import UserError
from metier.model.base import Base

HEAD = ("metier.head.weight", "metier.head.bias")
TEMPERATURE = 0.05
TOKENS_PER_BATCH = 16384

Text = str | tuple[str, str]


@dataclass(frozen=True)
class Head:
    """A linear head: weight (labels, hidden), bias (labels,)."""

    labels: tuple[str, ...]
    weight: Tensor
    bias: Tensor


class EncoderReader:
    """Embeds texts and scores choices with an encoder whose changes are attached by `attach`."""

    def __init__(self, base: Base, attach: Callable[[], contextlib.AbstractContextManager[Any]], head: Head | None = None) -> None:
        self.base, self.attach, self.head = base, attach, head

    @torch.inference_mode()
    def embed(self, texts: Sequence[Text]) -> Tensor:
        """Normalised pooled embeddings: (texts, hidden), float32, on the CPU."""
        rows = [encode_text(self.base, t) for t in texts]
        out = torch.zeros(len(texts), self.base.hidden)
        with self.attach():
            for batch in _batches([len(r["input_ids"]) for r in rows]):
                out[batch] = pooled(self.base, pad([rows[i] for i in batch], self.base)).float().cpu()
        return out

    def choose(self, texts: Sequence[Text], choices: Sequence[Sequence[str]]) -> list[Tensor]:
        """Logits over each text's choices: by the head where it was made for them, else by likeness to the choices' texts."""
        features = self.embed(texts)
        asked = {c for cs in choices for c in cs}
        if self.head is not None and asked & set(self.head.labels):
            where = {label: i for i, label in enumerate(self.head.labels)}
            unknown = sorted(asked - set(where))
            if unknown:
                raise UserError(f"choose: the tuned head knows {len(where)} labels, not {unknown[0]!r}. Tune it on this task.")
            logits = features @ self.head.weight.float().T + self.head.bias.float()
            return [logits[i, [where[c] for c in cs]] for i, cs in enumerate(choices)]
        names = sorted(asked)
        rows = label_head(self, names)
        return [features[i] @ rows.weight[[names.index(c) for c in cs]].T for i, cs in enumerate(choices)]


def label_head(reader: EncoderReader, labels: Sequence[str]) -> Head:
    """The head an encoder has before tuning: its own embeddings of the labels' texts."""
    weight = reader.embed([label.replace("_", " ") for label in labels]) / TEMPERATURE
    return Head(tuple(labels), weight, torch.zeros(len(labels)))


def encode_text(base: Base, text: Text) -> dict[str, list[int]]:
    """Token ids (and types) of a text or a pair, cut at what the encoder reads, as encoders do."""
    first, second = text if isinstance(text, tuple) else (text, None)
    return dict(base.tokenizer(first, second, truncation=True, max_length=base.max_length))


def pad(rows: Sequence[dict[str, list[int]]], base: Base) -> dict[str, Tensor]:
    """A batch padded on the right."""
    width = max(len(r["input_ids"]) for r in rows)
    fill = {"input_ids": base.tokenizer.pad_token_id, "attention_mask": 0, "token_type_ids": 0}
    fill = {
        k: v for k, v in fill.items() if k in inspect.signature(base.model.forward).parameters
    }  # some tokenizers give types nobody reads
    return {k: torch.tensor([r[k] + [fill[k]] * (width - len(r[k])) for r in rows], device=base.device) for k in rows[0] if k in fill}


def pooled(base: Base, batch: dict[str, Tensor]) -> Tensor:
    """Normalised pooled hidden states: (batch, hidden). Mean over tokens, or the first token where the model says so."""
    hidden = base.model(**batch).last_hidden_state
    if _first_token(base.path):
        vector = hidden[:, 0]
    else:
        weight = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        vector = (hidden * weight).sum(1) / weight.sum(1)
    return nn.functional.normalize(vector.float(), dim=-1)


def _first_token(path: str) -> bool:
    config = Path(path) / "1_Pooling" / "config.json"
    return config.exists() and bool(json.loads(config.read_text()).get("pooling_mode_cls_token"))


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    batches: list[list[int]] = [[]]
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batches[-1] and (len(batches[-1]) + 1) * lengths[i] > TOKENS_PER_BATCH:
            batches.append([])
        batches[-1].append(i)
    return [b for b in batches if b]
