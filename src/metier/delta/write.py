"""Write: a checkpoint laid out like another one, tensors written where they end up, nothing that looks finished before it is.

All work is done in the hidden folder '.NAME.part' beside the output. A shard is written under a name ending in '.part' and renamed when
it is whole; the folder takes the output's name when all are. A killed run leaves the hidden folder; the next run with the same
recipe keeps its finished shards. (Whole after a kill, that is; a power cut may lose what the disk had not taken yet.) What is refused,
or fails before a shard is finished, leaves nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metier.delta.checkpoint import INDEX, Checkpoint
from metier.delta.place import explained, removed, renamed, vacant
from metier.delta.stored import Facts, Stored, layout, raw
from metier.errors import Unwritable, UserError

if TYPE_CHECKING:
    from torch import Tensor

RECIPE, LOCK = "metier.json", ".lock"
PIECE = (
    1 << 17
)  # bytes put at once, at multiples of it: the kernel takes up to 8 times as long for smaller and for larger ones, now and then
KEPT = (".json", ".txt", ".model", ".jinja", ".md")  # suffixes of what lies beside the weights: configuration, tokenizer


class ShardWriter:
    """One safetensors file being written: `write` puts bytes of a tensor where they belong, from any thread."""

    def __init__(self, place: Path, head: bytes, facts: Mapping[str, Facts]) -> None:
        self.place, self.draft, self.facts = place, place.with_name(f"{place.name}.{uuid.uuid4().hex[:8]}.part"), facts
        self.start, self.size = len(head), len(head) + max((f.end for f in self.facts.values()), default=0)
        self.file = os.open(self.draft, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o644)
        os.truncate(self.file, self.size)
        _put(self.file, memoryview(head), 0)

    def write(self, name: str, start: int, values: Tensor | NDArray[np.uint16]) -> None:
        """Put values of a tensor, of its type (in an array: their bits), at flat index `start`."""
        facts = self.facts[name]
        if values.dtype != (np.uint16 if isinstance(values, np.ndarray) and facts.kind == "BF16" else facts.dtype):
            raise TypeError(f"{self.place.name}: '{name}' is {facts.dtype}; got {values.dtype}.")
        _put(self.file, raw(values), self.start + facts.begin + start * facts.itemsize)

    def finish(self) -> None:
        """Give the file its name."""
        self.close()
        os.replace(self.draft, self.place)

    def close(self) -> None:
        """Let go of the file; unfinished, it keeps the name of a draft."""
        if self.file >= 0:
            os.close(self.file)
        self.file = -1


class CheckpointWriter:
    """A folder that becomes a checkpoint like `like`: the same files, names, shapes and types. It can be sent to another process."""

    def __init__(self, out: Path, like: Checkpoint, draft: Path) -> None:
        self.out, self.like, self.draft = out, like, draft

    def left(self) -> list[Stored]:
        """The shards that are not finished yet."""
        return [s for s in self.like.shards if not (self.draft / s.path.name).exists()]

    @contextlib.contextmanager
    def shard(self, like: Stored) -> Iterator[ShardWriter]:
        """The writer of one shard, which is finished when the block ends without an error."""
        writer = ShardWriter(self.draft / like.path.name, *layout_of(like))
        try:
            yield writer
            writer.finish()
        finally:
            writer.close()


def layout_of(shard: Stored) -> tuple[bytes, dict[str, Facts]]:
    """(the bytes before the data, name -> facts) of a file with the tensors of `shard`."""
    return layout(((n, f.kind, f.shape) for n, f in shard.facts.items()), shard.metadata or {"format": "pt"})


@contextlib.contextmanager
def checkpoint_like(like: Checkpoint, out: Path, recipe: Mapping[str, Any], *, force: bool = False) -> Iterator[CheckpointWriter]:
    """A writer; `out` appears when the block ends without an error. Raises UserError where `out` is there (unless force) or being written."""
    out, text = vacant(out, force, [like.path]), json.dumps(recipe, indent=1, sort_keys=True, default=str) + "\n"
    with explained(out):
        draft = out.parent / f".{out.name}.part"
        draft.mkdir(parents=True, exist_ok=True)
        with _alone(draft, out):
            writer = CheckpointWriter(out, like, draft)
            try:
                _resume(draft, text, like)
                yield writer
                _finish(draft, out, like)
            except BaseException as error:
                refused = isinstance(error, UserError) and not isinstance(error, Unwritable)
                if refused or len(writer.left()) == len(like.shards):  # nothing there that a next run could go on with
                    removed(draft)
                raise


def _resume(draft: Path, recipe: str, like: Checkpoint) -> None:
    """Keep finished shards of the same recipe; remove what another one, or a killed run, left."""
    same = (draft / RECIPE).is_file() and (draft / RECIPE).read_text(encoding="utf-8") == recipe
    sizes = {s.path.name: layout_of(s) for s in like.shards}
    for left in draft.iterdir():
        head, facts = sizes.get(left.name, (b"", {}))
        whole = left.name in sizes and left.stat().st_size == len(head) + max((f.end for f in facts.values()), default=0)
        if left.name != LOCK and not (same and (whole or left.name == RECIPE)):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    if not same:
        _text(draft / RECIPE, recipe)


def _finish(draft: Path, out: Path, like: Checkpoint) -> None:
    if like.path.is_dir():
        for file in sorted(like.path.iterdir()):
            if file.is_file() and file.suffix in KEPT and file.name not in (INDEX, RECIPE):
                shutil.copyfile(file, draft / file.name)
        if (like.path / INDEX).is_file():
            shutil.copyfile(like.path / INDEX, draft / INDEX)
    (draft / LOCK).unlink()
    renamed(draft, out)


@contextlib.contextmanager
def _alone(draft: Path, out: Path) -> Iterator[None]:
    with open(draft / LOCK, "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{out}: another process is writing it. Wait for it, or choose another folder with -o.") from error
        yield


def _text(place: Path, text: str) -> None:
    draft = place.with_name(place.name + ".part")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, place)


def _put(file: int, data: memoryview, offset: int) -> None:
    at = 0
    while at < len(data):
        at += os.pwrite(file, data[at : at + PIECE - (offset + at) % PIECE], offset + at)
