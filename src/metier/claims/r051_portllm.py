"""PortLLM (Khan et al. 2024, arXiv:2410.10870): a patch tuned on a base serves the base's next version too, without training.

Experiment: LoRA on two tasks on metier-tiny; the patches put onto metier-tiny-next, the same base after more pretraining on
later text; LoRA tuned anew on metier-tiny-next with the same budget beside them.
Effects:    scores of the new base on the tests, paired by example and seed: patched minus tuned anew, plus the 0.05 that 'comparable' may cost;
patched minus untouched.
"""

from __future__ import annotations

from metier.claims._experts import each, folder
from metier.claims.claim import Claim
from metier.claims.lab import Lab, contrast, join
from metier.claims.result import Effect, Found
from metier.worlds import world

CLAIM = Claim(
    row=51,
    title="PortLLM: Personalizing Evolving Large Language Models with Training-Free and Portable Model Patches",
    statement="A LoRA patch made for one version of a model, added to its next version without training, does about as well as tuning the "
    "next version anew.",
    reported="comparable with LoRA on the new version, on seven data sets and models of 2 to 8 B parameters",
    experiment="Reviews and intents under drawn labels; LoRA of rank 8 with 1200 examples, step size fixed, on metier-tiny and on "
    "metier-tiny-next; 150 test examples each.",
    rule={
        "patched new base minus tuned new base": -0.05,
        "patched new base minus untouched new base": 0.05,
    },
    needs={"tuned new base minus untouched": 0.1},
    limits="One step of evolution, of the same generator's later text with some news. Two tasks of choice among labels; the vocabularies are the same.",
    bases=("metier-tiny", "metier-tiny-next"),
    trials=10,
    minutes=5,
)

BUDGET = "1200ex"
LORA = {"rank": 8, "lr": 4e-3}


def run(lab: Lab) -> Found:
    """LoRA on both bases, the first one's patches on the second."""
    draws = [(world(w, size=2.0), name) for w, name in (("classification", "reviews-coded"), ("classification", "intents-coded"))]
    tasks = [lab.cut(drawn.task(name), train=1000, dev=60, test=150, ood=0) for drawn, name in draws]
    old = {t.name: lab.run("lora", t, budget=BUDGET, settings=LORA) for t in tasks}
    anew = {t.name: lab.run("lora", t, budget=BUDGET, settings=LORA, base=1) for t in tasks}
    plain = [{t.name: lab.run("zero-shot", t, base=base) for t in tasks} for base in (0, 1)]
    known = lab.bases[0].fingerprint
    patched = {
        t.name: each(lab, "portllm", t, lambda seed, name=t.name: {"experts": (folder(old[name], seed),), "allow_base": known}, base=1)  # type: ignore[misc]
        for t in tasks
    }
    before, after = (join({n: x.scores() for n, x in by.items()}) for by in plain)
    tuned, carried, first = (join({n: x.scores() for n, x in by.items()}) for by in (anew, patched, old))
    effects: list[Effect] = [
        contrast("patched new base minus tuned new base", [(1.0, carried)], [(1.0, tuned)]),
        contrast("patched new base minus untouched new base", [(1.0, carried)], [(1.0, after)]),
        contrast("tuned new base minus untouched", [(1.0, tuned)], [(1.0, after)]),
        contrast("patched new base minus patched old base", [(1.0, carried)], [(1.0, first)]),
        contrast("untouched new base minus untouched old base", [(1.0, after)], [(1.0, before)]),
    ]
    said = (
        f"{n}: old base {old[n].scores().per_seed().mean():.3f}, new base untouched {plain[1][n].scores().per_seed().mean():.3f}, patched "
        f"{patched[n].scores().per_seed().mean():.3f}, tuned {anew[n].scores().per_seed().mean():.3f}"
        for n in old
    )
    return Found(effects=effects, remarks=["; ".join(said) + "."])
