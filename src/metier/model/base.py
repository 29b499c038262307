"""Base: a pretrained model, its tokenizer, and a fingerprint of its weights."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from metier.delta import Checkpoint, Delta
from metier.errors import BaseMismatch, UserError
from metier.task import Prompt

if TYPE_CHECKING:
    from metier.model.specialist import Specialist

Family = Literal["causal", "seq2seq", "encoder"]
REMEMBERED = 200_000  # encoded texts a base keeps
TAIL = 32  # characters of a prompt that its answer is encoded with


@dataclass
class Base:
    """A pretrained model at rest: evaluation mode, no gradients, never modified except inside a with-block.

    max_length  how many tokens it can read at once
    chat        whether prompts go through the tokenizer's chat template
    truncate    whether prompts longer than max_length lose their beginning (else they are an error)
    parameters  how many it has, tied ones once; counted at rest, for adapters come and go
    remembered  what the rooms above keep of it, for as long as it is there
    """

    name: str
    family: Family
    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    fingerprint: str
    max_length: int
    chat: bool = False
    truncate: bool = False
    path: str = ""
    parameters: int = field(init=False, default=0)
    remembered: dict[str, Any] = field(init=False, default_factory=dict, repr=False)
    _ids: dict[tuple[str, bool], tuple[int, ...]] = field(init=False, default_factory=dict, repr=False)
    _tails: dict[tuple[str, str], tuple[int, ...]] = field(init=False, default_factory=dict, repr=False)
    _listed: dict[tuple[str, str, tuple[str, ...]], list[list[int]]] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.parameters = sum(p.numel() for p in self.model.parameters()) if isinstance(self.model, nn.Module) else 0

    def __add__(self, delta: Delta) -> Specialist:
        """base + delta: the specialist with that change of weights. Raises BaseMismatch where it was made from another base."""
        from metier.model.change import WeightChange
        from metier.model.specialist import Specialist

        if not isinstance(delta, Delta):
            return NotImplemented
        if delta.base not in ("", self.fingerprint) and delta.base != self._stored():
            raise BaseMismatch(
                f"{self.name}: the change was made from base {delta.base[:16]}, not {self.fingerprint[:16]}. Add it to that one."
            )
        return Specialist(self, (WeightChange(delta),))

    def _stored(self) -> str:
        """Fingerprint of its files, which may be of another type than it was loaded in; empty where there are none in safetensors."""
        with contextlib.suppress(UserError):
            return Checkpoint(self.path).fingerprint() if self.path else ""
        return ""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> str:
        """Type of its weights: 'float32', 'bfloat16' or 'float16'."""
        return str(next(self.model.parameters()).dtype).removeprefix("torch.")

    @property
    def hidden(self) -> int:
        """Width of the hidden states."""
        return int(self.model.get_input_embeddings().weight.shape[1])  # type: ignore[operator, union-attr]

    @property
    def start(self) -> int:
        """The token that stands where there is nothing to read: begin, else end, else padding."""
        known = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id)
        return next((i for i in known if i is not None), 0)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of a text. They are remembered: every look at dev and every epoch reads the same texts."""
        key = (text, special)
        if key not in self._ids:
            _make_room(self._ids)
            self._ids[key] = tuple(self._tokens(text, special))
        return list(self._ids[key])

    def _tokens(self, text: str, special: bool) -> list[int]:
        rust = self._rust
        if rust is None or rust.truncation is not None or rust.padding is not None:
            return self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        return rust.encode(text, add_special_tokens=special).ids

    @functools.cached_property
    def _rust(self) -> Any:
        """What a call of the tokenizer asks in the end, where its class has no call of its own, else None: asked at once it takes half the time."""
        from transformers import PreTrainedTokenizerFast as Fast

        if not isinstance(self.tokenizer, Fast) or self.tokenizer.split_special_tokens:
            return None
        own = any(getattr(type(self.tokenizer), name) is not getattr(Fast, name) for name in ("__call__", "_encode_plus"))
        return None if own else self.tokenizer.backend_tokenizer

    def encode_prompt(self, prompt: Prompt) -> tuple[str, list[int]]:
        """(text, ids) of a prompt, through the chat template where the base has one; never without a token, for the answer follows one."""
        if self.chat:
            text = self.tokenizer.apply_chat_template(prompt.messages(), add_generation_prompt=True, tokenize=False)
            return text, self.encode(text, special=False)
        text = prompt.text()
        return text, self.encode(text) or [self.start]

    def encode_answer(self, prompt_text: str, answer: str, *, separator: str, end: bool = False) -> list[int]:
        """Ids of an answer as they follow the prompt: the ids of prompt + answer beyond those of the prompt.

        Tokens depend on what stands before, so the last `TAIL` characters of the prompt are encoded along. A decoder of its own
        (seq2seq) starts with the answer: there neither prompt nor separator stands before it.
        """
        answer = answer if self.chat or self.family == "seq2seq" else separator + answer
        key = ("" if self.family == "seq2seq" else prompt_text[-TAIL:], answer)
        if key not in self._tails:
            _make_room(self._tails)
            self._tails[key] = tuple(self.encode(key[0] + answer, special=False)[len(self.encode(key[0], special=False)) :])
        return [*self._tails[key]] + ([self.tokenizer.eos_token_id] if end and self.tokenizer.eos_token_id is not None else [])

    def encode_answers(self, prompt_text: str, answers: Sequence[str], *, separator: str) -> list[list[int]]:
        """`encode_answer` of each; remembered together, for a task's choices are asked of every example."""
        key = ("" if self.family == "seq2seq" else prompt_text[-TAIL:], separator, tuple(answers))
        if key not in self._listed:
            _make_room(self._listed, REMEMBERED // 100)
            self._listed[key] = [self.encode_answer(prompt_text, a, separator=separator) for a in answers]
        return [list(ids) for ids in self._listed[key]]

    def fits(self, ids: list[int], extra: int, what: str) -> list[int]:
        """The ids, if they and `extra` more can be read at once; else cut from the left (`truncate`) or UserError."""
        if len(ids) + extra <= self.max_length:
            return ids
        if self.truncate and extra < self.max_length:
            return ids[-(self.max_length - extra) :]
        raise UserError(
            f"{what}: prompt of {len(ids)} tokens and answer of up to {extra} exceed the {self.max_length} that {self.name} reads. "
            "Shorten the template, show fewer exemplars or passages, or allow cutting from the left with --truncate (truncate=True)."
        )


def _make_room(memory: dict[Any, Any], most: int = REMEMBERED) -> None:
    if len(memory) >= most:
        memory.clear()
