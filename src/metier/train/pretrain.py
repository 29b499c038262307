"""Pretrain a small base by a recipe: tokenizer, packed text, AdamW or Muon; safe to kill, resumes where it was."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed
import torch.multiprocessing
from tokenizers import Tokenizer

from metier.errors import UserError
from metier.model import load_base
from metier.train import pretrain_data as text
from metier.train.encode import encode
from metier.train.pretrain_export import export
from metier.train.pretrain_recipe import Recipe, find, kind, load
from metier.train.pretrain_run import Report, Run


def pretrain(recipe: str | Path, out: Path, *, minutes: float | None = None, resume: bool = True, report: Report | None = None) -> Path:
    """Train the recipe's base and write it to `out` as a Hugging Face folder with CARD.md and curve.jsonl.

    `recipe` is a file or the name of a packaged one (tiny, early, nano, next, encoder); its key `kind` says
    what it makes. `minutes` overrides the recipe's time limit; the
    learning rate decays with whichever of time and tokens is further on, so a run limited by tokens alone is
    reproducible and one limited by time is not. Work in progress lies beside `out` ('<out>.work', packed text in
    'text-<hash>'); with `resume` a killed run goes on from its last checkpoint. `training.keep` leaves the base as it was on the
    way in '<out>.checkpoints'. `report` gets each line of the curve.
    """
    path = find(recipe)
    if kind(path) == "encoder":
        return encode(path, out, minutes=minutes, resume=resume, report=report)
    plan = load(path)
    out, work = Path(out), Path(f"{out}.work")
    if out.exists() and any(out.iterdir()) and not (out / "curve.jsonl").exists():
        raise UserError(f"{out}: exists and is not a pretrained base. Name another folder.")
    if not resume and work.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    packed, tokenizer = prepare(plan, out.parent)
    start = _Start(plan, packed, work, minutes or plan.training.minutes, work.absolute() / f"meeting-{os.getpid()}")
    context = torch.multiprocessing.get_context("spawn")
    others = [context.Process(target=_work, args=(start, rank), daemon=True) for rank in range(1, plan.training.workers)]
    for process in others:
        process.start()
    kept = Path(f"{out}.checkpoints")

    def keep(run: Run, fraction: float) -> None:
        export(run.model, tokenizer, plan, run.curve, kept / f"{fraction:g}")

    run = _work(start, 0, report or (lambda line: None), keep)
    for process in others:
        process.join()
    start.meeting.unlink(missing_ok=True)
    export(run.model, tokenizer, plan, run.curve, out)
    return out


def prepare(plan: Recipe, folder: Path) -> tuple[Path, Tokenizer]:
    """The packed text and tokenizer of a recipe, made once per folder and shared by recipes with the same text."""
    home = folder / f"text-{plan.digest('tokenizer', 'data', 'start')}-{text.fingerprint(plan.data)}"
    home.mkdir(parents=True, exist_ok=True)
    packed, vocabulary = home / "tokens.bin", home / "tokenizer.json"
    with open(home / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not vocabulary.exists() and plan.start:
            shutil.copyfile(Path(load_base(plan.start).path) / "tokenizer.json", vocabulary)
        elif not vocabulary.exists():
            text.train_tokenizer(plan.tokenizer, plan.data).save(str(home / "tokenizer.part"))
            os.replace(home / "tokenizer.part", vocabulary)
        tokenizer = Tokenizer.from_file(str(vocabulary))
        if not packed.exists():
            text.pack(tokenizer, plan.data, packed)
    return packed, tokenizer


class _Start(NamedTuple):
    """What every worker needs to begin."""

    plan: Recipe
    packed: Path
    work: Path
    minutes: float
    meeting: Path


def _work(start: _Start, rank: int, report: Report | None = None, keep: Callable[[Run, float], None] | None = None) -> Run:
    """One worker of a run: the same model as the others, its own rows, gradients averaged; rank 0 keeps clock, curve and checkpoints."""
    plan = start.plan
    torch.set_num_threads(plan.training.threads)
    if plan.training.workers > 1:
        torch.distributed.init_process_group("gloo", init_method=f"file://{start.meeting}", rank=rank, world_size=plan.training.workers)
    try:
        blocks = text.Blocks(start.packed, plan.data, plan.model.context, plan.training.seed)
        run = Run(plan, start.work, blocks, start.minutes, rank, keep)
        run.go(report)
    finally:
        if plan.training.workers > 1:
            torch.distributed.destroy_process_group()
    return run
