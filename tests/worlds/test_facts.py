"""The facts world keeps its guarantees."""

import itertools
import pickle
import random
import re
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.worlds import world
from metier.worlds._facts.relations import RELATIONS
from metier.worlds._shared import names

NAME = r"[A-Z]\w+(?: [A-Z]\w+)?"
ODD = {r.name: r.odd for r in RELATIONS}


@pytest.fixture(scope="module")
def made():
    return world("facts")


@pytest.fixture(scope="module")
def texts(made):
    return list(itertools.islice(made.corpus(), 40 * 500 + 100))


def _table(truth, *groups):
    return {(s, r): v for group in groups for s, r, v in truth[group]}


def _parse(question):
    """Independent of the world: a question's subject and relations, inner first, by undoing the wordings one by one."""
    for relation in RELATIONS:
        for wording in (*relation.questions, relation.odd):
            head, _, tail = wording.partition("{s}")
            if question.startswith(head) and question.endswith(tail):
                inner = question[len(head) : len(question) - len(tail)]
                for outer in RELATIONS:
                    noun = outer.noun.partition("{s}")[0]
                    if noun and inner.startswith(noun) and outer.value == relation.subject:
                        return inner[len(noun) :], [outer.name, relation.name]
                if re.fullmatch(NAME, inner):
                    return inner, [relation.name]
    raise AssertionError(question)


def _walk(table, subject, path):
    for relation in path:
        subject = table[subject, relation]
    return subject


@pytest.mark.slow
def test_each_answer_stands_in_exactly_one_document_that_names_the_subject(made):
    task = made.task("facts")
    texts = {d.id: d.text for d in task.documents}
    for row in (*task.train, *task.dev, *task.test, *task.ood):
        document = texts[row.fields["document"]]
        assert row.fields["subject"] in document
        assert row.target in document
        named = [i for i, text in texts.items() if re.search(rf"\b{re.escape(row.fields['subject'])}\b", text)]
        assert [i for i in named if re.search(rf"\b{re.escape(row.target)}\b", texts[i])] == [row.fields["document"]]


def test_splits_ask_about_different_documents_and_ood_about_the_test_documents(made):
    task = made.task("facts")
    gold = {s: {row.fields["document"] for row in task.split(s)} for s in ("train", "dev", "test", "ood")}
    assert not gold["train"] & gold["test"]
    assert not gold["train"] & gold["dev"]
    assert not gold["dev"] & gold["test"]
    assert gold["ood"] == gold["test"]
    assert [(r.fields["subject"], r.fields["relation"], r.target) for r in task.ood] == [
        (r.fields["subject"], r.fields["relation"], r.target) for r in task.test
    ]
    assert all(r.fields["question"] == ODD[r.fields["relation"]].format(s=r.fields["subject"]) for r in task.ood)


def test_document_entities_never_occur_in_the_corpus(made, texts):
    subjects = {row.fields["subject"] for name in ("facts", "facts-unanswerable") for row in made.rows(made.sheets()[name], "test")}
    subjects |= {row.fields["subject"] for s in ("train", "dev") for row in made.rows(made.sheets()["facts"], s)}
    later = list(itertools.islice(made.corpus(era=1), 5000))
    assert not subjects & set(re.findall(NAME, "\n".join(texts + later).replace("The ", "the ")))


def test_odd_wordings_never_occur_in_the_corpus(texts):
    text = "\n".join(texts[:6000])
    for relation in RELATIONS:
        pattern = re.escape(relation.odd).replace(r"\{s\}", r"[A-Z]\w+( [A-Z]\w+)?")
        assert not re.search(pattern, text), relation.name


def test_frequent_facts_recur_and_once_facts_are_stated_once(made, texts):
    where = Counter(texts)
    for fact in made.once():
        assert sum(where[w.format(s=fact.subject, o=fact.value)] for w in fact.relation.statements) == 1
    said = Counter(re.findall(NAME, "\n".join(texts).replace("The ", "the ").replace("Passage: ", "")))
    assert all(said[fact.subject] >= 20 for fact in made.frequent())
    assert all(said[fact.subject] <= 3 for fact in made.once())


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_one_value_per_subject_and_relation(seed):
    truth = world("facts", seed=seed, size=0.1).truth()
    every = [tuple(fact) for group in ("frequent", "once", "new", "documents") for fact in truth[group]]
    assert len({(s, r) for s, r, _ in every}) == len(every)
    assert len(truth["frequent"]) == 480
    assert len(truth["once"]) == 500


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(sorted(names.SIDES)), st.sampled_from(sorted(names.DRESS)))
def test_names_fall_on_the_wanted_side(seed, side, kind):
    assert names.side(names.name(random.Random(seed), kind, side)) == side


@pytest.mark.parametrize("side", ["dev", "new"])
def test_key_words_are_all_different_and_all_of_their_side(side):
    words = list(names.key_words(random.Random(5), side))
    assert len(set(words)) == len(words) == names.capacity(side)
    assert {names.side(w) for w in words[:500]} == {side}


def test_known_task_asks_frequent_facts_each_in_one_split(made):
    task = made.task("facts-known")
    frequent = {tuple(fact) for fact in made.truth()["frequent"]}
    asked = [(r.fields["subject"], r.fields["relation"], r.target) for s in ("train", "dev", "test") for r in task.split(s)]
    assert set(asked) <= frequent
    assert len(asked) == len(set(asked)) == 480


def test_once_task_asks_once_facts_each_in_one_split(made):
    task, once = made.task("facts-once"), {tuple(fact) for fact in made.truth()["once"]}
    asked = [(r.fields["subject"], r.fields["relation"], r.target) for s in ("train", "dev", "test") for r in task.split(s)]
    assert set(asked) == once
    assert len(asked) == 500


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_two_steps_lead_to_the_answer_and_ood_pairs_are_new(seed):
    made = world("facts", seed=seed)
    task, table = made.task("facts-hops"), _table(made.truth(), "frequent")
    pairs = defaultdict(set)
    for split in ("train", "dev", "test", "ood"):
        assert len(task.split(split)) >= 20
        for row in task.split(split):
            subject, path = _parse(row.fields["question"])
            assert (subject, path) == (row.fields["subject"], row.fields["path"])
            assert _walk(table, subject, path) == row.target
            pairs[split].add(tuple(path))
    assert not pairs["ood"] & (pairs["train"] | pairs["dev"] | pairs["test"])


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_backward_questions_have_one_answer(seed):
    made = world("facts", seed=seed)
    truth = made.truth()
    said = truth["frequent"] + truth["once"]
    for split in ("train", "dev", "test"):
        for row in made.task("facts-reversed").split(split):
            assert row.fields["value"] in row.fields["question"]
            assert [s for s, r, v in said if (r, v) == (row.fields["relation"], row.fields["value"])] == [row.target]


def test_the_corpus_asks_two_steps_and_backwards_but_never_the_tasks_questions(made, texts):
    later = "\n".join([*texts, *itertools.islice(made.corpus(era=1), 5000)])
    asked = set(re.findall(r"Question: (.*)\n", later))
    for name in ("facts-known", "facts-once", "facts-hops", "facts-reversed", "facts-updates"):
        task = made.task(name)
        assert not asked & {row.fields["question"] for s in ("dev", "test", "ood") for row in task.split(s)}
    pairs = {tuple(r.fields["path"]) for r in made.task("facts-hops").ood}
    steps = re.compile(r"the (birthplace|home|employer|mayor|seat|founder|maker) of")
    asked_paths = [_parse(q)[1] for q in sorted(asked) if steps.search(q, 6) and not q.endswith(" now?")]
    assert sum(len(path) == 2 for path in asked_paths) > 300
    assert not pairs & {tuple(path) for path in asked_paths}
    assert any(q.startswith("Who was born in") for q in asked)


def test_closed_book_answers_of_the_corpus_are_true(made, texts):
    table = _table(made.truth(), "frequent")
    checked = 0
    for text in texts[:3000]:
        if "Passage:" in text or "Question:" not in text:
            continue
        for question, answer in re.findall(r"Question: (.*)\nAnswer: (.*)", text):
            try:
                subject, path = _parse(question)
            except AssertionError:
                continue  # a backward question
            assert _walk(table, subject, path) == answer
            checked += 1
    assert checked > 1000


def test_updates_contradict_older_documents_and_the_newest_counts(made):
    task, truth = made.task("facts-updates"), made.truth()
    frequent, documents = _table(truth, "frequent"), {d.id: d for d in task.documents}
    changed = {(s, r): (old, new) for s, r, old, new in truth["updates"]}
    seen = []
    for row in (*task.train, *task.dev, *task.test):
        key = row.fields["subject"], row.fields["relation"]
        assert changed[key] == (row.fields["old"], row.target)
        assert frequent[key] == row.fields["old"] != row.target
        newer, older = documents[row.fields["document"]], documents[row.fields["older"]]
        assert newer.meta["year"] > older.meta["year"]
        assert str(newer.meta["year"]) in newer.text
        assert row.target in newer.text
        assert row.fields["old"] in older.text
        seen.append(key)
    assert len(set(seen)) == len(seen)
    assert 0.3 < sum(row.fields["document"] < row.fields["older"] for row in task.test) / len(task.test) < 0.7


@pytest.mark.slow
def test_news_says_the_new_values_and_never_asks_about_them(made):
    truth = made.truth()
    text = "\n".join(itertools.islice(made.corpus(era=1), 8000))
    early = "\n".join(itertools.islice(made.corpus(era=0), 8000))
    told = [*((s, r, new) for s, r, _, new in truth["updates"]), *map(tuple, truth["new"])]
    asked = set(re.findall(r"Question: (.*)\n", text))
    wordings = {r.name: r for r in RELATIONS}
    for subject, relation, value in told:
        ways = [w.format(s=subject, o=value) for w in wordings[relation].statements]
        assert sum(text.count(way.removeprefix("The ")) for way in ways) >= 5
        assert not any(way in early for way in ways)
        assert not asked & {q.format(s=subject) for q in wordings[relation].questions}
    for subject, relation, old, _ in truth["updates"]:
        assert not any(w.format(s=subject, o=old) in text for w in wordings[relation].statements)


def test_unanswerable_questions_are_about_what_only_the_other_passage_tells(made):
    rows = list(made.rows(made.sheets()["facts-unanswerable"], "train"))
    assert sum(row.fields["answerable"] for row in rows) == len(rows) / 2
    for row in rows:
        relation = next(r for r in RELATIONS if r.name == row.fields["relation"])
        told = [
            passage
            for passage in row.fields["passages"]
            if any(
                re.search(re.escape(w).replace(r"\{s\}", re.escape(row.fields["subject"])).replace(r"\{o\}", ".+?"), passage)
                for w in relation.statements
            )
        ]
        assert bool(told) == row.fields["answerable"] == (row.target != "unknown")
        assert sum(row.fields["subject"] in passage for passage in row.fields["passages"]) == 1
        assert not told or row.target in told[0]


def test_words_do_not_tell_what_is_unanswerable(made):
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    sheet = world("facts", size=5).sheets()["facts-unanswerable"]
    task = sheet.task
    rows = {split: list(itertools.islice(sheet.rows(split), 2000)) for split in ("train", "test")}
    said = {split: [task.prompt(row).text() for row in part] for split, part in rows.items()}
    gold = {split: [row.fields["answerable"] for row in part] for split, part in rows.items()}
    for ngrams in ((1, 1), (1, 2)):
        words = CountVectorizer(ngram_range=ngrams, min_df=5)
        probe = LogisticRegression(C=0.1, max_iter=500).fit(words.fit_transform(said["train"]), gold["train"])
        assert abs(probe.score(words.transform(said["test"]), gold["test"]) - 0.5) < 0.06


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**9), n=st.integers(1, 740))
def test_edit_questions_hold_after_one_edit_and_after_all(seed, n):
    made = world("facts", seed=seed)
    before = _table(made.truth(), "frequent", "once")
    edits = list(made.edits(n))
    assert len({(e.subject, e.relation) for e in edits}) == n
    assert edits == list(made.edits())[:n]
    everything = before | {(e.subject, e.relation): e.new for e in edits}
    for edit in random.Random(seed).sample(edits, min(n, 60)):
        for table in (before | {(edit.subject, edit.relation): edit.new}, everything):
            _check(edit, before, table)


def _check(edit, before, table):
    key = edit.subject, edit.relation
    assert before[key] == edit.old != edit.new == table[key]
    for text in (edit.prompt, *edit.paraphrases):
        assert _parse(text) == (edit.subject, [edit.relation])
    assert edit.new in edit.statement
    for question, answer in edit.neighbourhood:
        subject, path = _parse(question)
        assert subject != edit.subject
        assert path == [edit.relation]
        assert before[subject, path[0]] == table[subject, path[0]] == answer
    for question, answer in edit.same_subject:
        subject, path = _parse(question)
        assert subject == edit.subject
        assert path != [edit.relation]
        assert before[subject, path[0]] == table[subject, path[0]] == answer
    for hop in edit.hops:
        subject, path = _parse(hop.question)
        assert _walk(table, subject, path) == hop.answer != hop.before
        assert not hop.before or _walk(before, subject, path) == hop.before
    for question, answer in edit.reversed:
        assert edit.new in question
        assert [s for (s, r), v in table.items() if (r, v) == (edit.relation, edit.new)] == [answer] == [edit.subject]


def test_half_of_the_known_edits_have_hops_and_some_are_asked_back(made):
    edits = list(made.edits(240))
    assert all(e.known and len(e.neighbourhood) == 5 for e in edits)
    assert sum(bool(e.hops) for e in edits) > 120
    assert sum(bool(e.reversed) for e in edits) > 40


@pytest.mark.parametrize("size", [0.001, 1000.0])
def test_streams_are_lazy_and_end_by_themselves(size):
    made = world("facts", size=size)
    for sheet in made.sheets().values():
        for split in sheet.sizes:
            assert list(itertools.islice(made.rows(sheet, split), 3))
        assert not len(sheet.task.documents) or next(iter(sheet.task.documents)).text


@pytest.mark.slow
def test_splits_end_when_there_are_no_more_names():
    made = world("facts", size=10**6)
    rows = made.rows(made.sheets()["facts-unanswerable"], "dev")
    assert sum(1 for _ in rows) == names.capacity("dev") // 2


def test_documents_stream_index_and_pickle_alike(made):
    documents = made.sheets()["facts"].task.documents
    assert len(documents) == 450
    assert list(documents) == [documents[i] for i in range(450)] == list(pickle.loads(pickle.dumps(documents)))
    assert documents == tuple(documents)
    assert documents[-1].id.startswith("train")
