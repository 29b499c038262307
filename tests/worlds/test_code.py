"""Code: what is shown is the library's or differs in one token, modules stay in one split, expressions pass their tests."""

import ast
import functools
import importlib.util
import itertools
import platform
import re
import sysconfig
import textwrap
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from metier.errors import UserError
from metier.task.score import SCORERS
from metier.worlds import world

pytestmark = pytest.mark.slow  # a world changes rarely; whoever changes it runs its own file

HARVESTED = ("code-docstring", "code-complete", "code-bug", "code-fault", "code-repair", "code-organisation")
SPLITS = ("train", "dev", "test")


def rows(name, split="train", n=10**6, seed=0):
    return list(itertools.islice(world("code", seed=seed).sheets()[name].rows(split), n))


@functools.cache
def library(module):
    """(name, syntax tree without docstring, first line of docstring) of every function in a module's file."""
    folder = Path(sysconfig.get_paths()["stdlib"]) / module.replace(".", "/")
    path = folder.with_suffix(".py") if folder.with_suffix(".py").exists() else folder / "__init__.py"
    found = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            said = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            node.body, node.decorator_list = node.body[bool(ast.get_docstring(node)) :], []
            found[ast.dump(node)] = (node.name, said)
    return found


def tree(code):
    (node,) = ast.parse(code).body
    return ast.dump(node)


@pytest.mark.slow
def test_functions_are_the_library_s_and_summaries_their_docstrings():
    for row in rows("code-docstring", n=50):
        assert library(row.fields["module"])[tree(row.fields["code"])] == (row.fields["name"], row.target)
    for row in rows("code-organisation", n=50):
        assert tree(row.fields["code"]) in library(row.fields["module"])
        assert row.fields["module"].split(".")[0] == row.target
    for module in list(world("code").truth()["modules"])[:5]:
        assert importlib.util.find_spec(module) is not None


def test_a_module_is_in_one_split_and_no_code_in_two():
    modules, codes = {}, {}
    truth = world("code").truth()
    for name, split in itertools.product(HARVESTED, SPLITS):
        for row in rows(name, split):
            assert modules.setdefault(row.fields["module"], split) == truth["modules"][row.fields["module"]] == split
            shown = row.fields.get("numbered") or row.fields["code"]
            assert codes.setdefault((name, shown), split) == split
    assert set(modules.values()) == set(SPLITS)


@pytest.mark.slow
def test_what_is_asked_of_held_out_modules_is_not_in_the_corpus():
    made = world("code")
    texts = "\0".join(itertools.chain(itertools.islice(made.corpus(), 4000), itertools.islice(made.corpus(era=1), 1000)))
    for row in itertools.chain(rows("code-docstring", "test"), rows("code-docstring", "dev"), rows("code-organisation", "test")):
        assert row.fields["code"] not in texts
    for split in ("dev", "test"):
        assert not any(f"{row.fields['code']}\nNext line" in texts for row in rows("code-complete", split))
        assert not any(row.fields["prompt"] in texts for row in rows("code-execute", split, 300))


@pytest.mark.slow
def test_next_lines_go_on_with_the_function():
    for row in rows("code-complete", n=100):
        place, start = row.fields["place"], row.fields["code"].split("\n")
        lines = [code.split("\n") for code in map(bare, sources(row.fields["module"]))]
        assert row.target in [part[place].strip() for part in lines if part[:place] == start and len(part) > place]


@functools.cache
def sources(module):
    folder = Path(sysconfig.get_paths()["stdlib"]) / module.replace(".", "/")
    path = folder.with_suffix(".py") if folder.with_suffix(".py").exists() else folder / "__init__.py"
    text = path.read_text(encoding="utf-8")
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [
        (textwrap.dedent("\n".join(text.split("\n")[node.lineno - 1 : node.end_lineno])), bool(ast.get_docstring(node))) for node in nodes
    ]


def bare(piece):
    """A function without blank lines and without its docstring, cut out by its quotes."""
    code, documented = piece
    if documented:
        code = re.sub(r"(?m)^ *[rR]?(\"\"\"|'''|\"|')[\s\S]*?\1 *$\n?", "", code, count=1)
    return "\n".join(line.rstrip() for line in code.split("\n") if line.strip())


def changed_tokens(one, two):
    words = [re.findall(r"is not\b|\w+|[=!<>]=|->|[^\w\s]", code) for code in (one, two)]
    assert len(words[0]) == len(words[1])
    return [(a, b) for a, b in zip(*words, strict=True) if a != b]


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**40))
def test_a_change_is_of_one_token_in_the_line_named(seed):
    partners = world("code").truth()["partners"]
    for row in rows("code-repair", n=60, seed=seed):
        original, changed = row.fields["original"].split("\n"), row.fields["code"].split("\n")
        assert tree(row.fields["original"]) in library(row.fields["module"])
        assert tree(row.fields["code"]) not in library(row.fields["module"])
        assert [i for i, (a, b) in enumerate(zip(original, changed, strict=True), 1) if a != b] == [row.fields["line"]]
        assert (original[row.fields["line"] - 1].strip(), changed[row.fields["line"] - 1].strip()) == (row.target, row.fields["wrong"])
        ((was, now),) = changed_tokens(row.fields["original"], row.fields["code"])
        assert partners[was] == now == row.fields["token"]


def test_faults_are_in_the_line_named():
    for row in rows("code-fault", n=60):
        lines = [re.sub(r"^\d+ ", "", line) for line in row.fields["numbered"].split("\n")]
        place = int(row.target) - 1
        fixes = []
        for token, partner in world("code").truth()["partners"].items():
            for match in re.finditer(rf"(?<![\w.]){token}(?![\w.])" if token[0].isalnum() else re.escape(token), lines[place]):
                line = lines[place][: match.start()] + partner + lines[place][match.end() :]
                try:
                    fixes.append(tree("\n".join([*lines[:place], line, *lines[place + 1 :]])))
                except SyntaxError:
                    continue
        assert set(fixes) & set(library(row.fields["module"])), row.fields["numbered"]
        assert row.target in row.choices and len(row.choices) >= 2


def test_right_and_wrong_code_are_what_is_said():
    for row in rows("code-bug", n=200):
        assert (tree(row.fields["code"]) in library(row.fields["module"])) == (row.target == "yes")


@pytest.mark.parametrize("split", SPLITS)
def test_no_operator_tells_right_from_wrong(split):
    found = rows("code-bug", split)
    counts = Counter((row.fields["token"], row.target) for row in found)
    assert len(counts) == 32
    assert all(counts[token, "yes"] == counts[token, "no"] for token, _ in counts)
    shown = Counter((row.fields["module"], row.fields["name"], row.fields["lines"], row.target) for row in found)
    assert all(shown[*function, "yes"] == shown[*function, "no"] for *function, _ in shown)


@pytest.mark.parametrize(("binary", "most"), [(False, 0.54), (True, 0.58)])
def test_which_words_occur_hardly_tells_right_from_wrong(binary, most):
    """Counts of words are balanced exactly; that a word occurs at all tells a little, where its partner stays elsewhere in the code."""
    train, test = rows("code-bug"), rows("code-bug", "test")
    counts = CountVectorizer(binary=binary, token_pattern=r"\w+|[^\w\s]+", lowercase=False)
    model = LogisticRegression(C=0.1, max_iter=300).fit(counts.fit_transform([r.fields["code"] for r in train]), [r.target for r in train])
    assert model.score(counts.transform([r.fields["code"] for r in test]), [r.target for r in test]) < most


@pytest.mark.parametrize("split", SPLITS)
def test_packages_are_balanced(split):
    found = Counter(row.target for row in rows("code-organisation", split))
    assert len(found) == len(world("code").truth()["families"]) and len(set(found.values())) == 1


@pytest.mark.parametrize("split", SPLITS)
def test_gold_expressions_pass_their_tests(split):
    for row in rows("code-execute", split, 300):
        space = {}
        exec(f"{row.fields['prompt']}{row.target}\n\n{row.fields['test']}\n\ncheck({row.fields['entry_point']})", space)
        assert row.fields["test"].count("assert") == 5


def test_the_sandbox_decides_about_expressions():
    task = world("code", size=0.01).task("code-execute")
    score = SCORERS[task.metric].score
    assert [score(row.answer, row, task) for row in task.train[:2]] == [1, 1]
    assert score("None", task.train[0], task) == 0
    assert task.prompt(task.train[0]).text().endswith("return")


def test_a_generated_function_is_in_one_split():
    asked = {split: {row.fields["prompt"] for row in rows("code-execute", split, 3000)} for split in SPLITS}
    for one, two in itertools.combinations(asked, 2):
        assert not asked[one] & asked[two]
    for row in rows("code-execute", n=100):
        assert row.fields["level"] == row.fields["prompt"].count(",") + 1


def test_sizes_of_what_is_shown():
    for name in HARVESTED[:3]:
        for row in rows(name):
            assert len(row.fields["code"]) <= 701 and row.fields["code"].count("\n") < 24


def test_examples_of_one_package():
    made = world("code")
    task = made.personal("code-complete", "email")
    assert {row.fields["family"] for split in SPLITS for row in task.split(split)} == {"email"}
    assert len(task.train) >= 20 and len(task.test) >= 5
    with pytest.raises(UserError, match="asyncio"):
        made.personal("code-complete", "nowhere")


def test_the_version_is_told():
    assert world("code").truth()["python"] == platform.python_version()
