"""Documents from a JSONL, CSV or Parquet file, or from a folder of .txt, .md and .html files."""

from __future__ import annotations

from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from metier.errors import UserError
from metier.task.example import Document
from metier.task.read import Table, existing, kind_of, read_table, read_text

IDS = ("_id", "id", "doc_id", "docid", "context_id", "document_id")
TEXTS = ("text", "contents", "content", "context", "body", "passage", "document")
PAGES = (".txt", ".md", ".html", ".htm")


def load_documents(path: Path) -> tuple[Document, ...]:
    """The documents of a file or folder, in file order (folders: sorted by path). Ids are unique."""
    if existing(path).is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in PAGES)
        tables = sorted(p for p in path.iterdir() if p.is_file() and kind_of(p))
        if not files and not tables:
            raise UserError(f"{path}: no documents here. Put {', '.join(PAGES)} files, or a documents.jsonl, into the folder.")
        pages = [_page(file, file.relative_to(path).as_posix()) for file in files]
        return unique([*pages, *(document for table in tables for document in documents_of(read_table(table)))], str(path))
    return unique(documents_of(read_table(path)), str(path))


def documents_of(table: Table) -> list[Document]:
    """The rows of a table as documents: an id (else the line number), a text, a title if there is one."""
    key = next((name for name in IDS if name in table.columns), None)
    body = next((name for name in TEXTS if name in table.columns), None)
    if body is None:
        raise UserError(f"{table.path}: no text column among {', '.join(table.columns)}. Name it one of: {', '.join(TEXTS)}.")
    found = []
    for index, row in enumerate(table.rows):
        text = row.get(body)
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{table.at(index)}: the document's {body} is {text!r}. Every document needs a text.")
        name = row.get(key) if key else table.lines[index]
        if name is None or name == "":
            raise UserError(f"{table.at(index)}: the document has no {key}.")
        rest = {k: v for k, v in row.items() if k not in (key, body, "title")}
        found.append(Document(str(name), text, str(row.get("title") or ""), rest))
    return found


def documents_from(values: Iterable[Any], field: str) -> tuple[Document, ...]:
    """One document per distinct text among the values of a field, in order of first appearance."""
    texts = dict.fromkeys(str(value) for value in values if value)
    if not texts:
        raise UserError(f"documents_from: no row has a text in the field '{field}'.")
    return tuple(Document(f"{field}-{number}", text) for number, text in enumerate(texts, 1))


def unique(documents: Iterable[Document], where: str) -> tuple[Document, ...]:
    """The documents, or `UserError` naming an id that occurs twice."""
    seen: set[str] = set()
    kept = tuple(documents)
    for document in kept:
        if document.id in seen:
            raise UserError(f"{where}: the document id {document.id!r} occurs twice. Ids must be unique.")
        seen.add(document.id)
    return kept


def _page(path: Path, name: str) -> Document:
    text, title = read_text(path), path.stem
    if path.suffix.lower() in (".html", ".htm"):
        page = _Page()
        page.feed(text)
        page.close()
        text, title = page.text(), page.title.strip() or title
    if not text.strip():
        raise UserError(f"{path}: the document is empty. Remove it or give it a text.")
    return Document(name, text.strip(), title)


class _Page(HTMLParser):
    """Collects the visible text and the title of an HTML page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self._parts: list[str] = []
        self._inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "style", "title"):
            self._inside.append(tag)
        elif tag in ("p", "div", "br", "li", "tr", "table", "section", "article", "h1", "h2", "h3", "h4", "h5", "h6", "pre"):
            self._parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self._parts.append(data)
        elif self._inside[-1] == "title":
            self.title += data

    def text(self) -> str:
        lines = (" ".join(line.split()) for line in "".join(self._parts).splitlines())
        return "\n".join(line for line in lines if line)
