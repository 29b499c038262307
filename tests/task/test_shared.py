"""The real data sets beside the repository load as what they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from metier.errors import UserError
from metier.task import SCORERS, load_task

# folder: kind, metric, rows of train, dev, test, choices, documents
SETS = {
    "banking77": ("choose", "accuracy", (9000, 1003, 3080), 77, 0),
    "trec": ("choose", "accuracy", (4906, 546, 500), 6, 0),
    "sst2": ("choose", "accuracy", (6920, 872, 1821), 2, 0),
    "financial_phrasebank": ("choose", "accuracy", (3384, 485, 967), 3, 0),
    "clinc150": ("choose", "accuracy", (15100, 3100, 5500), 151, 0),
    "ag_news_resplit": ("choose", "accuracy", (4180, 380, 3040), 4, 0),
    "tweet_emotion": ("choose", "accuracy", (3257, 374, 1421), 4, 0),
    "tweet_stance": ("choose", "accuracy", (2620, 294, 1249), 3, 0),
    "snips": ("choose", "accuracy", (13084, 700, 700), 7, 0),
    "sick": ("choose", "accuracy", (4500, 500, 4927), 3, 0),
    "breaking_nli": ("choose", "accuracy", (0, 0, 8193), 3, 0),
    "gsm8k": ("generate", "number", (6973, 500, 1319), 0, 0),
    "asdiv": ("generate", "number", (1598, 178, 529), 0, 0),
    "policyqa": ("generate", "f1", (3320, 489, 4152), 0, 0),
    "covidqa": ("generate", "f1", (717, 97, 332), 0, 98),
    "medquad": ("generate", "rougeL", (3353, 190, 204), 0, 0),
    "mbpp": ("generate", "code", (374, 90, 500), 0, 0),
    "humaneval": ("generate", "code", (0, 0, 164), 0, 0),
    "text2sql_advising": ("generate", "exact", (2629, 229, 573), 0, 0),
    "defog_sql": ("generate", "sql", (0, 0, 129), 0, 0),
    "vaswani_npl": ("rank", "ndcg", (0, 23, 70), 0, 11429),
    "limit_small": ("rank", "ndcg", (0, 0, 1000), 0, 46),
}


@pytest.mark.parametrize("name", SETS)
def test_a_set_loads_as_what_it_is(shared: Path, name: str) -> None:
    task = load_task(shared / "data" / name, allow_leak=True)
    sizes = (len(task.train), len(task.dev), len(task.test))
    assert (task.kind, task.metric, sizes, len(task.choices), len(task.documents)) == SETS[name]
    first, scorer = task.test[0], SCORERS[task.metric]
    assert task.prompt(first).text().strip()
    if task.kind != "rank":
        assert scorer.score(first.answer, first, task) == 1
        assert scorer.score("nonsense 987654", first, task) < 0.5
    ids = [e.id for split in (task.train, task.dev, task.test) for e in split]
    assert len(set(ids)) == len(ids)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "leaks"), [("trec", "10 of 500"), ("sick", "49 of 4927")])
def test_known_leaks_are_found_as_the_cards_count_them(shared: Path, name: str, leaks: str) -> None:
    with pytest.raises(UserError, match=f"{leaks} test rows also occur in train"):
        load_task(shared / "data" / name)
    clean = load_task(shared / "data" / name, overrides={"dedupe": True})
    assert not any("occur in" in w for w in clean.options["warnings"][1:])


@pytest.mark.slow
def test_gold_answers_of_code_and_sql_pass_their_own_tests(shared: Path) -> None:
    for name, step in (("mbpp", 50), ("humaneval", 20), ("defog_sql", 16)):
        task = load_task(shared / "data" / name)
        score = SCORERS[task.metric].score
        assert all(score(e.answer, e, task) == 1 for e in task.test[::step]), name


def test_sets_without_a_question_say_what_to_write(shared: Path) -> None:
    with pytest.raises(UserError, match="the columns are: lang, tokens, ner_tags, id"):
        load_task(shared / "data" / "masakhaner2")
