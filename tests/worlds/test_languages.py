"""The languages world keeps its guarantees."""

import itertools
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from metier.errors import UserError
from metier.worlds import world
from metier.worlds._languages import tongues
from metier.worlds._languages.events import CHANGES, Events, cores, relation
from metier.worlds._languages.tongues import Meaning, Phrase
from metier.worlds.languages import SHARES

pytestmark = pytest.mark.slow  # a world changes rarely; whoever changes it runs its own file

NAMES = tuple(SHARES)
ADJECTIVES = st.sampled_from(("", *tongues.ADJECTIVES))
PHRASES = st.builds(Phrase, st.sampled_from(tongues.PERSONS + tongues.ANIMALS), st.booleans(), ADJECTIVES)
MEANINGS = st.builds(
    Meaning,
    st.sampled_from(tongues.VERBS),
    PHRASES,
    st.none() | PHRASES,
    st.sampled_from(("", *tongues.PLACES)),
    st.sampled_from(tongues.TENSES),
    st.booleans(),
)


@pytest.fixture(scope="module")
def made():
    return world("languages")


def taken(made, name, split, n):
    return list(itertools.islice(made.sheets()[name].rows(split), n))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**9), meanings=st.lists(MEANINGS, min_size=5, max_size=20))
def test_saying_and_reading_are_inverse_in_every_language(seed, meanings):
    for tongue in world("languages", seed=seed).tongues.values():
        for meaning in meanings:
            text = tongue.say(meaning)
            assert tongue.read(text) == meaning
            assert len(tongue.tags(text).split()) == len(text.split())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_no_form_has_two_meanings(seed):
    """A second meaning would have overwritten the first in the table: count the forms that the grammars call for."""
    made = world("languages", seed=seed)
    nouns, adjectives, verbs = len(tongues.NOUNS), len(tongues.ADJECTIVES), len(tongues.VERBS)
    assert len(made.tongues["veluan"].words) == 6 * nouns + adjectives + 6 * verbs
    assert len(made.tongues["kes"].words) == 6 * nouns + adjectives + 3 * verbs + 1
    assert len(made.tongues["tarmic"].words) == 3 * nouns + 2 * adjectives + 6 * verbs
    assert nouns + adjectives + verbs <= 120


ENGLISH = re.compile(
    r"the (?:(?P<a1>\w+) )??(?P<agent>\w+) (?P<verb>(?:did not |do not |does not |will not |will )?\w+)"
    r"(?: the (?:(?P<a2>\w+) )??(?P<patient>\w+))?(?: in the (?P<place>\w+))?\."
)


def stem(word, known):
    return next(k for k in known if re.fullmatch(rf"{k}(s|es|d|ed)?|{k[:-1]}(ies|ied)" if k[-1] == "y" else rf"{k}(s|es|d|ed)?", word))


def analysed(english):
    """An English sentence taken apart by a pattern: what an independent translator needs."""
    parts = ENGLISH.fullmatch(english).groupdict()
    verb, negative = parts["verb"], " not " in f"{parts['verb']} "
    tense = "future" if "will" in verb else "past" if "did" in verb or verb.endswith("ed") else "present"
    return parts, stem(verb.split()[-1], tongues.VERBS), tense, negative


def veluan(english, dictionary):
    parts, verb, tense, negative = analysed(english)
    said = []
    for role, adjective, ending in (("agent", "a1", ""), ("place", "none", "ut"), ("patient", "a2", "em")):
        if noun := parts.get(role):
            if parts.get(adjective):
                said.append(dictionary[parts[adjective]]["veluan"])
            single = noun.removesuffix("s")
            said.append(dictionary[single]["veluan"] + ("al" if noun != single else "") + ending)
    root = dictionary[verb]["veluan"].removesuffix("o")
    return " ".join([*said, root + {"past": "iro", "present": "o", "future": "evo"}[tense] + ("na" if negative else "")]) + "."


def tarmic(english, dictionary):
    parts, verb, tense, negative = analysed(english)
    root = dictionary[verb]["tarmic"].removeprefix("ka")
    said = [("u" if negative else "") + {"past": "mu", "present": "ka", "future": "si"}[tense] + root]
    for role, adjective in (("agent", "a1"), ("patient", "a2")):
        if noun := parts[role]:
            single = noun.removesuffix("s")
            mark = "ne" if noun != single else ""
            said.append(mark + dictionary[single]["tarmic"])
            if parts[adjective]:
                said.append(mark + dictionary[parts[adjective]]["tarmic"])
    if parts["place"]:
        said.append("li" + dictionary[parts["place"]]["tarmic"])
    return " ".join(said) + "."


@pytest.mark.parametrize(("name", "translator"), [("veluan", veluan), ("tarmic", tarmic)])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_translations_agree_with_a_translator_written_from_the_description(name, translator, seed):
    made = world("languages", seed=seed)
    dictionary = made.truth()["dictionary"]
    for split in ("train", "ood"):
        for row in taken(made, f"translate-en-{name}", split, 60):
            assert translator(row.fields["text"], dictionary) == row.target
        for row in taken(made, f"translate-{name}-en", split, 60):
            assert translator(row.target, dictionary) == row.fields["text"]


def test_kes_is_veluan_after_a_regular_change_of_sounds(made):
    sounds = str.maketrans({"v": "b", "k": "g", "t": "d", "p": "f", "e": "ei", "o": "ou"})
    for concept, words in made.truth()["dictionary"].items():
        if concept in tongues.NOUNS:
            assert words["veluan"].translate(sounds) == words["kes"]
    assert not set(made.tongues["veluan"].words) & set(made.tongues["tarmic"].words)


def holds(meaning, model):
    """Truth in a model: (individual, scale) -> adjective or '', event -> the places at which it happened."""
    states, happened = model
    for phrase in (meaning.agent, meaning.patient):
        if phrase and phrase.adjective and states[phrase[:2], scale(phrase.adjective)] != phrase.adjective:
            return False
    places = happened[event(meaning)]
    return (meaning.place in places if meaning.place else bool(places)) != meaning.negative


def scale(adjective):
    return next(pair for pair in tongues.SCALES if adjective in pair)


def event(m):
    return m.verb, m.agent[:2], m.patient and m.patient[:2], m.tense


def models(*meanings):
    """Every model that differs in anything the meanings speak of."""
    phrases = [p for m in meanings for p in (m.agent, m.patient) if p and p.adjective]
    states = sorted({(p[:2], scale(p.adjective)) for p in phrases})
    events = sorted({event(m) for m in meanings}, key=repr)
    places = ["elsewhere", *sorted({m.place for m in meanings if m.place})]
    subsets = [set(s) for n in range(len(places) + 1) for s in itertools.combinations(places, n)]
    for adjectives in itertools.product(*(("", *pair) for _, pair in states)):
        for happened in itertools.product(subsets, repeat=len(events)):
            yield dict(zip(states, adjectives, strict=True)), dict(zip(events, happened, strict=True))


def decided(p, h):
    """Entailment by enumeration: in which of the models of the premise is the hypothesis true?"""
    truths = {holds(h, model) for model in models(p, h) if holds(p, model)}
    return {(True,): "yes", (False,): "no", (False, True): "maybe"}[tuple(sorted(truths))]


@settings(max_examples=100, deadline=None)
@given(p=MEANINGS, h=MEANINGS, same=st.booleans())
def test_relation_is_entailment_in_all_models(p, h, same):
    if same:
        h = h._replace(verb=p.verb, agent=p.agent, patient=p.patient, tense=p.tense)
    for m in (p, h):
        if m.patient and m.patient.noun == m.agent.noun:
            return
    assert relation(p, h) == decided(p, h)


@pytest.mark.parametrize("name", NAMES)
def test_entailment_labels_are_decided_by_the_meanings_of_the_texts(made, name):
    tongue = made.tongues[name]
    rows = taken(made, f"entail-{name}", "train", 150) + taken(made, f"entail-{name}", "test", 60)
    for row in rows:
        assert decided(tongue.read(row.fields["premise"]), tongue.read(row.fields["hypothesis"])) == row.target
    assert {row.fields["change"] for row in rows} >= {"less", "same", "polarity", "opposite", "swap"}


def core(m):
    return m.verb, *sorted((m.agent.noun, m.patient.noun if m.patient else ""))


def test_an_event_is_on_one_side_in_every_language_and_task(made):
    seen = {side: set() for side in ("train", "dev", "test")}
    for name, sheet in made.sheets().items():
        source = made.tongues[name.split("-")[1]]
        for split in sheet.sizes:
            for row in itertools.islice(sheet.rows(split), 150):
                for field in {"text", "premise", "hypothesis"} & row.fields.keys():
                    seen["test" if split == "ood" else split].add(core(source.read(row.fields[field])))
    heads = {tongue.head: tongue for tongue in made.tongues.values()}
    for text in itertools.islice(made.corpus(), 3000):
        for head, said in re.findall(r"^(?:(\w+): )?(.*\.)$", text, re.MULTILINE):
            for sentence in re.findall(r"[^.]+\.", said):
                for tongue in [heads[head]] if head in heads else heads.values():
                    try:
                        seen["train"].add(core(tongue.read(sentence.strip())))
                    except UserError:
                        continue
    assert all(len(events) > 300 for events in seen.values())
    assert not seen["train"] & seen["test"] and not seen["train"] & seen["dev"] and not seen["dev"] & seen["test"]


def test_modifiers_grade_the_difficulty_and_only_ood_has_three(made):
    for name in ("translate-en-veluan", "translate-kes-en", "tag-tarmic", "actor-en", "mood-en"):
        assert {row.fields["level"] for row in taken(made, name, "train", 300)} == {0, 1, 2}
        assert {row.fields["level"] for row in taken(made, name, "ood", 100)} == {3}
    lengths = {level: [] for level in range(4)}
    for row in taken(made, "tag-en", "train", 600) + taken(made, "tag-en", "ood", 200):
        lengths[row.fields["level"]].append(len(row.fields["text"].split()))
    means = [sum(found) / len(found) for found in lengths.values()]
    assert means == sorted(means)


@pytest.mark.parametrize("kind", ["entail", "actor", "mood"])
def test_labels_are_balanced(made, kind):
    for name, split in itertools.product(NAMES, ("train", "dev", "test")):
        counts = Counter(row.target for row in taken(made, f"{kind}-{name}", split, 120))
        assert max(counts.values()) == min(counts.values())


@pytest.mark.parametrize("name", NAMES)
def test_actor_and_mood_are_what_the_meaning_says(made, name):
    tongue = made.tongues[name]
    for row in taken(made, f"actor-{name}", "train", 200):
        assert row.target == ("person" if tongue.read(row.fields["text"]).agent.noun in tongues.PERSONS else "animal")
    for row in taken(made, f"mood-{name}", "train", 200):
        m = tongue.read(row.fields["text"])
        assert row.target == ("good" if (m.verb in tongues.KIND and not m.negative) or (m.verb in tongues.UNKIND and m.negative) else "bad")


def probed(made, name, show, ngrams=(1, 1)):
    """Accuracy of a linear probe over bags of words (or of n-grams)."""
    bag = CountVectorizer(token_pattern=r"[^ .]+", ngram_range=ngrams)
    train, test = taken(made, name, "train", 1800), taken(made, name, "test", 900)
    probe = LogisticRegression(C=0.1, max_iter=200).fit(bag.fit_transform(map(show, train)), [row.target for row in train])
    return probe.score(bag.transform(map(show, test)), [row.target for row in test])


@pytest.mark.parametrize("name", ["actor-en", "actor-tarmic", "mood-en", "mood-kes"])
def test_a_bag_of_words_is_at_chance(made, name):
    assert probed(made, name, lambda row: row.fields["text"]) == pytest.approx(1 / 2, abs=0.06)


@pytest.mark.parametrize("side", ["premise", "hypothesis"])
def test_premise_or_hypothesis_alone_are_at_chance(made, side):
    for ngrams in ((1, 1), (1, 2)):
        assert probed(made, "entail-en", lambda row: row.fields[side], ngrams) == pytest.approx(1 / 3, abs=0.06)


def test_both_bags_together_are_at_chance(made):
    def show(row):
        return " ".join(
            [f"p_{word}" for word in row.fields["premise"].split()] + [f"h_{word}" for word in row.fields["hypothesis"].split()]
        )

    assert probed(made, "entail-en", show) == pytest.approx(1 / 3, abs=0.07)


def test_polarity_and_place_of_either_side_tell_nothing(made):
    counts = {label: [Counter(), Counter()] for label in ("yes", "no", "maybe")}
    for row in taken(made, "entail-en", "train", 6000):
        for i, field in enumerate(("premise", "hypothesis")):
            counts[row.target][i][" not " in row.fields[field], " in the " in row.fields[field]] += 1
    for i, key in itertools.product((0, 1), itertools.product((False, True), repeat=2)):
        found = [counts[label][i][key] / 2000 for label in counts]
        assert max(found) - min(found) < 0.06


@pytest.mark.slow
def test_a_rare_language_is_rare(made):
    words = {name: set(tongue.words) for name, tongue in made.tongues.items()}
    counts = Counter()
    for text in itertools.islice(made.corpus(), 12000):
        for name in NAMES:
            sentences = re.findall(r"[^.:\n]+\.", text)
            counts[name] += sum(words[name].issuperset(sentence.strip(" .").split(" ")) for sentence in sentences)
    assert 0.03 < counts["kes"] / counts["tarmic"] < 0.08
    assert 0.7 < counts["veluan"] / counts["tarmic"] < 1.8
    assert all("nei" not in text for text in itertools.islice(made.language_text("veluan"), 200))


def test_language_text_is_in_the_language(made):
    for name, tongue in made.tongues.items():
        for text in itertools.islice(made.language_text(name), 30):
            for sentence in re.findall(r"[^.]+\.", text):
                tongue.read(sentence.strip())
    assert next(made.language_text("kes")) != next(made.language_text("kes", era=1))


def test_language_text_is_not_what_the_corpus_has(made):
    read = set(itertools.islice(made.corpus(), 5000))
    for name in NAMES:
        assert not read & set(itertools.islice(made.language_text(name), 200))


def test_parallel_text_says_the_same_twice(made):
    heads = {tongue.head: tongue for tongue in made.tongues.values()}
    for name in NAMES[1:]:
        for text in itertools.islice(made.parallel_text(name), 20):
            for pair in text.split("\n\n"):
                one, two = (heads[head].read(said) for head, said in (line.split(": ") for line in pair.split("\n")))
                assert one == two


def test_unknown_language_and_foreign_sentences_are_refused(made):
    with pytest.raises(UserError, match="Did you mean 'kes'"):
        next(made.language_text("kess"))
    for text in ("the dog the cat.", "dog the sleeps.", "the dogs laughs.", "the dog laughs", ""):
        with pytest.raises(UserError, match="not a sentence"):
            made.tongues["en"].read(text)


def test_changes_keep_to_the_side():
    import random

    events = Events(random.Random(0), "dev", cores())
    found = Counter()
    for _ in range(1500):
        p, h, change = events.pair("maybe")
        assert events.allows(p) and events.allows(h)
        found[change] += 1
    assert set(found) == set(CHANGES)
