"""The grammars world keeps its guarantees."""

import itertools
import math
import random
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from metier.worlds import world
from metier.worlds._grammars.formal import FORMAL
from metier.worlds._grammars.hmm import Hmm
from metier.worlds._grammars.pcfg import BOTH, LevelGrammar
from metier.worlds.grammars import LENGTHS, LENGTHS_OOD, SIGNALS, STATES, TERMINALS

pytestmark = pytest.mark.slow  # a world changes rarely; whoever changes it runs its own file

SEEDS = st.integers(0, 10**9)


@pytest.fixture(scope="module")
def made():
    return world("grammars")


def taken(made, name, split, n):
    return list(itertools.islice(made.sheets()[name].rows(split), n))


def derived(grammar, metadata, level=0, symbol=0):
    """Every text a symbol makes, with its probability, one entry for each derivation: by enumeration."""
    if level == grammar.depth:
        return [((symbol,), 1.0)]
    found = []
    for rule in grammar.rules[level]:
        if rule.parent == symbol and rule.under in (BOTH, metadata[level]):
            parts = [derived(grammar, metadata, level + 1, child) for child in rule.children]
            for combination in itertools.product(*parts):
                text = tuple(t for part, _ in combination for t in part)
                found.append((text, rule.weight * math.prod(p for _, p in combination)))
    return found


TINY = {(a, b): None for a, b in itertools.product((0, 1), repeat=2)}


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS)
def test_likelihoods_prefixes_and_parses_agree_with_enumeration(seed):
    rng = random.Random(seed)
    grammar = LevelGrammar(rng, depth=2)
    every = {metadata: derived(grammar, metadata) for metadata in TINY}
    for metadata, texts in every.items():
        assert sum(p for _, p in texts) == pytest.approx(1)
        assert len({text for text, _ in texts}) == len(texts)  # no text has two derivations
        for text, p in rng.sample(texts, 5):
            assert math.exp(grammar.log_likelihood(text, metadata)) == pytest.approx(p)
            prefix = text[: rng.randint(1, len(text))]
            begun = sum(q for other, q in texts if other[: len(prefix)] == prefix)
            assert math.exp(grammar.log_prefix(prefix, metadata)) == pytest.approx(begun)
    made_by = {text: {m for m, texts in every.items() if any(text == t for t, _ in texts)} for text, _ in itertools.chain(*every.values())}
    for text, makers in rng.sample(list(made_by.items()), 25):
        known = grammar.metadata(text)
        assert makers == {m for m in TINY if all(bit in (None, given) for bit, given in zip(known, m, strict=True))}
        assert all(grammar.accepts(text, m) == (m in makers) for m in TINY)
    for _ in range(40):
        text = tuple(rng.randrange(5) for _ in range(rng.randint(1, 7)))
        assert grammar.accepts(text) == (text in made_by)
        assert any(grammar.log_likelihood(text, m) > -math.inf for m in TINY) == (text in made_by)


@settings(max_examples=4, deadline=None)
@given(seed=SEEDS)
def test_next_tokens_and_posteriors_agree_with_enumeration(seed):
    rng = random.Random(seed)
    grammar = LevelGrammar(rng, depth=2)
    every = [(m, text, p / 4) for m in TINY for text, p in derived(grammar, m)]
    _, whole, _ = rng.choice(every)
    for cut in range(1, len(whole) + 1):
        prefix = whole[:cut]
        begun = [(m, text, p) for m, text, p in every if text[:cut] == prefix]
        total = sum(p for *_, p in begun)
        expected = [sum(p for _, text, p in begun if text[cut : cut + 1] == (t,)) / total for t in range(5)]
        assert grammar.next_token(prefix) == pytest.approx([*expected, 1 - sum(expected)], abs=1e-9)
        for m, p in grammar.posterior(prefix).items():
            assert p == pytest.approx(sum(q for maker, _, q in begun if maker == m) / total)


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_sampled_texts_are_accepted_under_their_metadata_and_tell_what_is_said(seed):
    rng = random.Random(seed)
    grammar = LevelGrammar(rng)
    for _ in range(20):
        metadata = tuple(rng.randrange(2) for _ in range(grammar.depth))
        text, told = grammar.sample(rng, metadata)
        assert grammar.accepts(text, metadata)
        assert grammar.log_likelihood(text, metadata) == pytest.approx(sum(math.log(use.rule.weight) for use in grammar.parse(text)))
        assert [bit if known else None for bit, known in zip(metadata, told, strict=True)] == list(grammar.metadata(text))
        other = tuple(1 - bit for bit in metadata)
        assert grammar.accepts(text, other) == (not any(told))


def test_texts_are_drawn_as_often_as_their_likelihood_says():
    rng = random.Random(5)
    grammar = LevelGrammar(rng, depth=2)
    counts = Counter(tuple(grammar.sample(rng, (0, 1))[0]) for _ in range(20000))
    for text, p in sorted(derived(grammar, (0, 1)), key=lambda item: -item[1])[:10]:
        assert counts[text] / 20000 == pytest.approx(p, abs=4 * math.sqrt(p / 20000))


@settings(max_examples=5, deadline=None)
@given(seed=SEEDS)
def test_metadata_asked_for_is_certain_given_the_text(seed):
    made = world("grammars", seed=seed)
    for row in taken(made, "grammars-metadata", "train", 8):
        text = [TERMINALS.index(t) for t in row.fields["text"].split()]
        share = Counter()
        for metadata in itertools.product((0, 1), repeat=4):
            if (p := made.grammar.log_likelihood(text, metadata)) > -math.inf:
                share[metadata[row.fields["level"] - 1]] += math.exp(p)
        assert list(share) == [int(row.target)]


def test_documents_show_their_metadata_down_to_a_depth(made):
    shown = 0
    for document in itertools.islice(made.documents(depth=2, share=0.5), 400):
        head, text = re.fullmatch(r"Style: (.*)\nText: (.*)", document).groups()
        bits, text = head.split(), [TERMINALS.index(t) for t in text.split()]
        assert bits[2:] == ["?", "?"]
        assert ("?" in bits[:2]) == (bits[:2] == ["?", "?"])
        shown += "?" not in bits[:2]
        known = made.grammar.metadata(text)
        assert all(bit == "?" or told in (None, int(bit)) for bit, told in zip(bits, known, strict=True))
    assert 150 < shown < 250


def test_evidence_is_scarcer_nearer_the_root(made):
    rng, told = random.Random(0), Counter()
    for _ in range(500):
        _, flags = made.grammar.sample(rng, tuple(rng.randrange(2) for _ in range(4)))
        told.update(level for level, flag in enumerate(flags) if flag)
    assert told[0] < told[1] <= told[2] <= told[3] == 500


def paths(hmm, tokens):
    """(path, p(path, tokens)) by enumeration."""
    for path in itertools.product(range(len(hmm.start)), repeat=len(tokens)):
        p = hmm.start[path[0]] * hmm.emission[path[0], tokens[0]]
        for (a, b), token in zip(itertools.pairwise(path), tokens[1:], strict=True):
            p *= hmm.transition[a, b] * hmm.emission[b, token]
        yield path, p


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, length=st.integers(1, 5))
def test_posteriors_and_entropies_agree_with_enumeration_of_paths(seed, length):
    rng = np.random.default_rng(seed)
    hmm = Hmm.random(rng, states=3, tokens=4)
    drawn = hmm.sample(rng, 3, length)
    smoothed, (filtered, log_p), after = hmm.posterior(drawn.tokens), hmm.filter(drawn.tokens), hmm.next_token(drawn.tokens)
    for i, tokens in enumerate(drawn.tokens):
        every = list(paths(hmm, tokens))
        total = sum(p for _, p in every)
        assert log_p[i] == pytest.approx(math.log(total))
        for t, state in itertools.product(range(length), range(3)):
            assert smoothed[i, t, state] == pytest.approx(sum(p for path, p in every if path[t] == state) / total)
        for state in range(3):
            assert filtered[i, -1, state] == pytest.approx(sum(p for path, p in every if path[-1] == state) / total)
        longer = [sum(p for _, p in paths(hmm, [*tokens, v])) / total for v in range(4)]
        assert after[i] == pytest.approx(longer)
        assert hmm.next_entropy(drawn.tokens)[i] == pytest.approx(-sum(p * math.log(p) for p in longer))


def test_an_empty_prefix_is_followed_by_the_start():
    hmm = Hmm.random(np.random.default_rng(0), states=3, tokens=4)
    assert hmm.next_token(np.zeros((2, 0), int)) == pytest.approx(np.stack([hmm.start @ hmm.emission] * 2))
    assert hmm.next_token(np.zeros((2, 0), int)).sum() == pytest.approx(2)


def test_sequences_have_the_frequencies_of_the_matrices(made):
    drawn = made.sequences(4000, 12)
    moves, emits = np.zeros((4, 4)), np.zeros((4, 8))
    np.add.at(moves, (drawn.states[:, :-1], drawn.states[:, 1:]), 1)
    np.add.at(emits, (drawn.states, drawn.tokens), 1)
    assert moves / moves.sum(1, keepdims=True) == pytest.approx(made.hmm.transition, abs=0.02)
    assert emits / emits.sum(1, keepdims=True) == pytest.approx(made.hmm.emission, abs=0.02)
    assert (made.sequences(3, 5, "a").tokens != made.sequences(3, 5, "b").tokens).any()
    assert (made.sequences(3, 5, "a").tokens == made.sequences(3, 5, "a").tokens).all()


@settings(max_examples=5, deadline=None)
@given(seed=SEEDS)
def test_states_asked_for_are_the_likeliest(seed):
    made = world("grammars", seed=seed)
    for split in ("train", "ood"):
        for row in taken(made, "hmm-state", split, 40):
            p = made.hmm.posterior(np.array([[SIGNALS.index(t) for t in row.fields["text"].split()]]))[0, -1]
            assert STATES[p.argmax()] == row.target
            assert np.sort(p)[-1] - np.sort(p)[-2] >= 0.05
            assert row.fields["certainty"] == pytest.approx(p.max(), abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_the_last_letter_alone_does_not_tell_the_state(seed):
    """The best guess from the last letter stays well below the exact answer, so that context counts."""
    made = world("grammars", seed=seed)
    tables = {}
    for row in taken(made, "hmm-state", "train", 3000):
        tables.setdefault(row.fields["text"][-1], Counter())[row.target] += 1
    test = taken(made, "hmm-state", "test", 1000)
    assert sum(tables[row.fields["text"][-1]].most_common(1)[0][0] == row.target for row in test) / 1000 < 0.75


def solved(rule, text):
    """The answers by other means than the makers'."""
    tokens = text.split()
    if rule == "dyck":
        left = text.replace(" ", "")
        while (less := left.replace("()", "").replace("[]", "")) != left:
            left = less
        return " ".join(left[::-1].translate(str.maketrans("([", ")]")))
    return {
        "copy": lambda: text,
        "reverse": lambda: text[::-1],
        "parity": lambda: "odd" if text.count("1") & 1 else "even",
        "modular": lambda: str(len(re.findall("x", text)) % 3),
        "anbn": lambda: " ".join([tokens[-1]] * (tokens.count(tokens[0]) - tokens.count(tokens[-1]))),
    }[rule]()


@pytest.mark.parametrize("rule", FORMAL)
@settings(max_examples=5, deadline=None)
@given(seed=SEEDS)
def test_formal_answers_follow_by_rule(rule, seed):
    made = world("grammars", seed=seed)
    for split, (low, high) in (("train", LENGTHS), ("dev", LENGTHS), ("test", LENGTHS), ("ood", LENGTHS_OOD)):
        rows = taken(made, f"formal-{rule}", split, 80)
        assert all(solved(rule, row.fields["text"]) == row.target for row in rows)
        assert all(low <= row.fields["length"] == len(row.fields["text"].split()) <= high for row in rows)
        assert all(row.target for row in rows)


def test_labels_are_balanced(made):
    for name, sheet in made.sheets().items():
        if sheet.task.kind == "choose":
            for split in sheet.sizes:
                counts = Counter(row.target for row in taken(made, name, split, 240))
                assert set(counts.values()) == {240 // len(sheet.task.choices)}


def test_no_text_is_in_two_splits_or_in_the_corpus(made):
    texts = {}
    for name, sheet in made.sheets().items():
        for split in sheet.sizes:
            texts.setdefault(split, set()).update(f"{row.fields['text']}" for row in taken(made, name, split, 200))
    read = set(re.findall(r"^(?:Text|Signal|Input): (.*)$", "\n".join(itertools.islice(made.corpus(), 6000)), re.MULTILINE))
    assert len(read) > 8000
    for one, two in itertools.combinations([*texts.values(), read], 2):
        assert (one is texts["train"] and two is read) or not one & two


def probed(made, name, n):
    bag = CountVectorizer(token_pattern=r"\S+")
    train, test = taken(made, name, "train", n), taken(made, name, "test", n)
    probe = LogisticRegression(max_iter=200).fit(bag.fit_transform(r.fields["text"] for r in train), [r.target for r in train])
    return probe.score(bag.transform(r.fields["text"] for r in test), [r.target for r in test])


def test_a_bag_of_letters_is_at_chance_on_parity_and_near_it_on_modular(made):
    assert probed(made, "formal-parity", 2000) == pytest.approx(1 / 2, abs=0.06)
    assert probed(made, "formal-modular", 2000) == pytest.approx(1 / 3, abs=0.14)
