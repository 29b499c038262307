"""The library world keeps its guarantees."""

import html.parser
import itertools
import json
import re
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.worlds import world
from metier.worlds._library.words import ASPECTS, RARE, SECTIONS, SYNONYM, TOOLS, TRAITS

ABOUT = re.compile(r"This guide is about the (\w+) of an? (\w+) (\w+)\. You need a (\w+)\. It follows the (\w+)\. "
                   r"It is not about an? (\w+)\. Written by (\w+ \w+) in (\d+)\.")  # fmt: skip
PAIRS = [pair for pairs in (*SECTIONS.values(), ASPECTS, TRAITS) for pair in pairs]
CANON = {word: pair[0] for pair in PAIRS for word in pair}
KIND = {pair[0]: kind for kind, pairs in (("aspect", ASPECTS), ("trait", TRAITS)) for pair in pairs}


@pytest.fixture(scope="module")
def made():
    return world("library")


@pytest.fixture(scope="module")
def text(made):
    return "\n".join(itertools.islice(made.corpus(), 20000))


def _read(text):
    """A guide's text -> (thing, aspect, trait), aside; independent of the world's records."""
    aspect, trait, thing, _, _, aside, _, _ = ABOUT.fullmatch(text).groups()
    return (thing, aspect, trait), aside


def _meant(query):
    """A query's words -> kind -> the documents' word."""
    return {KIND.get(CANON[word], "thing"): CANON[word] for word in query.split() if word in CANON}


def _grade(wanted, topic):
    same = [a == b for a, b in zip(wanted, topic, strict=True)]
    return 0 if not same[0] else 1 if not same[1] else 2 if not same[2] else 3


def _every(task):
    return [row for split in ("train", "dev", "test", "ood") for row in task.split(split)]


def test_every_word_has_one_meaning():
    words = [word for pair in PAIRS for word in pair]
    assert len(words) == len(set(words))
    assert not set(words) & set(TOOLS)


@pytest.mark.slow
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_grades_follow_from_what_guides_and_queries_say(seed):
    task = world("library", seed=seed, size=0.1).task("library-search")
    topics = {d.id: _read(d.text) for d in task.documents}
    for row in _every(task):
        meant = _meant(row.fields["query"])
        wanted = (meant["thing"], meant["aspect"], meant["trait"])
        assert list(wanted) == row.fields["topic"]
        grades = {i: _grade(wanted, topic) for i, (topic, _) in topics.items()}
        assert {i: g for i, g in grades.items() if g} == row.target
        assert sorted(row.target.values())[-1] == 3
        assert row.fields["overlap"] == sum(word in row.fields["query"].split() for word in wanted)
        for near in row.fields["near"]:
            topic, aside = topics[near]
            assert grades[near] == 0
            assert aside == wanted[0] or topic[1:] == wanted[1:]


def test_documents_keep_to_one_word_and_queries_use_both(made):
    task = made.task("library-search")
    said = set(re.findall(r"\w+", " ".join(d.text for d in task.documents).lower()))
    assert not said & set(SYNONYM.values())
    overlaps = Counter(row.fields["overlap"] for row in task.train)
    assert [overlaps[k] / 600 for k in range(4)] == pytest.approx([1 / 8, 3 / 8, 3 / 8, 1 / 8], abs=0.06)


def test_search_by_words_falls_with_overlap(made):
    """Cleaned of synonyms a word match finds the best document; without overlap it does not."""
    task = made.task("library-search")
    texts = {d.id: set(re.findall(r"\w+", d.title)) for d in task.documents}
    found = defaultdict(list)
    for row in task.train:
        best = max(texts, key=lambda i: (len(texts[i] & set(row.fields["query"].split())), i))
        found[row.fields["overlap"]].append(row.target.get(best, 0) == 3)
    shares = [sum(found[k]) / len(found[k]) for k in range(4)]
    assert shares == sorted(shares)
    assert shares[3] == 1
    assert shares[0] < 0.1


def test_splits_and_corpus_ask_about_different_topics(made, text):
    task = made.task("library-search")
    topics = {s: {tuple(row.fields["topic"]) for row in task.split(s)} for s in ("train", "dev", "test", "ood")}
    topics["corpus"] = set()
    for query in set(re.findall(r"Query: (.*)\n", text)):
        meant = _meant(query)
        if len(meant) == 3:
            topics["corpus"].add((meant["thing"], meant["aspect"], meant["trait"]))
    for one, two in itertools.combinations(topics.values(), 2):
        assert not one & two
    assert {t[0] for t in topics["ood"]} == set(RARE)
    assert not {t[0] for s, part in topics.items() if s != "ood" for t in part} & set(RARE)
    assert len(topics["corpus"]) > 300


def test_no_query_or_question_of_a_task_is_in_the_corpus(made, text):
    asked = set(re.findall(r"(?:Query|Question): (.*)\n", text))
    for name, task in made.tasks().items():
        held = {row.fields.get("query") or row.fields["question"] for s in ("dev", "test", "ood") for row in task.split(s)}
        assert not asked & held, name
    for heads in ("Answer", "Reply", "Document", "Relevant"):
        assert re.search(rf"^{heads}: \S", text, re.MULTILINE)


def test_each_acronym_has_one_meaning_in_one_document_that_is_no_guide(made):
    task = made.task("library-acronyms")
    texts = {d.id: d.text for d in task.documents}
    assert len({row.fields["subject"] for row in _every(task)}) == len(_every(task))
    for row in _every(task):
        code = row.fields["subject"]
        assert "".join(w[0] for w in row.target.split()).upper() == code
        assert [i for i, t in texts.items() if f"{code} stands for" in t] == [row.fields["document"]]
        assert row.target in texts[row.fields["document"]]
        assert not any(row.target in t for i, t in texts.items() if i.startswith("guide-"))
    used = {ABOUT.fullmatch(t)[5] for i, t in texts.items() if i.startswith("guide-")}
    assert used <= set(made.truth()["acronyms"])


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_hops_need_as_many_documents_as_they_say(seed):
    task = world("library", seed=seed, size=0.3).task("library-hops")
    texts = {d.id: d.text for d in task.documents}
    for row in _every(task):
        naming = [i for i, t in texts.items() if f"about the {row.fields['subject']}." in t]
        assert naming == row.fields["gold"][:1]
        guide = ABOUT.fullmatch(texts[naming[0]])
        bridge = guide[7] if "author" in row.fields["question"] or "wrote" in row.fields["question"] else guide[4]
        assert len(row.fields["gold"]) == row.fields["hops"]
        if row.fields["hops"] == 1:
            assert row.target == bridge
        else:
            assert row.target not in texts[naming[0]]
            note = texts[row.fields["gold"][1]]
            assert re.search(rf"\b{bridge}\b", note)
            assert note.endswith(f" {row.target}.")
    assert Counter(row.fields["hops"] for row in task.train) == {1: len(task.train) / 2, 2: len(task.train) / 2}


class _Script(html.parser.HTMLParser):
    """What stands in the page's JSON-LD and in its headings."""

    def __init__(self):
        super().__init__()
        self.tag, self.data, self.headings = "", "", []

    def handle_starttag(self, tag, attrs):
        self.tag = "ld" if ("type", "application/ld+json") in attrs else tag

    def handle_endtag(self, tag):
        self.tag = ""

    def handle_data(self, data):
        if self.tag == "ld":
            self.data += data
        elif self.tag == "h2":
            self.headings.append(data)


def test_pages_hold_every_entry_as_text_and_as_json_ld(made):
    entries = {(e["question"], e["answer"]) for e in made.truth()["faq"]}
    found, repeated = set(), 0
    for page in made.pages():
        script = _Script()
        script.feed(page["html"])
        data = json.loads(script.data)
        assert data["@type"] == "FAQPage"
        pairs = [(q["name"], q["acceptedAnswer"]["text"]) for q in data["mainEntity"]]
        assert [q for q, _ in pairs] == script.headings
        found |= {pair for pair in pairs if pair in entries}
        repeated += sum(pair not in entries for pair in pairs)
        same = {a for _, a in entries}
        assert all(answer in same for _, answer in pairs)
    assert found == entries
    assert 20 < repeated < 90


@pytest.mark.slow
def test_faq_queries_mean_one_entry(made):
    task = made.task("library-faq")
    titles = {d.id: d.title for d in task.documents}
    for row in _every(task):
        words = [CANON[w] for w in re.findall(r"\w+", row.fields["query"].lower()) if w in CANON]
        assert [i for i, t in titles.items() if set(words) <= set(re.findall(r"\w+", t))] == list(row.target)
        assert row.fields["query"] not in titles.values()


@pytest.mark.slow
def test_clarified_queries_have_one_best_document_and_alone_fit_several(made):
    task = made.task("library-ambiguous")
    topics = {d.id: _read(d.text)[0] for d in task.documents}
    for row in (*task.train, *task.dev, *task.test):
        meant, missing = _meant(row.fields["query"]), row.fields["missing"]
        place = ("thing", "aspect", "trait").index(missing)
        fitting = {
            i: t
            for i, t in topics.items()
            if all(t[k] == meant[name] for k, name in enumerate(("thing", "aspect", "trait")) if name != missing)
        }
        assert missing not in meant
        assert sorted(t[place] for t in fitting.values()) == row.fields["facets"]
        assert len(fitting) >= 2
        assert row.target == {i: 3 if t[place] == row.fields["reply"] else 1 for i, t in fitting.items()}
        assert list(row.target.values()).count(3) == 1


def test_what_to_ask_back_is_what_the_query_lacks(made):
    task = made.task("library-clarify")
    ask = {"aspect": "what about it?", "trait": "which kind?", "thing": "of what thing?"}
    for split in ("train", "dev", "test"):
        for row in task.split(split):
            lacks = sorted({"aspect", "trait", "thing"} - set(_meant(row.fields["query"])))
            assert row.target == (ask[lacks[0]] if lacks else "nothing")
        assert set(Counter(row.target for row in task.split(split)).values()) == {len(task.split(split)) / 4}


@pytest.mark.slow
def test_clicks_follow_their_known_chances(made):
    truth = made.truth()
    topics = {g["id"]: tuple(g["topic"].values()) for g in truth["guides"]}
    seen, clicked, expected = Counter(), Counter(), Counter()
    for session in made.clicks(20000):
        assert len(session["documents"]) == len(set(session["documents"])) == 10
        for rank, (name, click) in enumerate(zip(session["documents"], session["clicks"], strict=True)):
            grade = _grade(tuple(session["topic"]), topics[name])
            seen[grade] += 1
            clicked[rank, grade] += click
            expected[rank, grade] += truth["examination"][rank] * truth["attraction"][grade]
    for key, chance in expected.items():
        assert abs(clicked[key] - chance) < 5 * chance**0.5 + 5
    # weighted by the inverse of the examination, clicks give the attraction back
    for grade, attraction in enumerate(truth["attraction"]):
        weighted = sum(clicked[rank, grade] / truth["examination"][rank] for rank in range(10))
        assert weighted / seen[grade] == pytest.approx(attraction, rel=0.1)
    assert truth["examination"] == sorted(truth["examination"], reverse=True)


def test_pairs_fit_nearly_fit_and_are_no_task_queries(made):
    task = made.task("library-search")
    held = {row.fields["query"] for row in _every(task)}
    for query, right, wrong in itertools.islice(made.pairs(), 500):
        meant = _meant(query)
        wanted = (meant["thing"], meant["aspect"], meant["trait"])
        assert _read(right)[0] == wanted
        assert _read(wrong)[0][1:] == wanted[1:]
        assert _read(wrong)[0][0] != wanted[0]
        assert query not in held


def test_corpus_never_names_the_shelfs_authors_or_acronyms(made, text):
    truth = made.truth()
    assert not set(truth["towns"]) & set(re.findall(r"[A-Z]\w+ [A-Z]\w+", text))
    assert not set(truth["acronyms"]) & set(re.findall(r"\b[A-Z]{3}\b", text))


def test_metadata_is_what_the_text_says(made):
    sections = {thing: section for section, things in SECTIONS.items() for thing, _ in things}
    for document in made.task("library-search").documents:
        found = ABOUT.fullmatch(document.text)
        assert document.meta["author"] == found[7]
        assert document.meta["date"].startswith(found[8])
        assert document.meta["section"] == sections[found[3]]


@pytest.mark.parametrize("size", [0.001, 1000.0])
def test_streams_of_any_size(size):
    made = world("library", size=size)
    for sheet in made.sheets().values():
        for split in sheet.sizes:
            assert list(itertools.islice(made.rows(sheet, split), 3))
