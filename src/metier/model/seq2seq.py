"""Reading and writing with encoder-decoder models: the prompt is encoded once for all its choices."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from metier.model.base import Base
from metier.model.causal import Generated

ROWS = 32


class Seq2SeqReader:
    """Scores and writes with an encoder-decoder base whose changes are attached by `attach`."""

    def __init__(self, base: Base, attach: Callable[[], contextlib.AbstractContextManager[Any]]) -> None:
        self.base, self.attach = base, attach

    @torch.inference_mode()
    def choose(self, prompts: Sequence[list[int]], choices: Sequence[Sequence[list[int]]]) -> list[Tensor]:
        """Sum of token log-probabilities of every choice of every prompt."""
        out = []
        with self.attach():
            for prompt, options in zip(prompts, choices, strict=True):
                ids = torch.tensor([prompt], device=self.base.device)
                state = self.base.model.get_encoder()(input_ids=ids).last_hidden_state  # type: ignore[operator]
                labels = pad_labels(options).to(self.base.device)
                result = self.base.model(
                    encoder_outputs=(state.expand(len(options), -1, -1),), attention_mask=torch.ones_like(ids).expand(len(options), -1), labels=labels
                )
                logprobs = result.logits.float().log_softmax(-1)
                picked = logprobs.gather(2, labels.clamp(min=0).unsqueeze(2)).squeeze(2)
                out.append((picked * (labels >= 0)).sum(1).cpu())
        return out

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[list[int]], *, max_new_tokens: int, stop: Sequence[str] = (), temperature: float = 0.0,
        seeds: Sequence[str] | None = None,
    ) -> list[Generated]:  # fmt: skip
        """Greedy answers, or sampled ones; each row of a sampled batch is drawn on its own, from its own seed."""
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        out: list[Generated] = [Generated("", 0, 0.0)] * len(prompts)
        step = 1 if temperature > 0 else ROWS
        with self.attach():
            for start in range(0, len(order), step):
                rows = order[start : start + step]
                for i, answer in zip(rows, self._write([prompts[i] for i in rows], max_new_tokens, stop, temperature, seeds and seeds[rows[0]]), strict=True):
                    out[i] = answer
        return out

    def _write(self, prompts: list[list[int]], limit: int, stop: Sequence[str], temperature: float, seed: str | None) -> list[Generated]:
        ids, mask = pad_right(prompts, self.base.tokenizer.pad_token_id)
        options: dict[str, Any] = {"do_sample": temperature > 0, "num_beams": 1, "max_new_tokens": limit}
        if temperature > 0:
            options |= {"temperature": temperature, "top_k": 0, "top_p": 1.0}
        with torch.random.fork_rng():
            if seed is not None:
                torch.manual_seed(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7]))
            written = self.base.model.generate(input_ids=ids.to(self.base.device), attention_mask=mask.to(self.base.device), **options)  # type: ignore[operator]
        answers = []
        for row in written:
            text = self.base.tokenizer.decode(row, skip_special_tokens=True).lstrip()
            text = min((text.split(s)[0] for s in stop), key=len, default=text)
            answers.append(Generated(text, int((row != self.base.tokenizer.pad_token_id).sum()), 0.0))
        return answers

    @torch.inference_mode()
    def embed(self, texts: Sequence[list[int]]) -> Tensor:
        """Mean of the encoder's last hidden states: (texts, hidden), float32."""
        out = []
        with self.attach():
            for text in texts:
                state = self.base.model.get_encoder()(input_ids=torch.tensor([text], device=self.base.device)).last_hidden_state  # type: ignore[operator]
                out.append(state[0].float().mean(0).cpu())
        return torch.stack(out)


def pad_right(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """(ids, mask) of rows padded on the right."""
    width = max(map(len, rows))
    ids = torch.tensor([[*r, *[pad] * (width - len(r))] for r in rows])
    return ids, torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows])


def pad_labels(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows padded on the right with -100, which losses leave out."""
    width = max(map(len, rows))
    return torch.tensor([[*r, *[-100] * (width - len(r))] for r in rows])
