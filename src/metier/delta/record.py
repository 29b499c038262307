"""Record: where a change comes from, one small table for JSON, filled by one function wherever a change is made.

    operation   what was done: diff, merge, sum, scale, transform, compress, tune, ...
    method      whose settings they are;  settings: by name, coefficients among them
    inputs      what it was done to: records themselves, each with `path`, `kind` and `fingerprint` where it was read from a disk
    papers      numbers of the list that `metier papers` shows;  versions: of what took part

More fields may stand beside (task, seed, base: the folder of the base); what is empty is left out.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WHOLE = 1 << 24  # bytes of all files up to which they are hashed whole
BLOCK, BLOCKS = 1 << 12, 64  # of a larger file
Record = Mapping[str, Any]
Terms = list[tuple[float, Record]]


def record(operation: str, *inputs: Record, **more: Any) -> dict[str, Any]:
    """The record of a change made now of these inputs. more: method, settings, papers and other fields."""
    found = {"operation": operation, **more, "inputs": [dict(i) for i in inputs], "versions": more.get("versions") or versions()}
    return {k: v for k, v in found.items() if v not in ("", None, {}, [], ())}


def versions() -> dict[str, str]:
    """Of metier, and of the libraries that this process has loaded; none is loaded for it."""
    there = {name: sys.modules.get(name) for name in ("metier", "torch", "transformers", "peft")}
    return {name: str(version) for name, module in there.items() if (version := getattr(module, "__version__", None))}


def source(path: Path, kind: str, files: Sequence[Path], *, whole: bool = False) -> dict[str, Any]:
    """What is said of something on a disk. kind: delta, adapter, specialist, change, checkpoint, file. whole: hash all its bytes."""
    return {"path": str(path.expanduser().absolute()), "kind": kind, "fingerprint": fingerprint(files, whole=whole)}


def fingerprint(files: Sequence[Path], *, whole: bool = False) -> str:
    """'sha256:...' over the sizes and bytes of the files in this order; of more than WHOLE bytes 'sampled:...', in a millisecond a file.

    sampled: SHA-256 over each file's size and over BLOCKS blocks of BLOCK bytes, the first at its beginning (the header), the last at
    its end, evenly spread. It tells models apart, not two that differ in a few entries.
    """
    sizes = [f.stat().st_size for f in files]
    whole, digest = whole or sum(sizes) <= WHOLE, hashlib.sha256()
    for path, size in zip(files, sizes, strict=True):
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            if whole or size <= BLOCK * BLOCKS:
                while part := file.read(1 << 20):
                    digest.update(part)
            else:
                for i in range(BLOCKS):
                    digest.update(os.pread(file.fileno(), BLOCK, i * (size - BLOCK) // (BLOCKS - 1)))
    return f"{'sha256' if whole else 'sampled'}:{digest.hexdigest()}"


def scaled(factor: float, one: Record) -> dict[str, Any]:
    """The record of factor * change."""
    return _linear([(factor * c, r) for c, r in _terms(one)])


def added(one: Record, other: Record) -> dict[str, Any]:
    """The record of the sum of two changes."""
    return _linear([*_terms(one), *_terms(other)])


def _terms(one: Record) -> Terms:
    """The change as a sum of factors times changes: what was added up and stored nowhere is taken apart again."""
    if one.get("operation") in ("sum", "scale") and "path" not in one and "inputs" in one:
        return list(zip(one["settings"]["coefs"], one["inputs"], strict=True))
    return [(1.0, one)]


def _linear(terms: Terms) -> dict[str, Any]:
    """A change that is in the sum twice is there once: what is known by its fingerprint."""
    found: Terms = []
    for c, r in terms:
        at = next((i for i, (_, other) in enumerate(found) if "fingerprint" in r and other == r), None)
        if at is None:
            found.append((c, r))
        else:
            found[at] = (found[at][0] + c, r)
    return record("scale" if len(found) == 1 else "sum", settings={"coefs": [c for c, _ in found]}) | {
        "inputs": [dict(r) for _, r in found]
    }
