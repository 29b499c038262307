"""Few-shot learning (Brown et al. 2020, arXiv:2005.14165): solved examples in the prompt teach a task, and more of them teach more.

Experiment: no weight moves. Reviews, and four groupings: words of three kinds, each kind with a label drawn for the task, so that only
the exemplars can tell which label is meant; the words asked about are never among the exemplars. Exemplars are drawn at random
from train, one draw a seed.
Effects:    score with 8 exemplars minus score without, on reviews and on the groupings; score with 8 minus score with 1, on all.
"""

from __future__ import annotations

from metier.claims.claim import Claim
from metier.claims.lab import Lab, contrast, join
from metier.claims.result import Found
from metier.worlds import world

CLAIM = Claim(
    row=171,
    title="Language Models are Few-Shot Learners",
    statement="A language model solves a task better when its prompt shows a few solved examples, and the more it shows, the better.",
    reported="TriviaQA with 175 B parameters: 64.3 % with no exemplar, 68.0 % with one, 71.2 % with a few",
    experiment="Reviews (400 test examples) and four tasks of grouping words under labels drawn at random (400 in all), with 0, 1, 4 and 8 exemplars "
    "drawn at random, eight draws.",
    rule={"8 exemplars minus none, reviews": 0.0, "8 exemplars minus none, groupings": 0.0, "8 exemplars minus 1, all": 0.0},
    limits="The base is small and was pretrained on text that holds blocks of solved items under other labels, without which so small a model "
    "would learn nothing from exemplars. The paper's growth with the size of the model is left open.",
    seeds=8,
    trials=20,
    version=2,
)

SHOTS = (1, 4, 8)


def run(lab: Lab) -> Found:
    """Every task with 0, 1, 4 and 8 exemplars."""
    reviews = lab.cut(world("classification", size=2.0).task("reviews"), train=200, dev=20, test=400, ood=0)
    groupings = [lab.cut(world("classification").task(f"groups-{i}"), train=200, dev=20, test=100, ood=0) for i in range(4)]
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
