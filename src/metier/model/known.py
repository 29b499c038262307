"""Known: a base as a saved change knows it, by name and fingerprint; it tells what fits into a prompt, and embeds texts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from metier.errors import BaseMismatch
from metier.model.base import Base
from metier.model.loading import load_base
from metier.model.specialist import Specialist
from metier.task import Example, Prompt, Task

SLACK = 16  # tokens that a tokenizer may add to a text


@dataclass
class Known:
    """A base that is in memory, or is loaded by its name when first needed.

    limit   how many tokens it reads at once
    taken   how many of them soft prompts take
    answer  how many at least are kept free for an answer
    """

    name: str
    fingerprint: str
    dtype: str
    chat: bool
    limit: int
    taken: int = 0
    answer: int = 0
    base: Base | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, base: Base, *, taken: int = 0, answer: int = 0) -> Known:
        """A base that is in memory."""
        dtype = str(next(base.model.parameters()).dtype).removeprefix("torch.")
        return cls(base.name, base.fingerprint, dtype, base.chat, base.max_length, taken, answer, base)

    @classmethod
    def reading(cls, start: Specialist, task: Task) -> Known:
        """The base of a start, with its soft prompts, and room for every answer of the task's train split with an end token."""
        soft, probe = start.prefix(), task.prompt(task.train[0]).text() if task.train else ""
        answers = {e.answer for e in task.train} if task.kind != "rank" else set()
        longest = max((len(start.base.encode_answer(probe, a, separator=task.separator)) for a in answers), default=0)
        return cls.of(start.base, taken=0 if soft is None else len(soft), answer=longest + 1)

    def bind(self, base: Base) -> None:
        """Use a base that is in memory, if it is this one."""
        if base.fingerprint == self.fingerprint and base.chat == self.chat:
            self.base = base

    def get(self) -> Base:
        """The base. Raises BaseMismatch where its name now stands for other weights."""
        if self.base is None:
            found = load_base(self.name, chat=self.chat, dtype=self.dtype)
            if found.fingerprint != self.fingerprint:
                raise BaseMismatch(
                    f"{self.name}: its weights are {found.fingerprint[:16]}; the change was made with {self.fingerprint[:16]}. Make it again."
                )
            self.base = found
        return self.base

    def fits(self, prompt: Prompt, example: Example, task: Task) -> bool:
        """Whether a prompt and its answer can be read at once. No text has more tokens than bytes, so most need no counting."""
        room = self.limit - self.taken
        choices = task.choices_of(example) if task.kind == "choose" else ()
        least = max(self.answer, task.max_new_tokens if task.kind == "generate" else 0)
        if not self.chat:
            longest = max((len((prompt.separator + c).encode()) for c in choices), default=0)
            if len(prompt.text().encode()) + SLACK + max(least, longest) <= room:
                return True
        base = self.get()
        text, ids = base.encode_prompt(prompt)
        longest = max(map(len, base.encode_answers(text, choices, separator=prompt.separator)), default=0)
        return len(ids) + max(least, longest) <= room

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Normalised embeddings by the plain base: (texts, hidden), on the CPU."""
        key = (self.fingerprint, hashlib.sha256(repr(list(texts)).encode()).hexdigest())
        if key in _RECENT:
            return _RECENT[key]
        vectors = Specialist(self.get()).embed(texts).cpu()
        if len(texts) > 1:
            while len(_RECENT) > 1:
                del _RECENT[next(iter(_RECENT))]
            _RECENT[key] = vectors
        return vectors

    def facts(self) -> dict[str, Any]:
        """What is saved of it: the arguments that make it again."""
        return {k: getattr(self, k) for k in ("name", "fingerprint", "dtype", "chat", "limit", "taken", "answer")}


_RECENT: dict[tuple[str, str], Tensor] = {}  # the last two corpora, so that a search over settings embeds them once
