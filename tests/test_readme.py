"""What README and the documentation tell people to type exists: verbs, their flags, and the names of `import metier`."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import metier

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/index.md", "docs/quickstart.md", "docs/concepts.md", "docs/hooks.py")
TEXTS = {page: (REPOSITORY / page).read_text(encoding="utf-8").replace("\\\n", " ") for page in PAGES}


@functools.cache
def help_of(*words: str) -> str:
    code = "import sys; from metier.cli.main import main; sys.argv = ['metier', *sys.argv[1:], '--help']; main()"
    env = os.environ | {"PYTHONPATH": str(REPOSITORY / "src"), "COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"}
    seen = subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, timeout=120, check=False)
    return seen.stdout if seen.returncode == 0 else ""


def commands() -> list[str]:
    """Every `metier ...` in backticks, in a code block or in what the hooks write."""
    found = set()
    for text in TEXTS.values():
        found |= {line.strip() for line in re.findall(r"(?m)(?:^|`|\")metier ((?:[a-z]|-)[^`\n#\"]*)", text)}
    return sorted(found)


@pytest.mark.parametrize("line", commands())
def test_command(line: str) -> None:
    verb = re.split(r"[\s,`]", line)[0]
    shown = help_of(verb)
    assert shown, f"`metier {verb} --help` does not answer"
    sub = line.split()[1] if len(line.split()) > 1 and re.fullmatch(r"show|run|table", line.split()[1]) else None
    if sub:
        assert sub in shown or help_of(verb, sub), f"`metier {verb} {sub}` is not there"
        shown += help_of(verb, sub)
    for flag in re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", line):
        assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", shown), f"`metier {verb}` has no {flag}"


def test_flags_of_compare_are_those_in_the_quick_start() -> None:
    listed = set(re.findall(r"`(--[a-z-]+)", TEXTS["docs/quickstart.md"].split("| flag |")[1].split("\n\n")[0]))
    assert {"--base", "--methods", "--budget"} <= listed
    missing = {flag for flag in listed if flag not in help_of("compare")}
    assert not missing


def test_python_names() -> None:
    used = {
        name
        for text in TEXTS.values()
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        for name in re.findall(r"\bmetier\.(\w+)\(", block)
    }
    assert used
    assert used <= set(metier.__all__), f"not in metier.__all__: {sorted(used - set(metier.__all__))}"


def test_files_that_are_named_exist() -> None:
    for page in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXTS[page]):
            assert (REPOSITORY / target).exists(), f"{page} links to {target}, which is not there"
