"""An answer's tokens are those that follow the prompt's in the whole text, as lm-evaluation-harness takes them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tests.model.architectures import base, tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from metier.model import Base, Specialist
from metier.task import Prompt

TEXT = (
    "Once upon a time there was a little dog named Rex. He liked to run and to play with the red ball.",
    "Question: What is 17 + 25?\nAnswer: 42\n\nQuestion: Where is Oslo?\nAnswer: Norway",
    "Satz: Der Bär läuft über die Straße. Gefühl: schön — naïve café, 東京タワー, 🙂 done",
    "def f(x):\n    return x*2  # doubled\n",
)
ANSWERS = ("yes", "positive", "New York", "42", "-3.5", "東京", "a", "Bär", "None of the above.", "x*2", "card_arrival", "🙂")
ENDS = ("Answer:", "Q: what?\nA:", "Label ->", "\n", "the", "word\n\n", ":", "é", "\t", "!")


def byte_level() -> Any:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def sentencepiece() -> Any:
    """Llama 2's way: BPE over the whole text, a space before it and for every space a mark, bytes for the unknown."""
    inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>", *[f"<0x{i:02X}>" for i in range(256)]]
    inner.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False))
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


def unigram() -> Any:
    """T5's way."""
    inner = Tokenizer(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    inner.train_from_iterator(
        TEXT, trainers.UnigramTrainer(vocab_size=220, special_tokens=["</s>", "<unk>"], unk_token="<unk>", show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")


def word_piece() -> Any:
    inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.train_from_iterator(
        TEXT, trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False)
    )
    inner.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def check(tokenizer: Any) -> None:
    made = Base("x", "causal", base("llama").model, tokenizer, "", 4096)
    draw = random.Random(0)
    words = " ".join(TEXT).split(" ")
    for end in ENDS:
        for _ in range(6):
            prompt = " ".join(draw.choices(words, k=draw.randrange(40))) + " " + end
            for answer in ANSWERS:
                before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
                whole = tokenizer(f"{prompt} {answer}", add_special_tokens=False)["input_ids"]
                assert made.encode_answer(prompt, answer, separator=" ") == whole[len(before) :], (prompt, answer)


@pytest.mark.parametrize("make", [byte_level, sentencepiece, unigram, word_piece])
def test_as_in_the_whole_text(make: Any) -> None:
    check(make())


def test_of_a_real_model(shared: Path) -> None:
    folder = shared / "models" / "stories3M"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    check(AutoTokenizer.from_pretrained(folder))


@pytest.mark.parametrize("make", [byte_level, sentencepiece, unigram, word_piece])
@pytest.mark.parametrize("special", [True, False])
def test_ids_are_those_of_a_call_whatever_the_tokenizer_was_told_before(make: Any, special: bool) -> None:
    """Also after a call that cut or padded, which a tokenizer's Rust side remembers; and for one with a call of its own."""
    plain = make()
    wanted = [plain(t, add_special_tokens=special)["input_ids"] for t in TEXT]
    plain.pad_token = plain.convert_ids_to_tokens(0)
    made = Base("x", "causal", None, plain, "", 4096)
    for text, ids in zip(TEXT, wanted, strict=True):
        plain(["a", "b c d e"], padding="max_length", truncation=True, max_length=3)
        assert made.encode(text, special=special) == ids

    class Own(PreTrainedTokenizerFast):
        def __call__(self, text: Any, **more: Any) -> Any:
            return super().__call__(text.upper(), **more)

    own = Own(tokenizer_object=plain.backend_tokenizer)
    assert Base("x", "causal", None, own, "", 4096).encode("abc", special=special) == plain("ABC", add_special_tokens=special)["input_ids"]


def test_answers_together_are_each_of_them() -> None:
    made = base("llama")
    for prompt, separator in (("ab", " "), ("ab", ""), ("x" * 40 + "ab", " ")):
        wanted = [made.encode_answer(prompt, a, separator=separator) for a in ("yes", "no")]
        for _ in range(2):
            found = made.encode_answers(prompt, ("yes", "no"), separator=separator)
            assert found == wanted
            found[0].append(7)  # a caller's list is its own


def test_the_end() -> None:
    made = base("llama")
    assert made.encode_answer("ab", "c", separator=" ", end=True) == [*made.encode_answer("ab", "c", separator=" "), 2]
    assert made.encode_answer("ab", "c", separator="") == made.encode("c")


def test_a_decoder_of_its_own_starts_with_the_answer() -> None:
    made = base("t5")
    assert made.encode_answer("ab", "cd", separator=" ", end=True) == [*made.encode("cd", special=False), 2]


def test_through_a_chat_template() -> None:
    found = tokenizer()
    found.chat_template = (
        "{% for m in messages %}<s>{{ m['role'][0] }}:{{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}<s>a:{% endif %}"
    )
    made = Base("x", "causal", base("llama").model, found, "", 128, chat=True)
    prompt = Prompt("hi", "be kind", (("q", "r"),))
    text, ids = made.encode_prompt(prompt)
    assert text == "<s>s:be kind</s><s>u:q</s><s>a:r</s><s>u:hi</s><s>a:"
    assert found.decode(ids) == text
    assert ids.count(1) == 5, "special tokens stand once, as the template has them"
    assert made.encode_answer(text, "yes", separator=prompt.separator, end=True) == [*found("yes")["input_ids"], 2]
    assert len(Specialist(made).score([prompt], [["yes", "no"]])[0]) == 2
