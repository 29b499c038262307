"""Papers: the literature list, and what of each paper exists here. The status is computed, never written by hand.

A paper *works* when every one of its ids exists and a claim about it has a result that counts. An id of a method paper exists
when a method of that name is registered (the contract suite runs over every registered method, so that being registered is being
tested); an id of another kind of paper exists also when a claim of that name is written. It is there *partly* when something
of it exists, and *not yet* otherwise.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metier.claims import result
from metier.claims.claim import Entry, catalogue
from metier.errors import UserError
from metier.method import Method
from metier.method import catalogue as methods

LIST = Path(__file__).parents[1] / "papers.json"
WORKS, PARTLY, NOT_YET = "works", "partly", "not yet"
STATUSES = (WORKS, PARTLY, NOT_YET)


@dataclasses.dataclass(frozen=True, slots=True)
class Paper:
    """A row of the list."""

    number: int
    title: str
    kind: str
    room: str
    ids: tuple[str, ...]


@functools.cache
def papers() -> tuple[Paper, ...]:
    """All rows, by number."""
    return tuple(
        Paper(r["number"], r["title"], r["kind"], r["room"], tuple(r["ids"])) for r in json.loads(LIST.read_text(encoding="utf-8"))
    )


def find(number: int) -> Paper:
    """The paper of that number."""
    listed = papers()
    if not 1 <= number <= len(listed):
        raise UserError(f"papers: no paper {number}; they are numbered 1 to {len(listed)}.")
    return listed[number - 1]


def state(
    paper: Paper, known: Mapping[str, Method] | None = None, claims: Mapping[str, Entry] | None = None,
    results: Mapping[str, Mapping[str, Any] | None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The paper with its status, what exists and what is missing; of what is registered here, or of what is given."""
    known = methods() if known is None else known
    claims = catalogue() if claims is None else claims
    about = [e for e in claims.values() if e.claim.row == paper.number]
    found = {e.name: result.status(e, result.stored(e) if results is None else results.get(e.name)) for e in about}
    mine = [m for m in known.values() if m.name in paper.ids or paper.number in m.about.papers]
    names = set(known) | {m.about.listed for m in known.values()} | ({e.name for e in about} if paper.kind != "method" else set())
    missing = [f"{paper.kind} {i}" for i in paper.ids if i not in names]
    measured = [v for v in found.values() if v not in (result.NOT_RUN, result.STALE)]
    if not about:
        missing.append("a claim")
    elif not measured:
        missing.append(f"a result that counts: metier claims run {paper.number} --store")
    there = [{"method": m.name, "room": m.room, "place": m.about.place, "summary": m.summary} for m in mine]
    status = WORKS if not missing else PARTLY if mine or about else NOT_YET
    return {
        "number": paper.number, "title": paper.title, "kind": paper.kind, "room": paper.room, "ids": list(paper.ids), "status": status,
        "exists": {"methods": there, "claims": [{"claim": n, "verdict": v} for n, v in found.items()]}, "missing": missing,
    }  # fmt: skip
