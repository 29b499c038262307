"""Pages that are made when the documentation is built: one per method, one per room, and the tables of results.

Nothing here is written by hand twice: methods come from `metier.method.catalogue()` (read from the syntax tree, torch is
not imported), rooms from the folders of `src/metier`, results from the JSON files that the benchmarks and claims leave.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "metier"

# Top to bottom, as DESIGN's rooms; a room that does not exist yet has no page.
ROOMS = {
    "study": "compare, budget, resume, report, recommend",
    "tune": "changes of the weights, by training",
    "prompt": "changes of what the model reads: instructions, exemplars, soft prompts",
    "retrieve": "indexes, encoders, and passages for the question at hand",
    "steer": "changes of activations",
    "decode": "changes of what comes out",
    "data": "select, curate, augment, synthesize, mix",
    "route": "mixtures of experts over deltas",
    "edit": "facts in, facts out",
    "prefer": "preferences, rewards, reinforcement",
    "agent": "tools, SQL, environments, trajectories",
    "inspect": "what changed: findings",
    "claims": "one file per paper: what it says, what is measured here",
    "serve": "an OpenAI-compatible server of specialists",
    "train": "the one training loop",
    "evaluate": "records, metrics, forgetting, calibration",
    "model": "Base, Specialist, Change; generation and scoring in batches",
    "task": "Task, Example, loaders, prompts, scorers",
    "delta": "the algebra of weight changes",
    "worlds": "generated tasks with known truth",
    "cli": "one file per verb",
}
CLAIM_ROWS = {"reported": "reported", "experiment": "run here", "rule": "rule", "limits": "limits", "verdict": "verdict"}
HERE = {
    "<!-- the worlds -->": ("world_pages", "table"),
    "<!-- the bases -->": ("base_pages", "table"),
    "<!-- the curves -->": ("base_pages", "curves"),
    "<!-- the measurements -->": ("base_pages", "measurements"),
}
PLACES = {"in": "what the model reads", "activations": "what it computes", "weights": "what it computes with", "out": "what it says"}


def on_config(config: Any) -> Any:
    """Fill the navigation's Methods and API entries."""
    for entry in config.nav:
        if "Methods" in entry:
            entry["Methods"] = ["methods/index.md", *_method_nav()]
        if "Worlds" in entry:
            entry["Worlds"] = ["worlds.md", *({name: f"worlds/{name}.md"} for name in _beside("world_pages").names())]
        if "API" in entry:
            entry["API"] = ["api/index.md", *({name: f"api/{name}.md"} for name in _modules())]
    config.watch.append(str(PACKAGE))
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    pages = {**_method_pages(), **_beside("world_pages").pages(), **_api_pages(), **_result_pages()}
    for uri, text in pages.items():
        if files.get_file_from_path(uri) is None:  # a page that someone has written stays
            files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put the tables of worlds and bases where a page asks for them."""
    for mark, (module, make) in HERE.items():
        if mark in markdown:
            markdown = markdown.replace(mark, getattr(_beside(module), make)())
    return markdown


# --- methods ---------------------------------------------------------------------------------------------------------
def _catalogue() -> Mapping[str, Any]:
    if str(ROOT / "src") not in sys.path:  # mkdocs restores sys.path after loading a hook
        sys.path.insert(0, str(ROOT / "src"))
    from metier.method import catalogue

    return catalogue()


def _by_room() -> dict[str, list[Any]]:
    rooms: dict[str, list[Any]] = {}
    for method in _catalogue().values():
        rooms.setdefault(method.room, []).append(method)
    return rooms


def _method_nav() -> list[Any]:
    return [{room: [{m.name: f"methods/{m.name}.md"} for m in methods]} for room, methods in _by_room().items()]


def _method_pages() -> dict[str, str]:
    pages = {f"methods/{m.name}.md": _method_page(m) for m in _catalogue().values()}
    lines = [
        "# Methods",
        "",
        "Every way of specialising a model that metier has, as its own file describes it. Each returns a *change* in one of four",
        "places, so all of them are measured by the same code, and two that compose are written with a plus: `--methods rag+lora`.",
        "",
        "`metier methods` prints this list, `metier methods show NAME` a page; [Contributing](../contributing.md) says how to add one.",
        "",
    ]
    if not pages:
        lines.append("No method is registered yet.")
    for room, methods in _by_room().items():
        lines += [
            f"## {room}",
            "",
            f"{ROOMS.get(room, 'from other packages')}",
            "",
            "| method | changes | what it does | papers |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| [`{m.name}`]({m.name}.md) | {m.about.place} | {_cell(_sentence(m))} | {_papers(m.about.papers, '../')} |" for m in methods
        ]
        lines.append("")
    return {"methods/index.md": "\n".join(lines), **pages}


def _method_page(m: Any) -> str:
    first, _, rest = m.doc.partition("\n\n")
    about = m.about
    lines = [f"# {m.name}", "", " ".join(first.split()), "", "| | |", "|---|---|"]
    lines += [
        f"| place | **{about.place}**: {PLACES[about.place]} |",
        f"| room | {m.room} |",
        f"| base models | {', '.join(about.families)} |",
    ]
    lines += [f"| task kinds | {', '.join(about.kinds)} |"]
    if about.needs:
        lines.append(f"| the task must have | {', '.join(about.needs)} |")
    lines.append(f"| trains | {'yes: its budget is split between the search and the final run' if about.trains else 'no'} |")
    if about.search:
        searched = "; ".join(f"`{name}` over {', '.join(map(str, values))}" for name, values in about.search.items())
        lines.append(f"| searched on dev | {searched} |")
    lines += [f"| papers | {_papers(about.papers, '../') or 'none'} |", ""]
    if rest.strip():
        lines += [_beside("griffe_columns").columns(rest), ""]
    lines += ["## Settings", ""]
    if m.settings:
        lines += ["| setting | type | default | |", "|---|---|---|---|"]
        lines += [f"| `{s.name}` | `{_cell(s.type)}` | {_default(s.default)} | {_cell(s.help)} |" for s in m.settings]
    else:
        lines.append("None.")
    plain = [x for x in m.settings if isinstance(x.default, str | int | float) and not isinstance(x.default, bool) and str(x.default)]
    flags = "".join(f" --{x.name.replace('_', '-')} {x.default}" for x in plain[:2])
    lines += ["", "## Use", "", "```bash", f"metier tune {m.name} TASK --base metier-tiny{flags} -o OUT", "```", ""]
    source = m.file.relative_to(ROOT) if m.file.is_relative_to(ROOT) else m.module
    lines += [f"Written in `{source}`.", ""]
    return "\n".join(lines)


def _sentence(m: Any) -> str:
    return re.sub(r"^[^:.]{1,40}:\s+", "", m.summary)


def _default(value: Any) -> str:
    return "required" if repr(value).startswith("<dataclasses._MISSING_TYPE") else f"`{value!r}`"


def _papers(numbers: Iterable[int], up: str) -> str:
    return ", ".join(f"[{n}]({up}papers.md)" for n in numbers)


def _beside(name: str) -> Any:
    """A module of this folder, which is no package."""
    _catalogue()  # puts src/ on the path
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- API -------------------------------------------------------------------------------------------------------------
def _modules() -> list[str]:
    """'metier' itself, its root modules that others use, and every room that is there."""
    roots = [name for name in ("method", "contract", "errors", "check") if (PACKAGE / f"{name}.py").exists()]
    rooms = [room for room in ROOMS if (PACKAGE / room / "__init__.py").exists()]
    return [*(["metier"] if (PACKAGE / "__init__.py").exists() else []), *rooms, *roots]


def _api_pages() -> dict[str, str]:
    pages = {"api/metier.md": _front()}
    lines = [
        "# API",
        "",
        "Made from the docstrings, room by room. Names that begin with an underscore are private.",
        "",
        "| | |",
        "|---|---|",
    ]
    for name in _modules():
        dotted = name if name == "metier" else f"metier.{name}"
        clause = "what `import metier` gives" if name == "metier" else ROOMS.get(name) or _first_line(PACKAGE / f"{name}.py")
        lines.append(f"| [`{dotted}`]({name}.md) | {_cell(clause)} |")
        if name != "metier":
            pages[f"api/{name}.md"] = _room(name) if (PACKAGE / name).is_dir() else f"# {dotted}\n\n::: {dotted}\n"
    return {"api/index.md": "\n".join([*lines, ""]), **pages}


def _front() -> str:
    """The names of `import metier`, each with the room where it is described."""
    text = ["# metier", "", "::: metier", "    options:", "      members: false", "", "| name | described in |", "|---|---|"]
    for node in ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_PUBLIC":
            for name, module in ast.literal_eval(node.value).items():
                room = module.split(".")[1]
                there = room in _modules()
                text.append(f"| `metier.{name}` | {f'[`{module}`]({room}.md)' if there else f'`{module}`'} |")
    return "\n".join([*text, ""])


def _room(name: str) -> str:
    """A room's docstring and its modules; methods have pages of their own."""
    text = [f"# metier.{name}", ""]
    listed = [m for m in _catalogue().values() if m.room == name]
    methods = {m.module for m in listed}
    for file in sorted((PACKAGE / name).rglob("*.py"), key=lambda f: (f.name != "__init__.py", f.as_posix())):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        module = ".".join(("metier", *parts)).removesuffix(".__init__")
        if module in methods or any(p.startswith("_") and p != "__init__" for p in parts):
            continue
        here = _defined(file)
        if not here and parts[1:] != ("__init__",):
            continue
        if parts[1:] != ("__init__",):
            text += [f"## {module}", ""]
        text += [f"::: {module}", "    options:", "      heading_level: 3", f"      members: {here or 'false'}", ""]
    if listed:
        text += ["## Methods", "", ", ".join(f"[`{m.name}`](../methods/{m.name}.md)" for m in listed), ""]
    return "\n".join(text)


def _defined(file: Path) -> list[str]:
    """Public classes and functions that a file itself defines."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [n.name for n in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(n, kinds) and not n.name.startswith("_")]


def _first_line(file: Path) -> str:
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n")[0]


# --- results -----------------------------------------------------------------------------------------------------------
def _result_pages() -> dict[str, str]:
    return {"benchmarks.md": _benchmarks(), "claims.md": _claims(), "gallery.md": _gallery(), "papers.md": _papers_page()}


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _benchmarks() -> str:
    lines = [
        "# Benchmarks",
        "",
        "Made from `benchmarks/results/*.json`, which the commands below write; `make bench` runs those that need no more than minutes.",
        "Ratios are between arms of one run.",
        "",
    ]
    results = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    if not results:
        return "\n".join([*lines, "Not measured yet.", ""])
    for file in results:
        lines += [f"## {_words(file.stem)}", "", *_measured_by(ROOT / "benchmarks" / f"{file.stem}.py"), *_show(_read(file)), ""]
    return "\n".join(lines)


def _measured_by(script: Path) -> list[str]:
    """What a benchmark measures and the commands it names in its docstring."""
    doc = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    commands = [line.strip() for line in doc.split("\n") if line.strip().startswith("python benchmarks/")]
    return [_cell(doc.split("\n")[0]), "", "```", *commands, "```", ""]


def _show(data: Any) -> list[str]:
    """A result as tables: lists of rows by their part, everything else as names and values; the machine last."""
    data = data if isinstance(data, Mapping) else {"rows": data}
    lines: list[str] = []
    plain = {}
    for key, value in data.items():
        if isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
            lines += _table(value)
        elif key not in ("machine", "versions"):
            plain |= _flat(key, value)
    if plain:
        lines = ["| | |", "|---|---|", *(f"| {_cell(_words(k))} | {_cell(_plain(v))} |" for k, v in plain.items()), "", *lines]
    where = {k: v for part in ("machine", "versions") if part in data for k, v in _flat(part, data[part]).items()}
    if where:
        facts = ", ".join(f"{key.rpartition(': ')[2]} {_plain(value)}" for key, value in where.items())
        lines += [f"Measured on: {_cell(facts)}.", ""]
    return lines


def _table(rows: list[Mapping[str, Any]]) -> list[str]:
    """Rows as tables, one per `part` where they have one; what is the same in every row of a part is said once, above."""
    lines = []
    for part in dict.fromkeys(r.get("part") for r in rows):
        here = [r for r in rows if r.get("part") == part]
        heads = list(dict.fromkeys(k for r in here for k in r if k != "part"))
        same = [h for h in heads if len(here) > 1 and len({_plain(r.get(h, "")) for r in here}) == 1]
        shown = [h for h in heads if h not in same]
        if part is not None:
            lines += [f"### {part}", ""]
        if said := [f"{_words(h)} {_plain(here[0][h])}" for h in same if here[0].get(h) not in (None, "")]:
            lines += [_cell("; ".join(said)) + ".", ""]
        lines += ["| " + " | ".join(_words(h) for h in shown) + " |", "|" + "---|" * len(shown)]
        lines += ["| " + " | ".join(_cell(_plain(r.get(h, ""))) for h in shown) + " |" for r in here]
        lines.append("")
    return lines


def _flat(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {name: value}
    return {k: v for key, inner in value.items() for k, v in _flat(f"{name}: {key}", inner).items()}


def _words(name: str) -> str:
    return name.replace("_", " ")


def _claims() -> str:
    lines = [
        "# Claims",
        "",
        "What papers say, measured here at small scale. The rule of decision is fixed before the run, and a result counts only for the",
        "very claim it was made for. A claim that was not run is *not yet run*, never assumed. `metier claims run N` runs one.",
        "",
    ]
    if not (PACKAGE / "claims" / "table.py").exists():
        return "\n".join([*lines, "Not measured yet.", ""])
    _catalogue()  # puts src/ on the path
    from metier.claims.figure import svg
    from metier.claims.table import rows

    told: list[str] = []
    lines += ["| paper | claim | verdict | effect |", "|---|---|---|---|"]
    for r in rows():
        paper = "study" if r["number"] is None else f"[{r['number']}](papers.md)"
        lines.append(f"| {paper} | [{r['name']}](#{r['name']}) | **{r['verdict']}** | {_cell(r['effect'] or '')} |")
        told += [f"## {r['name']} {{ #{r['name']} }}", "", f"*{_cell(r['title'])}.* {_cell(r['statement'])}", "", "| | |", "|---|---|"]
        told += [f"| {said} | {_cell(r[k])} |" for k, said in CLAIM_ROWS.items() if r[k]]
        if r["effects"]:
            told.append(f"| effects | {_cell('; '.join(_effect(e) for e in r['effects']))} |")
            told += [
                f"| {k} | {_cell(_plain(r[k]))} |"
                for k in ("remarks", "seeds", "bases", "machine", "versions", "seconds", "date")
                if r.get(k)
            ]
            told += ["", f'<div class="forest" markdown="0">{svg(r)}</div>']
        told.append("")
    return "\n".join([*lines, "", *told])


def _gallery() -> str:
    """Every claim that was measured, and every benchmark's scores with intervals, as pictures beside one another."""
    _catalogue()  # puts src/ on the path
    from metier.claims.figure import Mark, forest, svg
    from metier.claims.table import rows

    lines = [
        "# Gallery",
        "",
        "What was measured, to look at. Each picture leads to its numbers. Green: the whole interval is above the bar that the claim sets; red:",
        "none of it is; yellow: undecided; grey: not part of the rule. `metier claims show N --figure FILE` draws one.",
        "",
        "## Claims",
        "",
    ]
    lines += _tiles(
        (f"{r['number'] or 'study'} {r['name']}: {r['verdict']}", f"claims.md#{r['name']}", svg(r)) for r in rows() if r["effects"]
    )
    for file in sorted((ROOT / "benchmarks" / "results").glob("*_real.json")):
        scored = [r for r in _read(file)["rows"] if "score" in r and "interval" in r]
        parts = {
            p: [Mark(r["arm"], r["score"], tuple(r["interval"])) for r in scored if r["part"] == p]
            for p in dict.fromkeys(r["part"] for r in scored)
        }
        lines += [f"## {_words(file.stem)}", "", *_tiles(
            (part, f"benchmarks.md#{part}", forest(part, marks, "mean score over the tasks, intervals of 95 %")) for part, marks in parts.items()
        )]  # fmt: skip
    return "\n".join(lines)


def _tiles(pictures: Iterable[tuple[str, str, str]]) -> list[str]:
    """(title, link, SVG) as a grid."""
    tiles = [f'<div class="forest" markdown>\n**[{title}]({link})**\n\n{drawn}\n</div>' for title, link, drawn in pictures]
    return ['<div class="forests" markdown>', *tiles, "</div>", ""]


def _effect(e: Mapping[str, Any]) -> str:
    return f"{e['name']} {_plain(e['value'])}" + ("" if e.get("how") == "exact" else f" [{_plain(e['low'])}, {_plain(e['high'])}]")


def _papers_page() -> str:
    lines = [
        "# Papers",
        "",
        "The literature this project makes runnable. A paper *works* only if its methods are registered, their contract tests exist and",
        "its claim has a stored result; that is computed, not written by hand: `metier papers` prints it.",
        "",
    ]
    table = PACKAGE / "papers.json"
    if not table.exists():
        return "\n".join([*lines, "Not measured yet.", ""])
    if not (PACKAGE / "claims" / "papers.py").exists():
        return "\n".join([*lines, "Not measured yet.", ""])
    _catalogue()
    from metier.claims.papers import STATUSES, papers, state

    states = [state(p) for p in papers()]
    count = ", ".join(f"{sum(s['status'] == name for s in states)} {name}" for name in STATUSES)
    lines += [f"{len(states)} papers: {count}.", "", "| # | title | room | kind | what exists | status |", "|---|---|---|---|---|---|"]
    for s in states:
        there = [f"[`{m['method']}`](methods/{m['method']}.md)" for m in s["exists"]["methods"]]
        there += [f"claim [{c['claim']}](claims.md#{c['claim']}): {c['verdict']}" for c in s["exists"]["claims"]]
        lines.append(f"| {s['number']} | {_cell(s['title'])} | {s['room']} | {s['kind']} | {', '.join(there)} | {s['status']} |")
    return "\n".join([*lines, ""])


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " to ".join(_plain(v) for v in value) if len(value) == 2 else ", ".join(_plain(v) for v in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    return str(value)


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")
