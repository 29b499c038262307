"""Layer swap (Bandarkar et al. 2024, arXiv:2410.01335): lower and upper layers of a language's expert around the middle of a task's expert.

Experiment: Kes is rare in pretraining, and no task was ever shown in it. A language expert is tuned on sentences of Kes beside English, a
task expert on English examples of the task; the two are put together layer by layer, and averaged, and tested in Kes.
Effects:    score on the task in Kes of the swap minus that of the average, of the task's expert and of the language's expert; two tasks together.
"""

from __future__ import annotations

import itertools

from metier.claims._merging import drawn, keys, made, plain, scored, together, tuned
from metier.claims.claim import Claim
from metier.claims.lab import Lab, contrast, join
from metier.claims.result import Found
from metier.evaluate.stats import Scores
from metier.merge.layer_swap import layer_swap
from metier.merge.linear import linear
from metier.merge.task_arithmetic import task_arithmetic
from metier.task import Example, Task
from metier.worlds.languages import Languages

CLAIM = Claim(
    row=108,
    title="Layer Swapping for Zero-Shot Cross-Lingual Transfer in Large Language Models",
    statement="A model made of the lower and upper layers of an expert of a language and the middle layers of an expert of a task, tuned in English, is "
    "better at the task in that language than either expert and than their average.",
    reported="about 10 % more on grade-school mathematics in four languages than the experts and other merges",
    experiment="The rare language Kes: an expert by full tuning on 1600 sentences beside English; experts of two tasks (who acts; parts of speech) by full "
    "tuning on 1600 English examples each; two of six layers below and one above from the language, one averaged beside each; 150 test "
    "examples in Kes a task.",
    rule={
        "task in Kes: swap minus average": 0.0,
        "task in Kes: swap minus task expert": 0.0,
        "task in Kes: swap minus language expert": 0.0,
    },
    limits="Six layers, where the paper swaps among 32. Translations stand in for the paper's instructions in the language. The layers' parts are the "
    "defaults of layer-swap, not searched.",
    trials=5,
    minutes=15.0,
    seeds=20,
)

TASKS = ("actor", "tag")


def run(lab: Lab) -> Found:
    """The language's expert and each task's, apart and together, in Kes."""
    base = lab.bases[0]
    (language,) = tuned(lab, [_sentences(lab)])
    experts = tuned(lab, drawn(lab, [f"languages/{t}-en" for t in TASKS]))
    target = drawn(lab, [f"languages/{t}-kes" for t in TASKS])
    merges = {"swap": layer_swap(layers=base.model.config.num_hidden_layers), "average": linear(), "sum": task_arithmetic()}
    score: dict[str, dict[str, Scores]] = {way: {} for way in ("language expert", "task expert", *merges)}
    for expert, task in zip(experts, target, strict=True):
        both = [language, expert]
        made_by = {"language expert": language.delta, "task expert": expert.delta} | {n: together(both, m) for n, m in merges.items()}
        for way, make in made_by.items():
            score[way][task.name] = scored(lab, way, made(base, lab.seeds, make), [task], keys(both))
    every = {way: [(1.0, join(by_task))] for way, by_task in score.items()}
    zero = [(1.0, join({t.name: plain(lab, [t]) for t in target}))]
    effects = [
        contrast(f"task in Kes: swap minus {w}", every["swap"], every[w]) for w in ("average", "task expert", "language expert", "sum")
    ]
    effects += [
        contrast("task in Kes: swap minus base", every["swap"], zero),
        contrast("task in Kes: task expert minus base", every["task expert"], zero),
    ]
    remarks = [f"{w}: " + ", ".join(f"{n} {s.per_seed().mean():.3f}" for n, s in by_task.items()) + "." for w, by_task in score.items()]
    return Found(effects=effects, remarks=remarks)


def _sentences(lab: Lab) -> Task:
    """Translating between English and Kes, in either direction: what the language's expert is tuned on."""
    texts = Languages(0).parallel_text("kes")
    first = (text.split("\n\n")[0].split("\n") for text in texts)
    rows = (
        Example(f"kes-{i:05d}", {"given": given, "to": said.split(": ")[0]}, said.split(": ")[1]) for i, (given, said) in enumerate(first)
    )
    train, dev, test = (tuple(itertools.islice(rows, n)) for n in (1000, 60, 50))
    template = "{{ given }}\n{{ to }}:"
    task = Task(
        name="sentences-kes", kind="generate", template=template, metric="chrf", max_new_tokens=40, train=train, dev=dev, test=test,
    )  # fmt: skip
    return lab.cut(task)
