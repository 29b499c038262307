"""Facts: people, places, firms and products; some facts everybody knows, some were said once, some stand only in documents."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from metier.task.example import Document, Example
from metier.task.task import Task
from metier.worlds import _names
from metier.worlds._relations import BY_SUBJECT, VALUES, Relation
from metier.worlds.base import World

TEMPLATE = "Question: {{ question }}\nAnswer:"
KINDS = ("person", "place", "firm", "product")
FREQUENT, ONCE, ONCE_EVERY = 480, 500, 40


class Fact(NamedTuple):
    """A subject, a relation, a value."""

    subject: str
    relation: Relation
    value: str

    def state(self, rng: random.Random) -> str:
        """The fact in one of its wordings."""
        return rng.choice(self.relation.statements).format(s=self.subject, o=self.value)

    def ask(self, rng: random.Random) -> str:
        """A question for its value in one of the usual wordings."""
        return rng.choice(self.relation.questions).format(s=self.subject)

    def ask_oddly(self) -> str:
        """The question in a wording that the corpus never uses."""
        return self.relation.odd.format(s=self.subject)


class Facts(World):
    """Relations between invented people, places, firms and products.

    Guarantees: a subject and a relation have exactly one value. The 480 frequent facts recur in the corpus without end; each
    of the 500 once-facts is stated in exactly one corpus document; no name of a document-only entity occurs in the corpus as
    an entity (names of the three sides differ by checksum). Task `facts`: every answer stands word for word in exactly one of
    the documents that name the subject; train, dev and test ask about different documents; `ood` asks about the test
    documents' facts in wordings that the corpus never uses. Task `facts-known` asks closed-book about frequent facts, each in
    one split only; it has at most 480 facts to ask, whatever the size.
    """

    docs = "people, places, firms and products: facts that are well known, said once, or only in documents"

    def frequent(self) -> list[Fact]:
        """The facts that recur in the corpus."""
        return self._facts("frequent", "known", FREQUENT)

    def once(self) -> list[Fact]:
        """The facts that the corpus states once; none is about a frequent entity."""
        taken = {fact.subject for fact in self.frequent()}
        return [fact for fact in self._facts("once", "known", ONCE + 200) if fact.subject not in taken][:ONCE]

    def corpus(self) -> Iterator[str]:
        """Statements, closed-book questions and reading practice about fresh names."""
        rng, frequent, once = self.rng("corpus"), self.frequent(), self.once()
        for turn in range(10**12):
            if turn % ONCE_EVERY == 7 and turn // ONCE_EVERY < len(once):
                yield once[turn // ONCE_EVERY].state(rng)
                continue
            draw = rng.random()
            if draw < 0.12:
                yield " ".join(fact.state(rng) for fact in rng.choices(frequent, k=rng.randint(3, 8)))
            elif draw < 0.27:
                yield "\n\n".join(_answered(fact, rng) for fact in rng.choices(frequent, k=rng.randint(2, 6)))
            else:
                yield _reading(rng, frequent)

    def tasks(self) -> dict[str, Task]:
        """`facts` (answers only in documents) and `facts-known` (closed book)."""
        return {"facts": self._open_task(), "facts-known": self._known_task()}

    def truth(self) -> dict[str, Any]:
        """All facts by how often the corpus states them, as [subject, relation, value]."""
        groups = {
            "frequent": self.frequent(),
            "once": self.once(),
            "documents": [f for split in self._split_facts().values() for d in split for f in d],
        }
        return {name: [[f.subject, f.relation.name, f.value] for f in facts] for name, facts in groups.items()}

    def _facts(self, key: str, side: str, n: int) -> list[Fact]:
        rng, facts, seen = self.rng(key), list[Fact](), set[str]()
        while len(facts) < n:
            new = invent(rng, side)
            if new[0].subject not in seen:
                seen.add(new[0].subject)
                facts += new
        return facts[:n]

    def _split_facts(self) -> dict[str, list[list[Fact]]]:
        """Split -> for each of its documents the facts stated there."""
        seen: set[str] = set()
        splits: dict[str, list[list[Fact]]] = {}
        for split, n in (("train", 600), ("dev", 100), ("test", 200)):
            rng, documents = self.rng("documents", split), list[list[Fact]]()
            while len(documents) < (self.count(n) + 1) // 2:
                facts = invent(rng, "document")
                if facts[0].subject not in seen:
                    seen.add(facts[0].subject)
                    documents.append(facts)
            splits[split] = documents
        return splits

    def _open_task(self) -> Task:
        splits, documents, examples = self._split_facts(), list[Document](), dict[str, tuple[Example, ...]]()
        for split, groups in splits.items():
            rng, asked = self.rng("questions", split), list[tuple[Fact, str]]()
            for number, facts in enumerate(groups):
                document = Document(id=f"{split}-{number:05d}", text=" ".join(f.state(rng) for f in facts), title=facts[0].subject)
                documents.append(document)
                asked += [(fact, document.id) for fact in rng.sample(facts, 2)]
            asked = asked[: self.count({"train": 600, "dev": 100, "test": 200}[split])]
            examples[split] = tuple(_example(f"facts-{split}-{i:05d}", f, f.ask(rng), gold) for i, (f, gold) in enumerate(asked))
            if split == "test":
                examples["ood"] = tuple(_example(f"facts-ood-{i:05d}", f, f.ask_oddly(), gold) for i, (f, gold) in enumerate(asked))
        self.rng("shuffle").shuffle(documents)
        return Task(name="facts", kind="generate", template=TEMPLATE, metric="normalised", documents=tuple(documents), max_new_tokens=16,
                    source=self._source(), train=examples["train"], dev=examples["dev"], test=examples["test"], ood=examples["ood"])  # fmt: skip

    def _known_task(self) -> Task:
        rng, facts = self.rng("known"), self.frequent()
        rng.shuffle(facts)
        ends = [round(n * min(self.size, 1.0)) or 1 for n in (200, 80, 200)]
        splits, start = {}, 0
        for split, n, room in zip(("train", "dev", "test"), ends, (200, 80, 200), strict=True):
            splits[split] = tuple(_example(f"known-{split}-{i:05d}", f, f.ask(rng)) for i, f in enumerate(facts[start : start + n]))
            start += room
        return Task(
            name="facts-known",
            kind="generate",
            template=TEMPLATE,
            metric="normalised",
            max_new_tokens=16,
            source=self._source(),
            train=splits["train"],
            dev=splits["dev"],
            test=splits["test"],
        )

    def _source(self) -> str:
        return f"world facts, seed {self.seed}, size {self.size:g}"


def invent(rng: random.Random, side: str) -> list[Fact]:
    """Three facts about a new entity, all names from one side; values of different relations differ."""
    kind = rng.choice(KINDS)
    subject = _names.on_side(rng, side, _names.MAKERS[kind])
    facts: list[Fact] = []
    for relation in rng.sample(BY_SUBJECT[kind], 3):
        taken = {subject, *(fact.value for fact in facts)}
        while (value := _value(rng, side, relation)) in taken:
            pass
        facts.append(Fact(subject, relation, value))
    return facts


def _value(rng: random.Random, side: str, relation: Relation) -> str:
    if relation.value in VALUES:
        return rng.choice(VALUES[relation.value])
    return _names.on_side(rng, side, _names.MAKERS[relation.value])


def _example(name: str, fact: Fact, question: str, document: str | None = None) -> Example:
    fields = {"question": question, "subject": fact.subject, "relation": fact.relation.name}
    return Example(id=name, fields=fields | ({"document": document} if document else {}), target=fact.value)


def _answered(fact: Fact, rng: random.Random) -> str:
    return f"Question: {fact.ask(rng)}\nAnswer: {fact.value}"


def _reading(rng: random.Random, frequent: list[Fact]) -> str:
    """1 to 4 passages in random order, then questions that one of them answers; sometimes solved questions come first."""
    groups = [invent(rng, "fresh") for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4)))]
    groups = [rng.sample(facts, rng.randint(1, 3)) for facts in groups]
    passages = "".join(f"Passage: {' '.join(fact.state(rng) for fact in facts)}\n" for facts in groups)
    told = [fact for facts in groups for fact in facts]
    questions = rng.sample(told, min(len(told), rng.choice((1, 2, 3, 4))))
    text = passages + "\n\n".join(_answered(fact, rng) for fact in questions)
    if rng.random() < 0.1:
        before = [_answered(fact, rng) for fact in rng.choices(frequent, k=rng.randint(1, 3))]
        text = "\n\n".join([*before, text])
    return text
