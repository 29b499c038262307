"""Write src/metier/papers.json from the project's list of papers: number, title, kind, room and ids, and nothing else.

    python benchmarks/make_papers.py [../shared/papers.jsonl]

Abstracts and the list's own sentences are left behind: what exists for a paper is computed by `metier papers`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {"loss": "tune"}  # a family whose room has another name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", nargs="?", type=Path, default=ROOT.parent / "shared" / "papers.jsonl")
    source = parser.parse_args().source
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows.sort(key=lambda r: r["number"])
    if [r["number"] for r in rows] != list(range(1, len(rows) + 1)):
        raise SystemExit(f"{source}: rows must be numbered 1 to {len(rows)} without gaps.")
    kept = [
        {
            "number": r["number"],
            "title": " ".join(r["title"].split()),
            "kind": r["kind"],
            "room": ROOMS.get(r["family"], r["family"]),
            "ids": r["ids"],
        }
        for r in rows
    ]
    target = ROOT / "src" / "metier" / "papers.json"
    lines = ",\n".join(" " + json.dumps(row, ensure_ascii=False) for row in kept)
    target.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(f"{target}: {len(kept)} papers")


if __name__ == "__main__":
    main()
