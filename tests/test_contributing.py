"""The method in CONTRIBUTING.md works as printed, from outside the package."""

from __future__ import annotations

import dataclasses
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import tiny_causal

from metier import method
from metier.errors import UserError
from metier.model import Specialist
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
    monkeypatch.delitem(sys.modules, "name_choices", raising=False)
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


@pytest.fixture
def saved(found: method.Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A specialist with the method's own change, in a process that does not know its class any more."""
    function, _ = found.load()
    base = tiny_causal()
    Specialist(base, (function(Specialist(base), TASK.sealed(), found.configure(), Run()),)).save(tmp_path / "specialist")
    monkeypatch.delitem(sys.modules, "name_choices")
    return tmp_path / "specialist"


def test_a_strangers_class_is_not_imported_unasked(saved: Path) -> None:
    with pytest.raises(UserError, match=r"'name_choices:NamedChoices' is not of an installed metier package.*import it first"):
        Specialist.load(saved, base=tiny_causal())
    assert "name_choices" not in sys.modules


def test_a_specialist_loads_once_its_method_is_named(saved: Path) -> None:
    method.find("name_choices:name_choices").load()
    (change,) = Specialist.load(saved, base=tiny_causal()).changes
    assert type(change).__name__ == "NamedChoices"
    assert change.state() == ({"sentence": "Answer with one of: good, bad."}, {})


def test_a_specialist_loads_where_its_package_registers_methods(saved: Path, tmp_path: Path) -> None:
    """The entry point may be of another module of the package than the change."""
    (tmp_path / "name_choices-1.dist-info").mkdir()
    (tmp_path / "name_choices-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: name-choices\nVersion: 1\n")
    (tmp_path / "name_choices-1.dist-info" / "entry_points.txt").write_text("[metier.methods]\nother = name_choices.other:other\n")
    (change,) = Specialist.load(saved, base=tiny_causal()).changes
    assert type(change).__name__ == "NamedChoices"


@pytest.mark.slow
def test_the_command_line_is_told_the_method(saved: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "metier.cli.main", "generate", str(saved), "a fine day", "--max-new-tokens", "1"]
    bare = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert bare.returncode == 2
    assert "--method MODULE:FUNCTION" in bare.stderr
    told = subprocess.run([*command, "--method", "name_choices:name_choices"], capture_output=True, text=True, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
