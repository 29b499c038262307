"""Place: what a result may replace, and what it never does."""

from __future__ import annotations

from pathlib import Path

import pytest

from metier.delta.place import MARKS, vacant
from metier.errors import Unwritable, UserError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def result(name: str, mark: str = MARKS[0]) -> Path:
    """A folder as metier writes it."""
    Path(name).mkdir(parents=True)
    (Path(name) / mark).write_text("{}")
    return Path(name)


def test_what_is_free(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("empty").mkdir()
    monkeypatch.setenv("HOME", str(here / "home"))
    assert vacant("new/deep") == here / "new/deep" and not Path("new").exists()
    assert vacant("empty") == here / "empty"
    assert vacant("~/x") == here / "home/x" and not Path("~").exists()


@pytest.mark.parametrize("mark", MARKS)
def test_only_a_result_of_metier_is_replaced_and_only_by_force(here: Path, mark: str) -> None:
    result("old", mark)
    with pytest.raises(UserError, match="old: is there already.*--force"):
        vacant("old")
    assert vacant("old", True) == here / "old"
    Path("mine").mkdir()
    (Path("mine") / "letter.txt").write_text("dear")
    Path("file").write_text("x")
    for force in (False, True):
        with pytest.raises(UserError, match="mine: holds something that metier did not write"):
            vacant("mine", force)
        with pytest.raises(UserError, match="file: is a file"):
            vacant("file", force)
        with pytest.raises(UserError, match="file/out"):
            vacant("file/out", force)
    assert (Path("mine") / "letter.txt").read_text() == "dear"


def test_what_is_read_is_not_replaced() -> None:
    expert = result("models/expert")
    result("other")
    (Path("models") / "metier.json").write_text("{}")
    Path("link").symlink_to("models/expert")
    (expert / "model.safetensors").write_text("x")
    for out in ("models/expert", "link", "models/../models/expert"):
        with pytest.raises(UserError, match="is read for this result"):
            vacant(out, True, ["other", expert])
        with pytest.raises(UserError, match=r"holds models/expert/model.safetensors, which is read"):
            vacant(out, True, [expert / "model.safetensors"])
    with pytest.raises(UserError, match=r"models: holds models/expert, which is read"):
        vacant("models", True, [expert])
    assert vacant("other", True, [expert, "metier-tiny"])


def test_links_are_followed(here: Path) -> None:
    Path("dangling").symlink_to("there")
    Path("round").symlink_to("round")
    assert vacant("dangling") == here / "there"
    result("real")
    Path("link").symlink_to("real")
    assert vacant("link", True) == here / "real"
    with pytest.raises(UserError, match="round: "):
        vacant("round")


@pytest.mark.parametrize("out", ["/proc/out", "/proc/self/fd/out", "n" * 300, "/sys/out", "/dev/null/out"])
def test_where_nothing_can_be_written(out: str) -> None:
    with pytest.raises((Unwritable, UserError), match="hoose another folder with -o"):
        vacant(out)
