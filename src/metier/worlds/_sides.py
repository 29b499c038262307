"""Sides: every text belongs to the corpus or to one split by its checksum, so that none has to remember what another showed."""

from __future__ import annotations

import zlib

_SHARES = {"corpus": 8, "train": 8, "dev": 2, "test": 2}
_SIDES = tuple(side for side, share in _SHARES.items() for _ in range(share))


def side_of(text: str) -> str:
    """corpus or train (2/5 of all texts each), dev or test (1/10 each)."""
    return _SIDES[zlib.crc32(text.encode()) % len(_SIDES)]
