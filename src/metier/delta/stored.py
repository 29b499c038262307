"""Stored: a safetensors file, its header checked strictly, its tensors mapped into memory and read when they are used.

Nothing that the header says is believed before it is checked against the file: lengths, offsets, types, shapes, names. What is
wrong is a `UserError` that names the file and the tensor.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metier.delta.shape import Shape
from metier.errors import UserError
from metier.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
FLOATING = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
KINDS = {dtype: kind for kind, dtype in TYPES.items()}
LONGEST_HEADER = 100_000_000  # bytes, as in the safetensors library
_NORESERVE = 0x4000  # Linux's MAP_NORESERVE: a private map of a large file shall not count as memory asked for


class Facts(NamedTuple):
    """What a header says of one tensor: its type ('BF16'), shape, and the bytes [begin, end) of the data it takes."""

    kind: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def dtype(self) -> torch.dtype:
        """The type as torch has it."""
        return getattr(torch, TYPES[self.kind])  # type: ignore[no-any-return]

    @property
    def itemsize(self) -> int:
        """Bytes of one entry."""
        return SIZES[self.kind]


class Stored:
    """One safetensors file. `facts`: name -> Facts in the order of the data; `metadata`: the header's strings."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.facts, self.metadata, self.start = header_of(self.path)
        self._map: mmap.mmap | None = None
        self._bytes: Tensor | None = None

    def __reduce__(self) -> tuple[type[Stored], tuple[Path]]:
        """Sent to another process, a file is its place: it is mapped again there."""
        return Stored, (self.path.absolute(),)

    def tensor(self, name: str) -> Tensor:
        """The tensor, a view of the mapped file: read when it is used, and never written back. Raises UserError if there is none."""
        if name not in self.facts:
            raise UserError(f"{self.path}: holds no tensor '{name}'.")
        facts = self.facts[name]
        if facts.begin == facts.end:
            return torch.empty(facts.shape, dtype=facts.dtype)
        data = self._mapped()[self.start + facts.begin : self.start + facts.end]
        if data.storage_offset() % facts.itemsize:
            data = data.clone()  # a file whose tensors are not aligned
        return data.view(facts.dtype).view(facts.shape)

    def data(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor, mapped as by `tensor`."""
        facts = self.facts[name]
        return np.frombuffer(self._memory(), np.uint8, facts.end - facts.begin, self.start + facts.begin)

    def _mapped(self) -> Tensor:
        if self._bytes is None:
            self._bytes = torch.frombuffer(self._memory(), dtype=torch.uint8)
        return self._bytes

    def _memory(self) -> mmap.mmap:
        if self._map is None:
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if hasattr(mmap, "MAP_PRIVATE"):
                    flags, protection = mmap.MAP_PRIVATE | _NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
                    self._map = mmap.mmap(file.fileno(), size, flags=flags, prot=protection)
                else:
                    self._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
        return self._map


class Mapped(NamedTuple):
    """A tensor of a file, to be read when it is used."""

    file: Stored
    name: str

    @property
    def shape(self) -> Shape:
        """The tensor's shape."""
        return Shape(self.file.facts[self.name].shape)

    @property
    def tensor(self) -> Tensor:
        """The tensor, a view of the mapped file."""
        return self.file.tensor(self.name)

    @property
    def words(self) -> NDArray[np.uint16] | None:
        """The bits of each entry, flat, where they are of bfloat16."""
        facts = self.file.facts[self.name]
        return self.file.data(self.name).view(np.uint16) if facts.kind == "BF16" and (self.file.start + facts.begin) % 2 == 0 else None


def header_of(path: Path) -> tuple[dict[str, Facts], dict[str, str], int]:
    """(name -> facts in the order of the data, metadata, where the data begins). Raises UserError on anything out of order."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, LONGEST_HEADER):
                raise UserError(f"{path}: is cut short: {size} bytes, a header of {length} is said. Copy or make the file again.")
            text = file.read(length)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
    header = parsed(path, text)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise UserError(f"{path}: its metadata is not a table of texts. The file is damaged.")
    facts = {name: _facts(path, name, said) for name, said in header.items()}
    ordered = dict(sorted(facts.items(), key=lambda item: item[1][2:]))
    _contiguous(path, ordered, size - 8 - length)
    return ordered, metadata, 8 + length


def parsed(path: Path, text: bytes) -> dict[str, Any]:
    """A JSON object without doubled keys, NaN or infinity. Raises UserError naming the file."""
    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: its header cannot be read ({error}). The file is damaged or of another kind.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: its header is {type(found).__name__}, not a table. The file is damaged or of another kind.")
    return found


def layout(
    tensors: Iterable[tuple[str, torch.dtype | str, tuple[int, ...]]], metadata: dict[str, str] | None = None
) -> tuple[bytes, dict[str, Facts]]:
    """(the bytes before the data, name -> facts) of a file with these tensors, in this order, filled with blanks to a multiple of 8."""
    facts, end = {}, 0
    for name, dtype, shape in tensors:
        kind = dtype if isinstance(dtype, str) else KINDS[str(dtype).removeprefix("torch.")]
        begin, end = end, end + math.prod(shape) * SIZES[kind]
        facts[name] = Facts(kind, tuple(shape), begin, end)
    table: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    table |= {n: {"dtype": f.kind, "shape": list(f.shape), "data_offsets": [f.begin, f.end]} for n, f in facts.items()}
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, facts


def raw(tensor: Tensor | NDArray[Any]) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, or of an array."""
    if isinstance(tensor, np.ndarray):
        return memoryview(tensor.view(np.uint8).data) if tensor.size else memoryview(b"")
    return memoryview(tensor.detach().reshape(-1).view(torch.uint8).numpy().data) if tensor.numel() else memoryview(b"")


def _facts(path: Path, name: str, said: Any) -> Facts:
    wrong = f"{path}: the header says of '{name}' what cannot be: "
    if not isinstance(said, dict) or set(said) != {"dtype", "shape", "data_offsets"}:
        raise UserError(wrong + "it must have dtype, shape and data_offsets, and nothing else. The file is damaged.")
    if not isinstance(said["dtype"], str) or said["dtype"] not in TYPES:
        raise UserError(wrong + f"unknown type {said['dtype']!r}; known are {', '.join(TYPES)}.")
    shape, offsets = said["shape"], said["data_offsets"]
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2 or len(shape) > 64:
        raise UserError(wrong + f"shape {shape!r}, offsets {offsets!r}. The file is damaged.")
    kind, (begin, end) = said["dtype"], offsets
    if end - begin != (size := math.prod(shape) * SIZES[kind]):
        raise UserError(wrong + f"shape {shape} of {kind} takes {size} bytes, its offsets {end - begin}.")
    if spread(shape) >= 1 << 61:
        raise UserError(wrong + f"shape {shape} is beyond any memory. The file is damaged.")
    return Facts(kind, tuple(shape), begin, end)


def _contiguous(path: Path, facts: dict[str, Facts], size: int) -> None:
    end, before = 0, ""
    for name, fact in facts.items():
        if fact.begin != end:
            what = f"overlaps '{before}'" if fact.begin < end else "leaves a gap before it"
            raise UserError(f"{path}: '{name}' at byte {fact.begin} {what} (which ends at {end}). The file is damaged.")
        end, before = fact.end, name
    if end != size:
        raise UserError(f"{path}: holds {size} bytes of data, its header describes {end}. It is cut short or damaged; copy it again.")


def spread(shape: Iterable[int]) -> int:
    """Entries of a shape, an empty axis counted as one: torch multiplies the others of it all the same, and must not overflow."""
    return math.prod(max(i, 1) for i in shape)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 1 << 62 for i in value)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [k for k, _ in pairs]
        raise ValueError(f"the name {next(n for n in names if names.count(n) > 1)!r} occurs twice")
    return found


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is not a number")
