"""Scorers: how good an output is for an example, between 0 and 1."""

from __future__ import annotations

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from metier.errors import UserError
from metier.task.example import Example
from metier.task.match import answer_number, normalise, rouge_l, same_number, target_number, token_f1
from metier.task.sandbox import Limits, run_python, run_sql
from metier.task.task import Kind, Task

_FENCE = re.compile(r"```(?:python|py|sql|sqlite)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Scorer:
    """A named way to score.

    score       (output, example, task) -> [0, 1]; where there are several acceptable answers, the best counts
    normalise   output -> what is compared when outputs vote (self-consistency)
    statistics  (output, example) -> numbers that add up over examples, for scores of a whole corpus; None elsewhere
    total       summed statistics -> the corpus score in [0, 1]
    """

    name: str
    kinds: tuple[Kind, ...]
    about: str
    score: Callable[[str, Example, Task], float]
    normalise: Callable[[str], str]
    statistics: Callable[[str, Example], list[float]] | None = None
    total: Callable[[Sequence[float]], float] | None = None


def answers(example: Example) -> tuple[str, ...]:
    """All acceptable answers of an example."""
    target = example.target
    return tuple(str(t) for t in target) if isinstance(target, tuple | list) else (str(target),)


def _best(compare: Callable[[str, str], float]) -> Callable[[str, Example, Task], float]:
    def score(output: str, example: Example, task: Task) -> float:
        return max(float(compare(output, answer)) for answer in answers(example))

    return score


def _same(output: str, answer: str) -> float:
    return float(output.strip() == answer.strip())


def _same_normalised(output: str, answer: str) -> float:
    mine, gold = normalise(output), normalise(answer)
    return float(mine == gold and (bool(gold) or output.strip() == answer.strip()))


def _same_number(output: str, answer: str) -> float:
    mine, gold = answer_number(output), target_number(answer)
    if gold is None:
        return _same_normalised(output.rpartition("####")[2], answer)
    return float(mine is not None and same_number(mine, gold))


def _number_text(output: str) -> str:
    number = answer_number(output)
    return normalise(output) if number is None else str(number)


def _strip(output: str) -> str:
    return output.strip()


def code_of(output: str) -> str:
    """The code of an output: its first fenced block if it has one, else all of it."""
    match = _FENCE.search(output)
    return match[1] if match else output


def program(output: str, example: Example) -> str:
    """The program that tests an output: HumanEval's (prompt, test, entry_point) or MBPP's (test_list) fields.

    Raises `UserError` if the example has neither.
    """
    fields, code = example.fields, code_of(output)
    if {"test", "entry_point"} <= set(fields):
        name = str(fields["entry_point"])
        head = str(fields.get("prompt", ""))
        if re.search(rf"^def {re.escape(name)}\b", code, re.MULTILINE):  # the whole function, not its rest
            head = head[: start.start()] if (start := re.search(r"^(?:def|class) ", head, re.MULTILINE)) else head
        return f"{head}{code}\n\n{fields['test']}\n\ncheck({name})\n"
    if tests := fields.get("test_list"):
        setup = fields.get("test_setup_code") or "\n".join(fields.get("test_imports") or ())
        return "\n\n".join([str(setup), code, "\n".join(str(t) for t in tests)]) + "\n"
    raise UserError(f"{example.id}: the metric 'code' needs the fields test and entry_point, or test_list; it has: {', '.join(fields)}.")


def _code(output: str, example: Example, task: Task) -> float:
    limits = Limits(seconds=float(task.options.get("seconds", 10.0)))
    return float(run_python(program(output, example), limits=limits).ok)


def _sql(output: str, example: Example, task: Task) -> float:
    """1 if the output's rows are those of any gold query: the same bag of rows, in the same order where the gold one orders."""
    database = example.fields.get("tables") or example.fields.get("database") or task.options.get("database")
    if not database:
        raise UserError(f"{example.id}: the metric 'sql' needs a database: a field 'tables' or 'database', or 'database' in the task file.")
    query, gold = code_of(output).strip().rstrip(";"), [a.strip().rstrip(";") for a in answers(example)]
    if not query:
        return 0.0
    ran = run_sql(database, [*gold, query], limits=Limits(seconds=10.0))
    if len(ran.results) != len(gold) + 1:  # the query exhausted the process, or no query can run at all
        if not run_sql(database, gold, limits=Limits(seconds=10.0)).ok:
            raise UserError(f"{example.id}: the gold query cannot be run: {ran.reason} {ran.detail}. Correct the query.")
        return 0.0
    failed = [r["error"] for r in ran.results[:-1] if "error" in r]
    if len(failed) == len(gold):
        raise UserError(f"{example.id}: the gold query fails on the database ({failed[0]}): {gold[0]!r:.100}. Correct query or database.")
    mine = ran.results[-1]
    return float(
        any(
            "error" not in r and "error" not in mine and _same_rows(mine["rows"], r["rows"], g)
            for r, g in zip(ran.results, gold, strict=False)
        )
    )


def _same_rows(mine: list[list[Any]], gold: list[list[Any]], query: str) -> bool:
    a, b = ([tuple(_cell(c) for c in row) for row in rows] for rows in (mine, gold))
    ordered = re.search(r"\border\s+by\b(?!.*\))", query, re.IGNORECASE | re.DOTALL)
    return a == b if ordered else Counter(a) == Counter(b)


def _cell(value: Any) -> Any:
    return float(f"{value:.9g}") if isinstance(value, int | float) else value


def _ranking(output: str) -> list[str]:
    try:
        ids = json.loads(output)
    except json.JSONDecodeError as error:
        raise ValueError(f"a ranking must be a JSON list of document ids; got {output[:60]!r}") from error
    if not isinstance(ids, list):
        raise ValueError(f"a ranking must be a JSON list of document ids; got {output[:60]!r}")
    return list(dict.fromkeys(str(i) for i in ids))


def _grades(output: str, example: Example, task: Task) -> tuple[list[int], list[int]]:
    """(grades of the ranked documents down to the cutoff, all positive grades, best first)."""
    cutoff = int(task.options.get("cutoff", 10))
    grades = {str(k): max(int(g), 0) for k, g in example.target.items()}
    return [grades.get(i, 0) for i in _ranking(output)[:cutoff]], sorted((g for g in grades.values() if g > 0), reverse=True)


def _gain(grades: Sequence[int]) -> float:
    return sum(g / math.log2(rank + 1) for rank, g in enumerate(grades, 1))


def _ndcg(output: str, example: Example, task: Task) -> float:
    found, ideal = _grades(output, example, task)
    best = _gain(ideal[: int(task.options.get("cutoff", 10))])
    return _gain(found) / best if best else 0.0


def _mrr(output: str, example: Example, task: Task) -> float:
    found, _ = _grades(output, example, task)
    return next((1 / rank for rank, grade in enumerate(found, 1) if grade), 0.0)


def _recall(output: str, example: Example, task: Task) -> float:
    found, ideal = _grades(output, example, task)
    return sum(g > 0 for g in found) / len(ideal) if ideal else 0.0


@functools.cache
def _sacrebleu(name: str) -> Any:
    from sacrebleu.metrics import BLEU, CHRF

    return BLEU(effective_order=True) if name == "sentence" else BLEU() if name == "bleu" else CHRF()


def _bleu(output: str, example: Example, task: Task) -> float:
    return min(_sacrebleu("sentence").sentence_score(output, list(answers(example))).score / 100, 1.0)


def _bleu_statistics(output: str, example: Example) -> list[float]:
    found = _sacrebleu("bleu").corpus_score([output], [[a] for a in answers(example)])
    return [float(x) for x in (found.sys_len, found.ref_len, *found.counts, *found.totals)]


def _bleu_total(summed: Sequence[float]) -> float:
    whole = [round(x) for x in summed]
    order = (len(whole) - 2) // 2
    scored = _sacrebleu("bleu").compute_bleu(whole[2 : 2 + order], whole[2 + order :], whole[0], whole[1], smooth_method="exp")
    return min(scored.score / 100, 1.0)


def _chrf(output: str, example: Example, task: Task) -> float:
    return min(_sacrebleu("chrf").sentence_score(output, list(answers(example))).score / 100, 1.0)


def _chrf_statistics(output: str, example: Example) -> list[float]:
    # sacrebleu has no public way to the statistics; a test holds their total equal to its corpus_score
    return [float(x) for x in _sacrebleu("chrf")._extract_corpus_statistics([output], [[a] for a in answers(example)])[0]]


def _chrf_total(summed: Sequence[float]) -> float:
    return min(float(_sacrebleu("chrf")._compute_f_score([round(x) for x in summed])) / 100, 1.0)


_GENERATE: tuple[Kind, ...] = ("generate",)
_BOTH: tuple[Kind, ...] = ("choose", "generate")
_RANK: tuple[Kind, ...] = ("rank",)

SCORERS: dict[str, Scorer] = {
    s.name: s
    for s in (
        Scorer("accuracy", _BOTH, "the right choice, to the letter", _best(_same), _strip),
        Scorer("exact", _BOTH, "equal to an answer, outer spaces aside", _best(_same), _strip),
        Scorer(
            "normalised",
            _BOTH,
            "equal after SQuAD's normalisation (case, punctuation, articles, spaces)",
            _best(_same_normalised),
            normalise,
        ),
        Scorer("f1", _GENERATE, "SQuAD's token F1, best over the answers", _best(token_f1), normalise),
        Scorer("rougeL", _GENERATE, "ROUGE-L F-measure over lower-case words, best over the answers", _best(rouge_l), normalise),
        Scorer("bleu", _GENERATE, "BLEU (sacrebleu, 13a); of a sentence, and of the corpus", _bleu, _strip, _bleu_statistics, _bleu_total),
        Scorer("chrf", _GENERATE, "chrF2 (sacrebleu); of a sentence, and of the corpus", _chrf, _strip, _chrf_statistics, _chrf_total),
        Scorer(
            "number", _GENERATE, "the number answered (after '####', else the last) equals the target's", _best(_same_number), _number_text
        ),
        Scorer("code", _GENERATE, "the code passes the example's tests, in the sandbox", _code, lambda output: code_of(output).strip()),
        Scorer(
            "sql",
            _GENERATE,
            "the query gives the rows of a gold query on the example's database",
            _sql,
            lambda o: " ".join(code_of(o).split()),
        ),
        Scorer("ndcg", _RANK, "nDCG at the cutoff (10), linear gain as in trec_eval", _ndcg, _strip),
        Scorer("mrr", _RANK, "1 / rank of the first relevant document, to the cutoff (10)", _mrr, _strip),
        Scorer("recall", _RANK, "share of the relevant documents found by the cutoff (10)", _recall, _strip),
    )
}
