"""Reading and writing with encoder-decoder models: the prompt is encoded once for all its choices."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from metier.model.answers import Ends, Generated, stream, write
from metier.model.base import Base
from metier.model.padding import pad_labels, pad_right

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
                state = self.base.model.get_encoder()(input_ids=ids).last_hidden_state
                labels = pad_labels(options).to(self.base.device)
                result = self.base.model(
                    encoder_outputs=(state.expand(len(options), -1, -1),),
                    attention_mask=torch.ones_like(ids).expand(len(options), -1),
                    labels=labels,
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
        """An answer for every prompt, greedy at temperature 0, else sampled with a stream of its own per seed text."""
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        out: list[Generated] = [Generated("", 0, 0.0)] * len(prompts)
        with self.attach():
            for start in range(0, len(order), ROWS):
                rows = order[start : start + ROWS]
                streams = [stream(seeds[i]) for i in rows] if seeds and temperature > 0 else None
                for i, answer in zip(
                    rows, self._write([prompts[i] for i in rows], max_new_tokens, stop, temperature, streams), strict=True
                ):
                    out[i] = answer
        return out

    def _write(
        self, prompts: list[list[int]], limit: int, stop: Sequence[str], temperature: float, streams: list[torch.Generator] | None
    ) -> list[Generated]:
        base = self.base
        ids, mask = pad_right(prompts, base.tokenizer.pad_token_id or 0, base.device)
        state = base.model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        first = torch.full((len(prompts), 1), _first_token(base), device=base.device)

        def step(_: list[int], _written: list[list[int]], token: Tensor | None) -> Tensor:
            feed = first if token is None else token
            fed = {"encoder_outputs": (state,), "attention_mask": mask, "decoder_input_ids": feed, "past_key_values": cache}
            logits: Tensor = base.model(**fed, use_cache=True).logits[:, -1]
            return logits

        def drop(kept: Tensor) -> None:
            nonlocal state, mask
            cache.batch_select_indices(kept)
            state, mask = state[kept], mask[kept]

        ends = Ends(base.tokenizer, base.model, stop)
        return write(len(prompts), step, drop, ends, limit=limit, temperature=temperature, streams=streams)

    @torch.inference_mode()
    def embed(self, texts: Sequence[list[int]]) -> Tensor:
        """Mean of the encoder's last hidden states: (texts, hidden), float32."""
        out = []
        with self.attach():
            for text in texts:
                state = self.base.model.get_encoder()(input_ids=torch.tensor([text], device=self.base.device)).last_hidden_state
                out.append(state[0].float().mean(0).cpu())
        return torch.stack(out)


def _first_token(base: Base) -> int:
    for config in (getattr(base.model, "generation_config", None), base.model.config):
        for key in ("decoder_start_token_id", "bos_token_id"):
            if isinstance(found := getattr(config, key, None), int):
                return found
    return base.start
