"""Specialist: a base plus changes. It answers, scores and embeds; it is what methods return and evaluation measures."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metier import atomic
from metier.errors import BaseMismatch, UserError
from metier.model import change as changes_on_disk
from metier.model.base import Base
from metier.model.causal import CausalReader, Generated, Voice
from metier.model.change import ActivationChange, Change, InputChange, OutputChange, WeightChange
from metier.model.encoder import HEAD, EncoderReader, Head, Text
from metier.model.loading import load_base
from metier.model.seq2seq import Seq2SeqReader
from metier.task import Example, Prompt, Task


@dataclass(frozen=True)
class Answer:
    """What a specialist said on one example.

    logprobs   normalised log-probabilities over `choices` (choose), else None
    confidence probability of what was answered: of the choice, of the vote, or the mean token probability
    seconds    the example's share of its call
    """

    output: str
    choices: tuple[str, ...] | None
    logprobs: tuple[float, ...] | None
    confidence: float | None
    tokens_in: int
    tokens_out: int
    seconds: float
    prompt: str


@dataclass(frozen=True)
class Specialist:
    """A base plus changes, applied in order."""

    base: Base
    changes: tuple[Change, ...] = ()

    def then(self, *changes: Change) -> Specialist:
        """The specialist with more changes."""
        return Specialist(self.base, (*self.changes, *changes))

    def prompt(self, task: Task, example: Example) -> Prompt:
        """The example's prompt after all changes of the input."""
        return reduce(lambda p, c: c.prompt(p, example, task), self._of(InputChange), task.prompt(example))

    @contextlib.contextmanager
    def attached(self) -> Iterator[nn.Module]:
        """The base's model with the changes of weights and activations, for the time of a with-block."""
        with contextlib.ExitStack() as stack:
            for kind in (WeightChange, ActivationChange):
                for change in self._of(kind):
                    stack.enter_context(change.attach(self.base.model))
            yield self.base.model

    def prefix(self) -> Tensor | None:
        """Soft prompts of all changes, in order: (n, hidden), or None."""
        parts = [p for c in self._of(InputChange) if (p := c.prefix()) is not None]
        return torch.cat([p.to(self.base.device) for p in parts]) if parts else None

    def head(self) -> Head | None:
        """The classification head of the last change that has one."""
        for change in reversed(self._of(WeightChange)):
            new = change.new_tensors()
            if HEAD[0] in new:
                return Head(change.labels, new[HEAD[0]], new[HEAD[1]])
        return None

    def answer(self, task: Task, examples: Sequence[Example], *, seed: int = 0) -> list[Answer]:
        """Answers to examples of a task, in their order."""
        if not examples:
            return []
        started = time.perf_counter()
        if task.kind == "choose":
            found = self._answer_choose(task, examples)
        elif task.kind == "generate":
            found = self._answer_generate(task, examples, seed)
        else:
            found = self._answer_rank(task, examples)
        share = (time.perf_counter() - started) / len(examples)
        return [
            Answer(output, choices, logprobs, confidence, t_in, t_out, share, prompt)
            for output, choices, logprobs, confidence, t_in, t_out, prompt in found
        ]

    def choose(self, task: Task, examples: Sequence[Example]) -> list[Tensor]:
        """Log-probabilities over each example's choices, after all changes."""
        raw = self._raw_choices(task, examples)[0]
        outs = self._of(OutputChange)
        return [reduce(lambda s, c: c.rescore(s, task), outs, r.float().log_softmax(-1)).log_softmax(-1) for r in raw]

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seeds: Sequence[str] | None = None,
    ) -> list[Generated]:
        """Answers to prompts as they are (changes of the input are not applied again), greedy or sampled."""
        if self.base.family == "encoder":
            raise UserError(
                f"{self.base.name} is an encoder and cannot generate text. Use a causal or seq2seq base, or a task of kind 'choose'."
            )
        room = max_new_tokens + self._soft()
        ids = [self.base.fits(self.base.encode_prompt(p)[1], room, f"prompt {i}") for i, p in enumerate(prompts)]
        return self._reader().generate(ids, max_new_tokens=max_new_tokens, stop=stop, temperature=temperature, seeds=seeds)

    def score(self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]) -> list[Tensor]:
        """Log-likelihood of every continuation of every prompt (prompts are read as they are): a tensor per prompt, in nats."""
        if self.base.family == "encoder":
            raise UserError(f"{self.base.name} is an encoder and gives no likelihoods of text. Use choose() on a task of kind 'choose'.")
        ids, options = [], []
        for i, (prompt, listed) in enumerate(zip(prompts, continuations, strict=True)):
            text, tokens = self.base.encode_prompt(prompt)
            answers = self.base.encode_answers(text, listed, separator=prompt.separator)
            if not answers or not all(answers):
                raise UserError(
                    f"prompt {i}: continuations {list(listed)!r} are none, or one of them has no tokens. Give every one a text."
                )
            ids.append(self.base.fits(tokens, max(map(len, answers)) + self._soft(), f"prompt {i}"))
            options.append(answers)
        return self._reader().choose(ids, options)

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Normalised embeddings: (texts, hidden)."""
        if self.base.family == "encoder":
            return self._encoder().embed(texts)
        ids = [self.base.encode(t)[: self.base.max_length] or [self.base.start] for t in texts]
        return nn.functional.normalize(self._reader().embed(ids), dim=-1)

    def text(self, task: Task, example: Example) -> Text:
        """What an encoder reads: the task's input fields, or the prompt."""
        parts = [str(example.fields[name]) for name in task.inputs]
        if len(parts) == 2:
            return parts[0], parts[1]
        return parts[0] if parts else self.prompt(task, example).query

    def save(self, place: Path) -> None:
        """Write the specialist as a folder: which base, and its changes in order. Whole or not at all."""
        with atomic.folder(place) as draft:
            names = []
            for i, change in enumerate(self.changes):
                names.append(f"{i:02d}-{change.place}")
                changes_on_disk.save(change, draft / names[-1], base=self.base.fingerprint)
            base = self.base
            local = not base.name.startswith("metier-") and Path(base.name).expanduser().is_dir()
            facts = {
                "base": str(Path(base.name).expanduser().resolve()) if local else base.name, "path": base.path, "fingerprint": base.fingerprint,
                "family": base.family, "dtype": base.dtype, "chat": base.chat, "truncate": base.truncate, "changes": names,
            }  # fmt: skip
            atomic.write_json(draft / "specialist.json", {"format": 1, **facts})

    @classmethod
    def load(cls, place: str | Path, *, base: Base | str | None = None) -> Specialist:
        """Read a specialist; its base is found by the name it was made from, or given. Raises `BaseMismatch` for another base."""
        place = Path(place)
        try:
            facts = json.loads((place / "specialist.json").read_text(encoding="utf-8"))
            name, names, fingerprint = facts["base"], [str(n) for n in facts["changes"]], str(facts["fingerprint"])
            options = {k: facts[k] for k in ("family", "dtype", "chat", "truncate")}
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{place}: not a saved specialist ({error!r}). A specialist is a folder with specialist.json.") from error
        found = load_base(base if base is not None else name, **options)
        if found.fingerprint != fingerprint:
            raise BaseMismatch(
                f"{place}: made from base {fingerprint[:16]}, not {found.fingerprint[:16]} ({found.name}). Give the base it was made from."
            )
        changes = tuple(changes_on_disk.load(place / n, base=found.fingerprint) for n in names)
        for change in changes:
            if isinstance(change, InputChange):
                change.bind(found)
        return cls(found, changes)

    def _of(self, kind: type[Any]) -> list[Any]:
        return [c for c in self.changes if isinstance(c, kind)]

    @contextlib.contextmanager
    def _attach(self) -> Iterator[None]:
        with self.attached():
            yield

    def _encoder(self) -> EncoderReader:
        if self._soft():
            raise UserError(f"{self.base.name}: soft prompts are read by causal bases only. Leave that change out.")
        return EncoderReader(self.base, self._attach, self.head())

    def _reader(self) -> CausalReader | Seq2SeqReader:
        speaking = [(c, list(c.voices(self.base))) for c in self._of(OutputChange)]
        if self.base.family == "seq2seq":
            if self._soft() or any(own for _, own in speaking):
                raise UserError(
                    f"{self.base.name}: soft prompts and other models' voices are read by causal bases only. Leave that change out."
                )
            return Seq2SeqReader(self.base, self._attach)
        voices = [Voice(self.base.model, self.prefix(), self._attach), *(v for _, vs in speaking for v in vs)]

        def fuse(logits: Sequence[Tensor]) -> Tensor:
            result, at = logits[0], 1
            for change, own in speaking:
                if own:
                    result = change.fuse([result, *logits[at : at + len(own)]])
                    at += len(own)
            return result

        return CausalReader(voices, self.base.tokenizer, fuse)

    def _raw_choices(self, task: Task, examples: Sequence[Example]) -> tuple[list[Tensor], list[str], list[int]]:
        choices = [task.choices_of(e) for e in examples]
        if self.base.family == "encoder":
            texts = [self.text(task, e) for e in examples]
            reader = self._encoder()
            shown = [" | ".join(t) if isinstance(t, tuple) else t for t in texts]
            counts = [min(len(self.base.encode(s)), self.base.max_length) for s in shown]
            return reader.choose(texts, choices), shown, counts
        prompts, ids, options = [], [], []
        for example, listed in zip(examples, choices, strict=True):
            prompt = self.prompt(task, example)
            text, tokens = self.base.encode_prompt(prompt)
            answers = self.base.encode_answers(text, listed, separator=prompt.separator)
            if empty := [c for c, a in zip(listed, answers, strict=True) if not a]:
                raise UserError(f"task {task.name}, example {example.id}: choice {empty[0]!r} has no tokens. Give every choice a text.")
            tokens = self.base.fits(tokens, max(map(len, answers)) + self._soft(), f"task {task.name}, example {example.id}")
            prompts.append(text)
            ids.append(tokens)
            options.append(answers)
        return self._reader().choose(ids, options), prompts, [len(i) for i in ids]

    def _soft(self) -> int:
        prefix = self.prefix()
        return 0 if prefix is None else prefix.shape[0]

    def _answer_choose(self, task: Task, examples: Sequence[Example]) -> list[tuple[Any, ...]]:
        raw, prompts, counts = self._raw_choices(task, examples)
        outs, found = self._of(OutputChange), []
        for example, scores, prompt, count in zip(examples, raw, prompts, counts, strict=True):
            logprobs = reduce(lambda s, c: c.rescore(s, task), outs, scores.float().log_softmax(-1)).log_softmax(-1)
            best = int(logprobs.argmax())
            choices = task.choices_of(example)
            found.append((choices[best], choices, tuple(logprobs.tolist()), float(logprobs[best].exp()), count, 0, prompt))
        return found

    def _answer_generate(self, task: Task, examples: Sequence[Example], seed: int) -> list[tuple[Any, ...]]:
        prompts = [self.prompt(task, e) for e in examples]
        coded = [self.base.encode_prompt(p) for p in prompts] if self.base.family != "encoder" else [("", [])] * len(prompts)
        for example, (_, ids) in zip(examples, coded, strict=True):
            self.base.fits(ids, task.max_new_tokens + self._soft(), f"task {task.name}, example {example.id}")
        options: dict[str, Any] = {"max_new_tokens": task.max_new_tokens, "stop": task.stop}
        voting = next((c for c in reversed(self._of(OutputChange)) if c.samples() is not None), None)
        if voting is None:
            written = self.generate(prompts, **options)
            sure = torch.tensor([g.logprob for g in written]).exp().tolist()
            return [(g.text, None, None, p, len(ids), g.tokens, text) for g, p, (text, ids) in zip(written, sure, coded, strict=True)]
        count, temperature = voting.samples()
        seeds = [f"{seed}|{e.id}|{k}" for e in examples for k in range(count)]
        drawn = self.generate([p for p in prompts for _ in range(count)], temperature=temperature, seeds=seeds, **options)
        found = []
        for i, (example, (text, ids)) in enumerate(zip(examples, coded, strict=True)):
            samples = drawn[i * count : (i + 1) * count]
            output, share = voting.vote(samples, example, task)
            found.append((output, None, None, share, len(ids), sum(s.tokens for s in samples), text))
        return found

    def _answer_rank(self, task: Task, examples: Sequence[Example], depth: int = 100) -> list[tuple[Any, ...]]:
        texts = [self.prompt(task, e).query for e in examples]
        found = next((r for c in reversed(self._of(OutputChange)) if (r := c.rank(texts, task)) is not None), None)
        count = [0] * len(texts)  # tokens the model read
        if found is None:
            likeness = self.embed(texts) @ self.embed([d.whole for d in task.documents]).T
            found = likeness.topk(min(depth, len(task.documents)), dim=1).indices.tolist()
            count = [len(self.base.encode(t)) for t in texts]
        return [
            (json.dumps([task.documents[j].id for j in row[:depth]]), None, None, None, c, 0, t)
            for row, c, t in zip(found, count, texts, strict=True)
        ]
