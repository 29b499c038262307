"""Docstrings in metier align short names and what they mean in columns; this shows such columns as tables.

    name       what it is                      ->    | name  | what it is               |
    other      what that is, which may go            | other | what that is, which may… |
               on in the next line

Used twice: as a griffe extension for the API pages, and by `hooks.py` for the methods' pages.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROW = re.compile(r"^(?P<name>[A-Za-z_][\w.,/*'-]*(?: [\w.,/*'-]+){0,2}(?::(?= )|(?=  )))(?P<gap>\s+)(?P<text>\S.*)$")


def columns(text: str) -> str:
    """The docstring with each run of two or more aligned rows as a Markdown table."""
    return "\n\n".join(_block(block) for block in re.split(r"\n\s*\n", text))


def _block(block: str) -> str:
    lead: list[str] = []
    rows: list[list[str]] = []
    tail: list[str] = []
    for line in block.splitlines():
        match = _ROW.match(line)
        if tail:
            tail.append(line)
        elif match:
            rows.append([match["name"].rstrip(":"), match["text"]])
        elif rows and line.startswith("  "):
            rows[-1][1] += " " + line.strip()
        else:
            (tail if rows else lead).append(line)
    if len(rows) < 2:
        return block
    body = "\n".join(f"| {_cell(name)} | {_cell(meaning)} |" for name, meaning in rows)
    table = f'<div class="columns" markdown>\n\n| | |\n|---|---|\n{body}\n\n</div>'
    return "\n\n".join(part for part in ("\n".join(lead), table, _block("\n".join(tail))) if part)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


class Columns(griffe.Extension):
    """Applies `columns` to every docstring that griffe reads."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring in place."""
        if obj.docstring is not None:
            obj.docstring.value = columns(obj.docstring.value)
