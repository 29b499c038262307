"""Few-shot learning (Brown et al. 2020, arXiv:2005.14165): solved examples in the prompt teach a task, and more of them teach more.

Experiment: no weight moves. Reviews, and four groupings: words of three kinds, each kind with a label drawn for the task, so that only
the exemplars can tell which label is meant; the words asked about are never among the exemplars. Exemplars are drawn at random
from train, one draw a seed.
Effects:    score with 8 exemplars minus score without, on reviews and on the groupings; score with 8 minus score with 1, on all.
"""

from __future__ import annotations

import random

from metier.claims.claim import Claim
from metier.claims.lab import Lab, contrast, join
from metier.claims.result import Found
from metier.task import Example, Task
from metier.worlds import world
from metier.worlds.skill import GROUPS, LABELS

CLAIM = Claim(
    row=171,
    title="Language Models are Few-Shot Learners",
    statement="A language model solves a task better when its prompt shows a few solved examples, and the more it shows, the better.",
    reported="TriviaQA with 175 B parameters: 64.3 % with no exemplar, 68.0 % with one, 71.2 % with a few",
    experiment="Reviews (400 test examples) and four tasks of grouping words under labels drawn at random (288 in all), with 0, 1, 4 and 8 exemplars "
    "drawn at random, five draws.",
    rule={"8 exemplars minus none, reviews": 0.0, "8 exemplars minus none, groupings": 0.0, "8 exemplars minus 1, all": 0.0},
    limits="The base is of 1 M parameters and was pretrained on text that holds blocks of solved items under other labels, without which so small "
    "a model would learn nothing from exemplars. The paper's growth with the size of the model is left open.",
    seeds=5,
    trials=20,
)

SHOTS = (1, 4, 8)
ASKED = ("{}", "the {}", "a very old {}", "I saw the {} today")
KINDS, SHOWN = 3, 6


def run(lab: Lab) -> Found:
    """Every task with 0, 1, 4 and 8 exemplars."""
    reviews = lab.cut(world("reviews", size=2.0).tasks()["reviews"], train=200, dev=20, test=400, ood=0)
    groupings = [lab.cut(grouping(i), train=200, dev=20, test=100, ood=0) for i in range(4)]
    tasks = [reviews, *groupings]
    at = {0: {t.name: lab.run("zero-shot", t).scores() for t in tasks}}
    for shots in SHOTS:
        options = {"shots": shots, "pick": "random"}
        at[shots] = {t.name: lab.run("few-shot", t, settings=options, label=f"few-shot, {shots} shown").scores() for t in tasks}
    names = [t.name for t in groupings]
    grouped = {shots: join({n: by_task[n] for n in names}) for shots, by_task in at.items()}
    every = {shots: join(by_task) for shots, by_task in at.items()}
    effects = [
        contrast("8 exemplars minus none, reviews", [(1.0, at[8]["reviews"])], [(1.0, at[0]["reviews"])]),
        contrast("8 exemplars minus none, groupings", [(1.0, grouped[8])], [(1.0, grouped[0])]),
        contrast("8 exemplars minus 1, all", [(1.0, every[8])], [(1.0, every[1])]),
        contrast("4 exemplars minus 1, all", [(1.0, every[4])], [(1.0, every[1])]),
        contrast("8 exemplars minus 4, all", [(1.0, every[8])], [(1.0, every[4])]),
    ]
    means = {shots: (by["reviews"].per_seed().mean(), grouped[shots].per_seed().mean()) for shots, by in at.items()}
    curve = ", ".join(f"{shots}: reviews {one:.3f}, groupings {other:.3f}" for shots, (one, other) in means.items())
    return Found(effects=effects, remarks=[f"scores by number of exemplars: {curve}."])


def grouping(number: int) -> Task:
    """A task of three kinds of things under labels that mean nothing; half of each kind's words are asked about, the others shown."""
    rng = random.Random(f"few-shot claim, grouping {number}")
    kinds, labels = rng.sample(sorted(GROUPS), KINDS), tuple(rng.sample(LABELS, KINDS))
    rows: dict[str, list[Example]] = {"train": [], "test": []}
    for kind, label in zip(kinds, labels, strict=True):
        words = rng.sample(GROUPS[kind], len(GROUPS[kind]))
        for split, some in (("train", words[:SHOWN]), ("test", words[SHOWN:])):
            rows[split] += [
                Example(id=f"{split}-{w}-{i}", fields={"item": a.format(w)}, target=label) for w in some for i, a in enumerate(ASKED)
            ]
    for examples in rows.values():
        rng.shuffle(examples)
    dev, train = rows["train"][:20], rows["train"][20:]
    return Task(
        name=f"grouping-{number}", kind="choose", template="Item: {{ item }}\nGroup:", metric="accuracy", choices=labels, train=tuple(train),
        dev=tuple(dev), test=tuple(rows["test"]), source=f"claim few-shot, grouping {number}",
    )  # fmt: skip
