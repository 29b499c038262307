"""Method discovery: a method is one file, read without importing it.

A method file holds a docstring, `ABOUT = About(...)` with literal arguments, a frozen `Settings` dataclass (each field
followed by a docstring) and one function named as the file. A merge's file has no Settings: its function has keyword-only
arguments, each `Annotated[type, "what it is"] = default`, and returns a `Merge`; to them come the settings that all merges
have (`metier.merge._method`). `catalogue()` reads all this from the syntax tree, so that listing methods never imports torch;
`Method.load()` imports the file when the method runs. Strangers' methods come by the entry-point group 'metier.methods'
(name -> 'module:function') or by 'module:function' written where a name goes.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import importlib.util
import json
import types
import typing
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from metier.errors import UserError, nearest
from metier.progress import say

ROOT = Path(__file__).parent
MERGES = "metier.merge._method"  # what makes a method of a merge
Place = Literal["in", "activations", "weights", "out"]
ROOMS = ("prompt", "retrieve", "steer", "tune", "edit", "prefer", "route", "data", "agent", "decode", "merge")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the harness must know of a method before it runs.

    place    where the change is made: 'in', 'activations', 'weights' or 'out'
    papers   rows of the project's literature list
    listed   its id there, where that is another than its name
    families base families it works on: 'causal', 'seq2seq', 'encoder'
    kinds    task kinds it works on
    needs    what the task must have: 'documents'
    search   settings searched on dev within the budget: name -> values; a method that needs none leaves it empty
    reads    settings that name a base, a folder or several of them, whose content a trial's result depends on
    trains   whether it runs the training loop (its budget is then split between search and the final run)
    effort   how many times the time of a plain answer one of its answers takes, about; a study's estimate is made with it
    experts  how many experts a merge, or another method with a setting of that name, takes: the least and the most, None for any number
    weighted whether a merge has a use for coefs of its experts
    """

    place: Place
    papers: tuple[int, ...] = ()
    listed: str = ""
    families: tuple[str, ...] = ("causal", "seq2seq", "encoder")
    kinds: tuple[str, ...] = ("choose", "generate")
    needs: tuple[str, ...] = ()
    search: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    reads: tuple[str, ...] = ()
    trains: bool = False
    effort: float = 1.0
    experts: tuple[int, int | None] = (1, None)
    weighted: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a method, as written in its file."""

    name: str
    type: str
    default: Any
    help: str


@dataclasses.dataclass(frozen=True, slots=True)
class Method:
    """A method as its file describes it; `load()` gives the function and the settings class.

    merge  whether the function makes a `Merge` of hyperparameters; `load()` then makes a method of it
    """

    name: str
    room: str
    module: str
    function: str
    file: Path
    doc: str
    about: About
    settings: tuple[Setting, ...]
    merge: bool = False

    @property
    def summary(self) -> str:
        """The docstring's first sentence, without the name."""
        return " ".join(self.doc.split("\n\n")[0].split())

    def load(self) -> tuple[Callable[..., Any], type]:
        """Import the file: (function, Settings class)."""
        module = importlib.import_module(self.module)
        function = getattr(module, self.function)
        if self.merge:
            made: tuple[Callable[..., Any], type] = importlib.import_module(MERGES).as_method(
                function, self.about.experts, weighted=self.about.weighted
            )
            return made
        return function, module.Settings

    def configure(self, given: Mapping[str, Any] | None = None) -> Any:
        """Settings from a mapping (text from a command line is converted); every wrong entry is reported at once."""
        _, cls = self.load()
        known = {s.name for s in self.settings}
        wrong = [f"unknown setting {k!r}.{nearest(k, known)}" for k in (given or {}) if k not in known]
        hints, values = typing.get_type_hints(cls), {}
        for key in sorted(known & set(given or {})):
            try:
                values[key] = convert((given or {})[key], hints[key])
            except ValueError as error:
                wrong.append(f"{key}: {error}")
        if wrong:
            raise UserError(f"method {self.name}: " + " ".join(wrong))
        try:
            return cls(**values)
        except UserError as error:
            raise UserError(f"method {self.name}: {error}") from error
        except TypeError as error:
            lacking = (s.name for s in self.settings if s.default is dataclasses.MISSING and s.name not in values)
            said = ", ".join(f"--{name} (compare: --set {self.name}.{name}=...)" for name in lacking)
            raise UserError(f"method {self.name}: needs {said}.") from error


def convert(value: Any, wanted: Any) -> Any:
    """`value` as the type that is wanted. Text is parsed; other types must already fit ('0.2' from a shell, not from JSON's int)."""
    origin, args = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        if type(None) in args and (value is None or (isinstance(value, str) and value.lower() in ("none", "null"))):
            return None
        for option in (a for a in args if a is not type(None)):
            try:
                return convert(value, option)
            except ValueError:  # the next option may fit; if none does, the error below says so
                continue
        raise ValueError(f"{value!r} does not fit {wanted}.")
    if origin is Literal:
        for option in args:
            if (value == option and type(value) is type(option)) or (isinstance(value, str) and value == str(option)):
                return option
        raise ValueError(f"unknown value {value!r}.{nearest(str(value), map(str, args))}")
    if origin in (tuple, list):
        if not isinstance(value, str | list | tuple):
            raise ValueError(f"must be a list; got {value!r}.")
        items = value.split(",") if isinstance(value, str) and value.strip() else list(value or ())
        return origin(convert(i.strip() if isinstance(i, str) else i, args[0]) for i in items)
    if wanted is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false", "yes", "no", "1", "0"):
            return value.lower() in ("true", "yes", "1")
        raise ValueError(f"must be true or false; got {value!r}.")
    if wanted in (int, float) and not isinstance(value, bool) and isinstance(value, int | float | str):
        try:
            if wanted is int and isinstance(value, str) and value.strip().lstrip("+-").isdigit():
                return int(value)  # not by way of float, which is exact to 2^53 only
            number = float(value)
            if wanted is float:
                return number
            if number == int(number):
                return value if isinstance(value, int) else int(number)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"must be a number; got {value!r}.") from error
        raise ValueError(f"must be a whole number; got {value!r}.")
    if wanted is str and isinstance(value, str):
        return value
    if wanted in (dict, Any) or origin is dict:
        return json.loads(value) if isinstance(value, str) else value
    raise ValueError(f"must be {getattr(wanted, '__name__', wanted)}; got {value!r}.")


def find(name: str) -> Method:
    """The method of that name, or the one at 'module:function'."""
    if ":" in name:
        module, function = name.split(":", 1)
        return _outside(function.replace("_", "-"), module, function)
    if (found := named(name)) is None:
        raise UserError(f"unknown method {name!r}.{nearest(name, catalogue())} `metier methods` lists them with what they do.")
    return found


def named(name: str) -> Method | None:
    """The method of that name. One of ours is found by its file's name: to read all files takes a quarter of a second."""
    return _ours(name) or catalogue().get(name)


@functools.cache
def _ours(name: str) -> Method | None:
    file = "" if set(name) & set("_/*?[") else name.replace("-", "_") + ".py"
    found = next((m for room in ROOMS if file for f in sorted((ROOT / room).rglob(file)) if (m := read(f, _module_name(f), room))), None)
    for point in metadata.entry_points(group="metier.methods", name=name) if found else ():
        _taken(point)
    return found


@functools.cache
def _taken(point: metadata.EntryPoint) -> None:
    module, _, own = point.value.partition(":")
    say(f"left out: method {point.name!r} of {module}: there is one of that name. Name it {module}:{own or point.name.replace('-', '_')}.")


@functools.cache
def catalogue() -> Mapping[str, Method]:
    """Every method: ours, then those of installed packages; sorted by room and name."""
    ours = [m for room in ROOMS for f in sorted((ROOT / room).rglob("*.py")) if (m := read(f, _module_name(f), room))]
    methods = {m.name: m for m in ours}
    for point in sorted(metadata.entry_points(group="metier.methods")):
        module, _, function = point.value.partition(":")
        try:
            found = _outside(point.name, module, function or point.name.replace("-", "_"))
        except UserError as error:  # another package's fault must not stop ours
            say(f"left out: {error}")
            continue
        if point.name in methods:
            _taken(point)
        methods.setdefault(point.name, found)
    return types.MappingProxyType(methods)


def read(file: Path, module: str, room: str, name: str | None = None) -> Method | None:
    """The method a file defines, read from its syntax tree; None where it defines no ABOUT."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    except (SyntaxError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{file}: cannot be read as Python ({error}).") from error
    about = next((n.value for n in tree.body if isinstance(n, ast.Assign | ast.AnnAssign) and _target(n) == "ABOUT"), None)
    if not isinstance(about, ast.Call):
        return None
    function = name or file.stem
    cls = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Settings"), None)
    defined = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function), None)
    merge = defined is not None and isinstance(defined.returns, ast.Name) and defined.returns.id == "Merge"
    if defined is None or (cls is None and not merge):
        raise UserError(f"{file}: a method file needs a class Settings and a function {function}, or a function that returns a Merge.")
    try:
        facts = About(**{k.arg: ast.literal_eval(k.value) for k in about.keywords if k.arg})
        fields = _of_all_merges() + _arguments(defined) if cls is None else _fields(cls)
    except (ValueError, TypeError) as error:  # the file is read, not run: only literals can be known
        raise UserError(f"{file}: ABOUT and the defaults of the settings must be written as literal values ({error}).") from error
    if cls is None:
        facts = dataclasses.replace(facts, reads=(*facts.reads, "experts"))
    return Method(function.replace("_", "-"), room, module, function, file, ast.get_docstring(tree) or "", facts, fields, merge=cls is None)


def _target(node: ast.Assign | ast.AnnAssign) -> str:
    return getattr(node.targets[0] if isinstance(node, ast.Assign) else node.target, "id", "")


def _fields(cls: ast.ClassDef) -> tuple[Setting, ...]:
    found = []
    for node, after in zip(cls.body, [*cls.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            default = ast.literal_eval(node.value) if node.value is not None else dataclasses.MISSING
            found.append(Setting(node.target.id, ast.unparse(node.annotation), default, " ".join(str(text).split())))
    return tuple(found)


def _arguments(function: ast.FunctionDef) -> tuple[Setting, ...]:
    """The keyword-only arguments of a merge: `name: Annotated[type, "help"] = default`."""
    found = []
    for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        kind, text = argument.annotation, ""
        if isinstance(kind, ast.Subscript) and ast.unparse(kind.value) == "Annotated" and isinstance(kind.slice, ast.Tuple):
            text, kind = ast.literal_eval(kind.slice.elts[1]), kind.slice.elts[0]
        value = ast.literal_eval(default) if default is not None else dataclasses.MISSING
        found.append(Setting(argument.arg, ast.unparse(kind) if kind else "", value, " ".join(text.split())))
    return tuple(found)


@functools.cache
def _of_all_merges() -> tuple[Setting, ...]:
    file = ROOT.joinpath(*MERGES.split(".")[1:]).with_suffix(".py")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return _fields(next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Settings"))


def _module_name(file: Path) -> str:
    return "metier." + ".".join(file.relative_to(ROOT).with_suffix("").parts)


def _outside(name: str, module: str, function: str) -> Method:
    try:
        spec, why = importlib.util.find_spec(module), ""
    except (ImportError, ValueError) as error:
        spec, why = None, f" ({error})"
    if spec is None or spec.origin is None:
        raise UserError(f"method {name!r}: cannot find module {module!r}{why}. Write module:function of an installed module.")
    method = read(Path(spec.origin), module, "outside", function)
    if method is None:
        raise UserError(f"method {name!r}: {spec.origin} defines no ABOUT = About(...).")
    return dataclasses.replace(method, name=name)
