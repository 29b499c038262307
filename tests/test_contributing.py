"""The method in CONTRIBUTING.md works as printed, from outside the package."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from metier import method
from metier.errors import UserError
from metier.task import Example, Task
from metier.train import Run

TEXT = (Path(__file__).resolve().parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
TASK = Task(
    name="mood",
    kind="choose",
    template="{{ text }}\nMood:",
    metric="accuracy",
    choices=("good", "bad"),
    train=(Example("0", {"text": "a fine day"}, "good"),),
)


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> method.Method:
    code = next(block for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "ABOUT" in block)
    (tmp_path / "name_choices.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return method.find("name_choices:name_choices")


def test_is_read_from_its_file(found: method.Method) -> None:
    assert found.name == "name-choices"
    assert found.summary.startswith("Name the choices")
    assert [(s.name, s.type, s.default) for s in found.settings] == [("limit", "int", 100)]


def test_makes_a_change_that_comes_back_from_its_state(found: method.Method) -> None:
    function, _ = found.load()
    start: Any = None  # this method does not look at the model
    change = function(start, TASK.sealed(), found.configure(), Run())
    example = TASK.train[0]
    shown = change.prompt(TASK.prompt(example), example, TASK)
    assert shown.text() == "Answer with one of: good, bad.\n\na fine day\nMood:"
    again = type(change).from_state(*change.state())
    assert again.prompt(TASK.prompt(example), example, TASK) == shown


def test_refuses(found: method.Method) -> None:
    function, _ = found.load()
    start: Any = None
    with pytest.raises(UserError, match=r"unknown setting 'limmit'.*Did you mean 'limit'"):
        found.configure({"limmit": 3})
    with pytest.raises(UserError, match="limit must be at least 2; got 1"):
        found.configure({"limit": 1})
    with pytest.raises(UserError, match="the task has 3 choices of its own, not 2 to 2"):
        function(start, dataclasses.replace(TASK, choices=("a", "b", "c")), found.configure({"limit": 2}), Run())
