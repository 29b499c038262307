"""Classification: topics, verdicts and intents, coded labels, noise and cues of known rates, and 400 small related tasks."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from metier import check
from metier.errors import UserError
from metier.task.example import Example
from metier.task.task import Task
from metier.worlds._classification import blocks, reviews, small, topics
from metier.worlds._classification.domains import CODED, CUE_HOLDS, CUE_HOLDS_OOD, DOMAINS, Cell, Domain, Drawn, class_of
from metier.worlds._classification.groups import group_items
from metier.worlds._classification.words import HEADS, LABELS
from metier.worlds._shared.draws import in_turn, pick
from metier.worlds._shared.kinds import GROUPS
from metier.worlds._shared.sides import part_of
from metier.worlds.base import Sheet, World

SIZES = {"train": 600, "dev": 100, "test": 200, "ood": 200}
SMALL_SIZES = {"train": 200, "dev": 50, "test": 100, "ood": 100}
NOISE = {"reviews-noisy": 0.2, "topics-noisy": 0.3}
METRICS = {"topics-multi": "f1", "topics-path": "exact"}
GROUPINGS = tuple(f"groups-{i}" for i in range(4))
KINDS = 3  # in a grouping
SMALL = small.FAMILIES * small.TASKS
Rows = Callable[[str], Iterator[Example]]


class Classification(World):
    """Short texts to be sorted: reviews, topics, intents and groups, with shifted twins, and hundreds of small related tasks.

    Tasks: `reviews` (good, bad, mixed), `topics` (6), `topics-fine` (18), `topics-path` (both, as 'sport, tennis'),
    `topics-multi` (one to three topics, sorted), `topics-cue`, `intents` (8 and 'other', out of scope), `groups-0` to
    `groups-3`; `*-coded` (labels are words drawn for the world: only exemplars or training tell what they mean), and
    `*-noisy` (a known share of the train labels is wrong; the field `noisy` says which). `small-000` to
    `small-399`, which listings leave out.

    Guarantees: labels follow from the texts by construction and are balanced. No text is in two splits, and no text of dev,
    test or ood occurs in the corpus with a label (texts are parted by checksum). Reviews: of the four forms, `tangled` has
    exactly one 'not' in every good or bad text, and a bag-of-words probe is at chance there; the hour of delivery names the
    verdict in 97 of 100 texts, and in 10 of 100 of `ood`, whose opinion words, things, parts and style are others. Topics: a text
    holds one word more of its topic than of all others together (`level` counts those), and its `ood` shifts style, words or
    both (field `shift`); the page number of `topics-cue` agrees with the topic in 95 of 100 texts, in 10 of 100 of ood. Intents:
    out-of-scope requests in ood are of wordings that train lacks, as are the others. Groups: test and train share no word
    of a kind. Coded labels occur in no text, and never with a fixed meaning in the corpus. A small task asks for one
    of 18 independent yes-or-no properties of a sentence or for most of three; what two tasks share is their `relatedness`.
    """

    docs = "topics, verdicts, intents; shifted, coded and noisy twins; 400 small tasks of known relatedness"

    def corpus(self, era: int = 0) -> Iterator[str]:
        """Blocks of solved items (mostly with labels drawn for the block), blocks of the world's tasks, statements."""
        yield from blocks.documents(self.rng("corpus", *([era] if era else [])))

    def sheets(self) -> dict[str, Sheet]:
        """All tasks but the small ones, which `sheet` knows by name."""
        found = {name: _sheet(name, domain, self._rows(name, domain)) for name, domain in DOMAINS.items()}
        for name, rate in NOISE.items():
            domain = DOMAINS[name.removesuffix("-noisy")]
            found[name] = _sheet(name, domain, self._noisy(name, domain, rate))
        for name in CODED:
            domain = self._coded(name)
            found[name] = _sheet(name, domain, self._rows(name, domain))
        return found | {name: self._grouping(name) for name in GROUPINGS}

    def sheet(self, name: str) -> Sheet:
        """One task, the small ones too: `small-000` to `small-399`."""
        if not name.startswith("small-"):
            return super().sheet(name)
        if not re.fullmatch(r"small-\d{3}", name) or (i := int(name[6:])) >= SMALL:
            raise UserError(f"world {self.name}: no task {name!r}. Small tasks are called small-000 to small-{SMALL - 1}.")
        return self._small_sheet(i, self.small_rules(i // small.TASKS)[i % small.TASKS])

    def small_task(self, i: int) -> Task:
        """Small task `i` of 400; twenty successive ones are a family, and draw their rules from the same six properties."""
        return self.task(f"small-{check.integer('i', i, low=0, high=SMALL - 1):03d}")

    def small_rules(self, family: int) -> list[small.Rule]:
        """The rules of a family's twenty small tasks."""
        return small.family_rules(self.rng("family", family), family)

    def relatedness(self) -> list[list[float]]:
        """For each two small tasks the share of properties they have in common (Jaccard)."""
        return small.relatedness(self._all_small_rules())

    def truth(self) -> dict[str, Any]:
        """Polarities, hierarchy, groups, codes, rates, and the small tasks with their relatedness."""
        polarity = {w: "good" for w in reviews.GOOD + reviews.GOOD_OOD} | {w: "bad" for w in reviews.BAD + reviews.BAD_OOD}
        return {
            "polarity": polarity,
            "cues": {
                "reviews": {"of": reviews.CUES, "holds": reviews.CUE_HOLDS, "holds_ood": reviews.CUE_HOLDS_OOD},
                "topics-cue": {"of": topics.CUES, "holds": CUE_HOLDS, "holds_ood": CUE_HOLDS_OOD},
            },
            "noise": NOISE,
            "subjects": topics.SUBJECTS,
            "groups": GROUPS,
            "codes": {name: self.codes(name) for name in (*CODED, *GROUPINGS)},
            "small": self._small_truth(),
        }

    def codes(self, name: str) -> dict[str, str]:
        """Class -> label of a coded or grouping task; both drawn for the world."""
        rng = self.rng("codes", check.one_of("task", name, (*CODED, *GROUPINGS)))
        n, classes = (CODED[name][0], CODED[name][1].labels) if name in CODED else (KINDS, tuple(GROUPS))
        return dict(zip(rng.sample(classes, n), rng.sample(LABELS, n), strict=True))

    def _rows(self, name: str, domain: Domain) -> Rows:
        def rows(split: str) -> Iterator[Example]:
            rng, draw = self.rng("rows", name, split), domain.draw
            for i, cell in enumerate(in_turn(rng, domain.cells)):
                text, label, fields = draw(rng, split, cell)
                yield Example(f"{name}-{split}-{i:05d}", {"text": text, **fields}, label)

        return rows

    def _coded(self, name: str) -> Domain:
        """The domain with a few classes, and the labels drawn for them."""
        codes, (_, domain) = self.codes(name), CODED[name]

        def draw(rng: random.Random, split: str, cell: Cell) -> Drawn:
            text, label, fields = domain.draw(rng, split, cell)
            return text, codes[label], {**fields, "class": label}

        cells = tuple(cell for cell in domain.cells if class_of(domain, cell) in codes)
        return Domain("Text", "Label", tuple(codes.values()), cells, draw)

    def _noisy(self, name: str, domain: Domain, rate: float) -> Rows:
        """The domain's rows, of which a share has a wrong label in train, each wrong label equally often."""
        clean = self._rows(name, domain)

        def rows(split: str) -> Iterator[Example]:
            rng = self.rng("noise", name, split)
            for row in clean(split):
                noisy = split == "train" and rng.random() < rate
                target = pick(rng, [label for label in domain.labels if label != row.target]) if noisy else row.target
                yield Example(row.id, {**row.fields, "noisy": noisy, "class": row.target}, target)

        return rows

    def _grouping(self, name: str) -> Sheet:
        """Words of three kinds under drawn labels; its items are few, and end."""
        codes = self.codes(name)

        def rows(split: str) -> Iterator[Example]:
            rng, items = self.rng("rows", name, split), {kind: group_items(kind, split) for kind in codes}
            for texts in items.values():
                rng.shuffle(texts)
            for n, of_each in enumerate(zip(*items.values(), strict=False)):
                for k, (kind, (text, word)) in enumerate(zip(codes, of_each, strict=True)):
                    fields = {"text": text, "word": word, "class": kind, "level": int(text != word)}
                    yield Example(f"{name}-{split}-{n * KINDS + k:05d}", fields, codes[kind])

        return _chosen(name, "Item", "Group", tuple(codes.values()), rows)

    def _small_labels(self, i: int) -> tuple[str, ...]:
        return tuple(self.rng("small labels", i).sample(LABELS, 2))

    def _small_sheet(self, i: int, rule: small.Rule) -> Sheet:
        name, labels, level = f"small-{i:03d}", self._small_labels(i), len(rule.properties)

        def rows(split: str) -> Iterator[Example]:
            rng, show = self.rng("small rows", i, split), small.shifted if split == "ood" else small.sentence
            for n, holds in enumerate(in_turn(rng, (False, True))):
                while True:
                    r = int(rng.random() * small.SENTENCES)
                    if rule.holds(r) == holds and part_of(small.sentence(r)) == split:
                        break
                yield Example(f"{name}-{split}-{n:05d}", {"text": show(r), "number": r, "level": level}, labels[holds])

        return _chosen(name, *HEADS[i // small.TASKS % len(HEADS)], labels, rows, SMALL_SIZES)

    def _small_truth(self) -> dict[str, Any]:
        tasks = [
            {"family": rule.family, "properties": [small.property_name(p) for p in rule.properties], "labels": list(self._small_labels(i))}
            for i, rule in enumerate(self._all_small_rules())
        ]
        properties = {small.property_name(p): small.words_with(p) for p in range(small.BITS)}
        return {"properties": properties, "tasks": tasks, "relatedness": self.relatedness()}

    def _all_small_rules(self) -> list[small.Rule]:
        return [rule for family in range(small.FAMILIES) for rule in self.small_rules(family)]


def _chosen(name: str, ask: str, answer: str, labels: tuple[str, ...], rows: Rows, sizes: Mapping[str, int] = SIZES) -> Sheet:
    template = f"{ask}: {{{{ text }}}}\n{answer}:"
    return Sheet(Task(name=name, kind="choose", template=template, metric="accuracy", choices=labels, inputs=("text",)), sizes, rows)


def _sheet(name: str, domain: Domain, rows: Rows) -> Sheet:
    """A task of choosing a label, or of writing one where the domain lists none."""
    if domain.labels:
        return _chosen(name, domain.ask, domain.answer, domain.labels, rows)
    template = f"{domain.ask}: {{{{ text }}}}\n{domain.answer}:"
    task = Task(name=name, kind="generate", template=template, metric=METRICS[name], max_new_tokens=16, inputs=("text",))
    return Sheet(task, SIZES, rows)
