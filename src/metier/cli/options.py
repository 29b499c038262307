"""Options that several verbs share, and how settings are read from a command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from metier.errors import UserError, nearest
from metier.method import find

BaseName = Annotated[
    str, typer.Option("--base", "-b", help="Base model: metier-tiny, minilm, a folder in Hugging Face form, or a hub name.")
]
OfBase = Annotated[str | None, typer.Option("--base", "-b", help="The base of what is changed; a saved delta remembers it.")]
Out = Annotated[str, typer.Option("--out", "-o", help="Folder for the results.", callback=os.path.expanduser)]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything that is drawn.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
AllowLeak = Annotated[bool, typer.Option("--allow-leak", help="Go on although examples occur in both train and test.")]
Family = Annotated[str | None, typer.Option("--family", help="causal, seq2seq or encoder, where it cannot be told from the base.")]
Dtype = Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, mps.")]
Ray = Annotated[str | None, typer.Option("--ray", help="Address of a Ray cluster, 'auto', or 'local'.")]
Chat = Annotated[bool | None, typer.Option("--chat/--no-chat", help="Whether prompts go through the tokenizer's chat template.")]
Truncate = Annotated[
    bool,
    typer.Option(
        "--truncate",
        help="Cut prompts that are too long from the left, and do not learn answers that leave no room for one, instead of refusing them.",
    ),
]

Precision = Annotated[str | None, typer.Option("--precision", help="Of training: float32 or bf16. Default: the faster one here.")]

Accumulate = Annotated[
    int, typer.Option("--accumulate", min=1, help="Split each training step's examples into so many parts: the same result in less memory.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is in OUT.")]
Verify = Annotated[
    bool, typer.Option("--verify/--no-verify", help="Load the result again and compare what it says with what it should say.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be read, written and taken, and stop.")]


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
                if not owners:
                    raise UserError(f"--set {pair!r}: no method has this setting.{nearest(setting, known)}")
                raise UserError(f"--set {pair!r}: {', '.join(dict.fromkeys(owners))} all have it. Write for instance {owners[0]}.{pair}.")
            method = owners[0]
        found.setdefault(method, {})[setting.replace("-", "_")] = value
    return found


def flag_settings(extra: Sequence[str], method: str) -> dict[str, dict[str, Any]]:
    """{method: {setting: text}} from free flags: '--rank 16', '--rank=16', in a chain '--lora.rank 16' too."""
    parts, rest = method.split("+"), list(extra)
    found: dict[str, dict[str, Any]] = {}
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise UserError(f"unexpected argument {word!r}. Settings are flags: --rank 16. See `metier tune --help`.")
        name, equals, value = word[2:].partition("=")
        owner, dot, setting = name.rpartition(".")
        setting = setting.replace("-", "_")
        if dot and owner not in parts:
            raise UserError(f"flag --{name}: {owner!r} is not among the methods {', '.join(parts)}.{nearest(owner, parts)}")
        owners = [owner] if dot else [p for p in parts if setting in {s.name for s in find(p).settings}]
        if not owners:
            known = sorted({s.name.replace("_", "-") for p in parts for s in find(p).settings} | set(TUNE_FLAGS))
            raise UserError(f"unknown flag --{name}.{nearest(name, known)} `metier methods show {parts[0]}` says what the settings do.")
        if len(owners) > 1:
            raise UserError(f"flag --{name}: {' and '.join(owners)} both have it. Write --{owners[0]}.{name} or --{owners[1]}.{name}.")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"flag --{name} needs a value.")
            value = rest.pop(0)
        found.setdefault(owners[0], {})[setting] = value
    return found


TUNE_FLAGS = ("base", "out", "budget", "seed", "precision", "force", "allow-leak", "family", "dtype", "device", "chat", "truncate", "json")


def free(out: Path, force: bool) -> Path:
    """Where a specialist may be saved: nothing is there, or an empty folder, or with `force` another specialist."""
    from metier.delta.place import vacant

    place = vacant(out, True)
    if place.exists() and any(place.iterdir()):
        if not (place / "specialist.json").exists():
            raise UserError(f"{out}: holds something that is no specialist and is not replaced. Choose another folder with -o.")
        if not force:
            raise UserError(f"{out}: holds a specialist already. Choose another folder with -o, or replace it with --force.")
    return place
