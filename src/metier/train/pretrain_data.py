"""Text for pretraining: the worlds' corpora mixed by share, tokenised, packed into one stream of tokens."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from metier import worlds
from metier.train.pretrain_recipe import Mixture, Vocabulary

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
SPECIAL = (PAD, BOS, EOS, "<|user|>", "<|assistant|>", "<|system|>")
CHAT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"


def documents(data: Mixture) -> Iterator[tuple[str, str]]:
    """(world, document) without end; the world furthest behind its share (in characters) comes next."""
    streams = {name: worlds.world(name, seed=data.seed).corpus(data.era) for name in data.shares}
    written = dict.fromkeys(streams, 0.0)
    while True:
        name = min(written, key=lambda n: (written[n], n))
        text = next(streams[name])
        if text:
            written[name] += len(text) / data.shares[name]
            yield name, text


def fingerprint(data: Mixture, first: int = 300) -> str:
    """8 hex digits of the mixture's first documents: moves when a world does (`code` moves with the installed Python)."""
    hashed = hashlib.sha256()
    for _, text in itertools.islice(documents(data), first):
        hashed.update(text.encode() + b"\0")
    return hashed.hexdigest()[:8]


def train_tokenizer(vocabulary: Vocabulary, data: Mixture) -> Tokenizer:
    """A byte-level BPE tokenizer; `encode` puts <|bos|> in front unless told otherwise."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary.size, special_tokens=list(SPECIAL), initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                  show_progress=False)  # fmt: skip
    source = documents(data)
    tokenizer.train_from_iterator((next(source)[1] for _ in range(vocabulary.documents)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, SPECIAL.index(BOS))]
    )
    return tokenizer


def answers(text: str, pattern: re.Pattern[str]) -> list[tuple[int, int]]:
    """Character spans of the answers in a document, the line end included."""
    return [(m.start(1), m.end(1) + 1) for m in pattern.finditer(text)]


def pack(tokenizer: Tokenizer, data: Mixture, path: Path) -> None:
    """Write `held_out` + `tokens` tokens and their loss weights to `path`: uint16 tokens in one file, uint8 marks of answers in the other."""
    pattern = re.compile(rf"^(?:{'|'.join(map(re.escape, data.answer_heads))}):( .*)$", re.MULTILINE)
    bos, eos = SPECIAL.index(BOS), SPECIAL.index(EOS)
    source, wanted, done = documents(data), data.held_out + data.tokens, 0
    temporary = path.with_suffix(".part")
    with open(temporary, "wb") as tokens_file, open(path.with_suffix(".marks.part"), "wb") as marks_file:
        while done < wanted:
            texts = [next(source)[1] for _ in range(2000)]
            for text, coded in zip(texts, tokenizer.encode_batch(texts, add_special_tokens=False), strict=True):
                ids = np.array([bos, *coded.ids, eos], dtype=np.uint16)
                marks = np.zeros(len(ids), dtype=np.uint8)
                starts = np.array([start for start, _ in coded.offsets] + [len(text)])
                for low, high in answers(text, pattern):
                    marks[1:][(starts >= low) & (starts < high)] = 1
                ids.tofile(tokens_file)
                marks.tofile(marks_file)
                done += len(ids)
    os.replace(path.with_suffix(".marks.part"), path.with_suffix(".marks"))
    os.replace(temporary, path)


class Blocks:
    """Blocks of context + 1 tokens from a packed file, in an order of its own for each pass; the first tokens are held out."""

    def __init__(self, path: Path, data: Mixture, context: int, seed: int) -> None:
        self.tokens = np.memmap(path, dtype=np.uint16, mode="r")
        self.marks = np.memmap(path.with_suffix(".marks"), dtype=np.uint8, mode="r")
        self.context, self.seed, self.weight = context, seed, data.answer_weight
        self.first = data.held_out // context
        self.count = (len(self.tokens) - 1) // context - self.first

    def block(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens [context + 1] and the loss weight of each target [context]."""
        part = slice(index * self.context, (index + 1) * self.context + 1)
        return self.tokens[part].astype(np.int64), 1.0 + (self.weight - 1.0) * self.marks[part][1:].astype(np.float32)

    def batch(self, start: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Training blocks number start .. start + n of the endless sequence of passes."""
        rows = [self.block(self.first + self._at(start + i)) for i in range(n)]
        return np.stack([r[0] for r in rows]), np.stack([r[1] for r in rows])

    def held_out(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The first n held-out blocks; the weights are those of answers only (0 or 1)."""
        rows = [self.tokens[i * self.context : (i + 1) * self.context + 1].astype(np.int64) for i in range(min(n, self.first))]
        marks = [self.marks[i * self.context : (i + 1) * self.context + 1][1:].astype(np.float32) for i in range(min(n, self.first))]
        return np.stack(rows), np.stack(marks)

    def _at(self, position: int) -> int:
        turn, place = divmod(position, self.count)
        if getattr(self, "_turn", None) != turn:
            self._turn, self._order = turn, np.random.default_rng((self.seed, turn)).permutation(self.count)
        return int(self._order[place])
