"""Discovery reads files without importing them; settings come from text or JSON, and every wrong one is told at once."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metier import method
from metier.errors import UserError
from metier.method import catalogue, convert, find

GOOD = '''
"""Outsider: a method of a stranger.

Paper: none.
"""
from dataclasses import dataclass
from metier import check
from metier.method import About

ABOUT: About = About(place="in", papers=(1, 2), search={"count": (1, 2)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings."""

    count: int = 3
    """How many."""
    share: float | None = None
    """Which part."""
    names: tuple[str, ...] = ()
    """Which names."""
    mode: "str" = "a"
    """How."""

    def __post_init__(self):
        check.integer("count", self.count, low=1)


def outsider(start, task, settings, run):
    return None
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "stranger_pkg"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    catalogue.cache_clear()
    for name in [n for n in sys.modules if n.startswith("stranger_pkg")]:
        del sys.modules[name]


def entry_points(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    made = importlib.metadata.EntryPoints(
        importlib.metadata.EntryPoint(n.replace("_", "-"), v, "metier.methods") for n, v in points.items()
    )
    monkeypatch.setattr(method.metadata, "entry_points", lambda **asked: made.select(**asked))
    for known in (catalogue, method._ours, method._taken):
        known.cache_clear()


def test_discovery_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom metier.method import catalogue, find\nassert find('lora').settings\nassert len(catalogue()) >= 5\n"
        "print([m for m in ('torch', 'transformers', 'numpy', 'peft') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_method_says_what_it_is() -> None:
    for name, found in catalogue().items():
        assert found.name == name
        assert found.summary
        assert all(s.help for s in found.settings), f"{name}: a setting without a docstring"
        assert set(found.about.search) <= {s.name for s in found.settings}
        function, settings = found.load()
        assert callable(function)
        assert {s.name: s.default for s in found.settings} == {n: f.default for n, f in settings.__dataclass_fields__.items()}
        needed = {"experts": ("one", "two")[: found.about.experts[1]]} if "experts" in {s.name for s in found.settings} else {}
        needed |= {s.name: "some/task" for s in found.settings if s.default is dataclasses.MISSING and s.name not in needed}
        assert found.configure(needed) == settings(**needed)


@pytest.mark.parametrize("name", ["lara", "loar", "Lora"])
def test_unknown_method_is_answered_with_the_nearest(name: str) -> None:
    with pytest.raises(UserError, match=r"unknown method .*Did you mean 'lora'"):
        find(name)


def test_settings_from_text() -> None:
    settings = find("lora").configure({"rank": "4", "alpha": "8", "lr": "1e-3", "targets": "q_proj,v_proj"})
    assert (settings.rank, settings.alpha, settings.lr, settings.targets) == (4, 8.0, 1e-3, "q_proj,v_proj")


def test_wrong_settings_are_told_together_in_a_fixed_order() -> None:
    with pytest.raises(UserError) as caught:
        find("lora").configure({"rnak": 4, "alpha": "much", "batch_size": "2.5", "lr": True})
    text = str(caught.value)
    for part in (
        "method lora",
        "unknown setting 'rnak'. Did you mean 'rank'?",
        "alpha: must be a number; got 'much'",
        "batch_size: must be a whole number",
    ):
        assert part in text
    assert text.index("alpha") < text.index("batch_size") < text.index("lr: ")


def test_values_are_checked_by_the_settings_themselves() -> None:
    with pytest.raises(UserError, match="method lora: rank must be at least 1; got 0"):
        find("lora").configure({"rank": 0})


# --- strangers' methods --------------------------------------------------------------------------------------------------
def test_module_and_function(package: Path) -> None:
    (package / "outsider.py").write_text(GOOD)
    found = find("stranger_pkg.outsider:outsider")
    assert (found.name, found.room, found.about.papers) == ("outsider", "outside", (1, 2))
    settings = found.configure({"count": "2", "share": "none", "names": "a, b"})
    assert (settings.count, settings.share, settings.names) == (2, None, ("a", "b"))


def test_entry_point(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "outsider.py").write_text(GOOD)
    entry_points(monkeypatch, my_way="stranger_pkg.outsider:outsider")
    assert find("my-way").function == "outsider"
    assert find("my-way").load()[0].__name__ == "outsider"


def test_an_entry_point_does_not_take_our_name(package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (package / "outsider.py").write_text(GOOD)
    entry_points(monkeypatch, lora="stranger_pkg.outsider:outsider")
    assert find("lora").module == "metier.tune.how.lora"
    assert "left out: method 'lora'" in capsys.readouterr().err


def test_a_broken_entry_point_does_not_stop_ours(
    package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (package / "bad.py").write_text("def bad(:")
    entry_points(monkeypatch, gone="no_such_package.x:x", bad="stranger_pkg.bad:bad")
    assert "lora" in catalogue()
    assert "gone" not in catalogue()
    told = capsys.readouterr().err
    assert "no_such_package" in told
    assert "cannot be read as Python" in told


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("no_such_package.x:x", None, "cannot find module"),
        ("stranger_pkg.absent:x", None, "cannot find module"),
        (":x", None, "cannot find module"),
        ("stranger_pkg.a:a", "X = 1", "defines no ABOUT"),
        ("stranger_pkg.a:a", "def a(:", "cannot be read as Python"),
        ("stranger_pkg.a:b", GOOD, "needs a class Settings and a function b"),
        ("stranger_pkg.a:outsider", GOOD.replace("papers=(1, 2)", "papers=PAPERS"), "literal"),
        ("stranger_pkg.a:outsider", GOOD.replace("papers=", "papeers="), "papeers"),
        ("stranger_pkg.a:outsider", GOOD.replace("int = 3", "int = max(1, 3)"), "literal"),
    ],
)
def test_what_is_no_method_is_refused(package: Path, name: str, source: str | None, message: str) -> None:
    if source is not None:
        (package / "a.py").write_text(textwrap.dedent(source))
    with pytest.raises(UserError, match=message):
        find(name)


def test_settings_without_a_default_are_asked_for(package: Path) -> None:
    (package / "a.py").write_text(GOOD.replace("count: int = 3", "count: int"))
    with pytest.raises(UserError, match=r"needs --count \(compare: --set "):
        find("stranger_pkg.a:outsider").configure({"mode": "b"})


# --- convert -------------------------------------------------------------------------------------------------------------
@given(st.integers())
def test_whole_numbers_come_back(n: int) -> None:
    assert convert(str(n), int) == convert(n, int) == n
    assert isinstance(convert(str(n), int), int)


@given(st.floats(allow_nan=False))
def test_numbers_come_back(x: float) -> None:
    assert convert(repr(x), float) == convert(x, float) == x


@given(st.lists(st.integers(-1000, 1000)))
def test_lists_come_back(values: list[int]) -> None:
    assert convert(",".join(map(str, values)), tuple[int, ...]) == convert(values, tuple[int, ...]) == tuple(values)


@given(st.text(), st.sampled_from([int, float, bool, str, int | None, tuple[int, ...], Literal["a", "b"], Literal[8, 16], dict]))
def test_text_is_converted_or_refused(text: str, wanted: Any) -> None:
    try:
        value = convert(text, wanted)
    except ValueError:
        return
    if wanted in (int, float, bool, str):
        assert type(value) is wanted


@pytest.mark.parametrize(
    ("value", "wanted", "result"),
    [
        ("8", Literal[8, 16], 8), (16, Literal[8, 16], 16), ("1e3", int, 1000), (2.0, int, 2), ("yes", bool, True), ("0", bool, False),
        ("none", float | None, None), (None, float | None, None), ("none", str, "none"), ("0.5", float | None, 0.5), ("", tuple[str, ...], ()),
        ([1, 2], list[int], [1, 2]), ('{"a": 1}', dict, {"a": 1}), (3, float, 3.0), (2**60 + 1, int, 2**60 + 1),
    ],
)  # fmt: skip
def test_what_fits(value: Any, wanted: Any, result: Any) -> None:
    found = convert(value, wanted)
    assert found == result
    assert type(found) is type(result)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (1, bool), ("maybe", bool), (True, int), (True, float), ("2.5", int), ("nan", int), ("inf", int), (None, int), ([], int), (5, str), (None, str),
        (5, tuple[int, ...]), ("1,x", tuple[int, ...]), (8.0, Literal[8, 16]), (True, Literal[1, 2]), ("c", Literal["a", "b"]), ("{", dict),
        ({"a": 1}, tuple[str, ...]),
    ],
)  # fmt: skip
def test_what_does_not_fit(value: Any, wanted: Any) -> None:
    with pytest.raises(ValueError):
        convert(value, wanted)


def test_a_method_is_found_by_its_files_name_and_by_no_other() -> None:
    assert all(method.named(name) == found for name, found in method.catalogue().items())
    assert [n for n in ("*", "../merge/ties", "dare_ties", "_work", "", "parts") if method.named(n)] == []


def test_one_method_is_read_without_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method, "catalogue", lambda: pytest.fail("all methods were read"))
    assert method.find("dare-ties").module == "metier.merge.dare_ties"
