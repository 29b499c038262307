"""Options that several verbs share, and how settings are read from a command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from metier.errors import UserError, nearest
from metier.method import find

BaseName = Annotated[str, typer.Option("--base", "-b", help="Base model: metier-tiny, minilm, a folder in Hugging Face form, or a hub name.")]
Out = Annotated[str, typer.Option("--out", "-o", help="Folder for the results.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything that is drawn.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
AllowLeak = Annotated[bool, typer.Option("--allow-leak", help="Go on although examples occur in both train and test.")]
Family = Annotated[str | None, typer.Option("--family", help="causal, seq2seq or encoder, where it cannot be told from the base.")]
Dtype = Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, mps.")]
Chat = Annotated[bool | None, typer.Option("--chat/--no-chat", help="Whether prompts go through the tokenizer's chat template.")]
Truncate = Annotated[bool, typer.Option("--truncate", help="Cut prompts that are too long from the left instead of refusing them.")]


def load(base: str, family: str | None, dtype: str, device: str, chat: bool | None, truncate: bool) -> Any:
    """The base as the options describe it."""
    from metier.model import load_base

    return load_base(base, family=family, dtype=dtype, device=device, chat=chat, truncate=truncate)  # type: ignore[arg-type]


def method_settings(pairs: Sequence[str], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{method: {setting: text}} from 'lora.rank=16' (or 'rank=16' where one method is run)."""
    parts = [p for m in methods for p in m.split("+")]
    found: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        method, dot, setting = name.rpartition(".")
        if not equals or not setting:
            raise UserError(f"--set {pair!r}: write METHOD.SETTING=VALUE, for instance lora.rank=16.")
        if not dot:
            owners = [p for p in parts if setting in {s.name for s in find(p).settings}]
            if len(set(owners)) != 1:
                known = sorted({s.name for p in parts for s in find(p).settings})
                why = f"{len(set(owners))} of the methods have it" if owners else "no method has it."
                raise UserError(f"--set {pair!r}: {why}{nearest(setting, known) if not owners else '. Write METHOD.SETTING=VALUE.'}")
            method = owners[0]
        found.setdefault(method, {})[setting.replace("-", "_")] = value
    return found


def flags(extra: Sequence[str]) -> list[str]:
    """Free flags ('--rank 16', '--rank=16') as 'rank=16' pairs, for `method_settings`."""
    pairs, rest = [], list(extra)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise UserError(f"unexpected argument {word!r}. Settings are flags: --rank 16. See `metier tune --help`.")
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"flag {word} needs a value.")
            value = rest.pop(0)
        pairs.append(f"{name.replace('-', '_')}={value}")
    return pairs
