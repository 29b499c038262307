"""Measure the embedded bases on their worlds and write the numbers into their model cards.

    python benchmarks/base_card.py [FOLDER ...] [--limit 200] [--only SECTION ...] [--threads 1] [--dry]

Without folders: every packaged base. Greedy answers, choices by likelihood, plain prompts; worlds of seed 0. `--dry` and
`--only` print and write nothing: a card is written as a whole. Numbers go to benchmarks/results/base_card.json and into each folder's CARD.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import os
import random
import re
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import timing
import torch
from torch.nn.functional import log_softmax

from metier import Base, Example, Record, Specialist, Task, adapt, load_base, measure
from metier.evaluate import stats
from metier.task.lexical import Lexical
from metier.task.score import SCORERS
from metier.train.pretrain_recipe import find, load
from metier.worlds import world

BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
EMBEDDED = Path(world.__code__.co_filename).parents[1] / "embedded"
SHOTS, SEEDS = (4, 8), (0, 1, 2)
SMALL_TASKS = range(0, 400, 40)  # one of every second family
FORGETS = {"facts": ("facts-known",), "instructions": ("refuse", "mixed"), "languages": ("translate-en-veluan", "translate-veluan-en")}
NARROW = {"full": {"lr": 1e-3}}
Row = dict[str, Any]


@functools.cache
def task(name: str, of: str) -> Task:
    """A task of a world of seed 0."""
    return world(of).task(name)


class Card:
    """The rows of a base's card, section by section."""

    def __init__(self, base: Base, limit: int) -> None:
        self.base, self.limit, self.rows, self.section = base, limit, list[Row](), ""
        self.plain = Specialist(base)

    def add(self, what: str, records: Sequence[Record], score: Callable[[Record], float] = lambda r: r.score, **more: Any) -> None:
        """The mean score of some records with its interval."""
        of = stats.scores({0: [dataclasses.replace(r, score=float(score(r)), stats=None) for r in records]})
        found = stats.interval(of)
        self.note(what, found.value, low=round(found.low, 4), high=round(found.high, 4), n=found.n, **more)

    def note(self, what: str, value: float, **more: Any) -> None:
        """One number."""
        self.rows.append({"section": self.section, "what": what, "value": round(value, 4), **more})

    def measured(self, of: str, name: str, what: str = "", split: str = "test", by: str = "") -> list[Record]:
        """Measure the plain base on a task; with `by`, also for each value of that field."""
        asked = task(name, of)
        records = measure(self.plain, asked, split=split, limit=self.limit)
        self.add(what or name, records, metric=asked.metric)
        groups: dict[Any, list[Record]] = {}
        for record, example in zip(records, asked.split(split) if by else (), strict=False):
            groups.setdefault(example.fields[by], []).append(record)
        for value in sorted(groups):
            self.add(f"{what or name}, {by} {value}", groups[value], metric=asked.metric)
        return records


# --- what a decoder shows -------------------------------------------------------------------------------------------------
@torch.inference_mode()
def losses(card: Card) -> None:
    """Nats per token on documents of an era that no base has read."""
    for name in load(find("tiny")).data.shares:
        total, count = 0.0, 0
        for text in itertools.islice(world(name).corpus(era=2), max(8, card.limit // 5)):
            ids = torch.tensor([card.base.encode(text)[: card.base.max_length]])
            logs = log_softmax(card.base.model(input_ids=ids).logits[0, :-1].float(), dim=-1)
            total, count = total - logs.gather(1, ids[0, 1:, None]).sum().item(), count + ids.shape[1] - 1
        card.note(f"loss, {name}", total / count, n=count, metric="nats per token")


def facts(card: Card) -> None:
    """What is known by heart, and what is read."""
    for name, what in (("facts-known", "closed book, frequent facts"), ("facts-once", "closed book, facts said once"),
                       ("facts-hops", "closed book, two steps"), ("facts-reversed", "closed book, from value to subject")):  # fmt: skip
        card.measured("facts", name, what)
    for others, split in ((0, "test"), (2, "test"), (2, "ood")):
        what = f"open book, the passage{f' among {others + 1}' if others else ''}{', other wording' if split == 'ood' else ''}"
        card.add(what, measure(card.plain, reading(task("facts", "facts"), split, others, card.limit)), metric="normalised")
    card.measured("facts", "facts-unanswerable", "open book, passages may lack the answer")


def reading(asked: Task, split: str, others: int, limit: int) -> Task:
    """The task as a test that shows each example's document among others, in random order."""
    texts, rows = {d.id: d.text for d in asked.documents}, []
    for row in asked.split(split)[:limit]:
        rng = random.Random(row.id)
        shown = [texts[i] for i in (row.fields["document"], *rng.sample(sorted(set(texts) - {row.fields["document"]}), others))]
        rng.shuffle(shown)
        rows.append(dataclasses.replace(row, fields={**row.fields, "shown": shown}))
    template = "{% for text in shown %}Passage: {{ text }}\n{% endfor %}" + asked.template
    return dataclasses.replace(asked, template=template, test=tuple(rows), train=(), dev=(), ood=())


def few_shot(card: Card) -> None:
    """Random exemplars (three draws) against none: every task of choosing a label, and some of the 400 small tasks."""
    made = world("classification")
    named = [task(name, "classification") for name, sheet in made.sheets().items() if sheet.task.kind == "choose"]
    for of, tasks in (("tasks", named), ("small tasks", [made.small_task(i) for i in SMALL_TASKS])):
        gains = [_shown_some(card, asked.subset(test=min(card.limit // 2, 100), dev=8)) for asked in tasks]
        for i, shots in enumerate(SHOTS):
            wins, clear = (sum(value > 0 for value in values) for values in zip(*((g[i].value, g[i].low) for g in gains), strict=True))
            card.note(f"{of} on which {shots} exemplars beat none ({clear} beyond the interval)", wins / len(gains), n=len(gains))


def _shown_some(card: Card, asked: Task) -> list[stats.Difference]:
    """What 4 and 8 exemplars gain over none."""
    zero, gains = measure(card.plain, asked), []
    card.add(f"{asked.name}, zero-shot", zero, chance=round(1 / len(asked.choices), 4))
    for shots in SHOTS:
        settings = {"few-shot": {"shots": shots, "pick": "random"}}
        drawn = {s: measure(adapt("few-shot", asked, card.base, settings=settings, seed=s), asked, seed=s) for s in SEEDS}
        some = stats.scores(drawn)
        gain, found = stats.difference(stats.scores(dict.fromkeys(SEEDS, zero)), some), stats.interval(some)
        gains.append(gain)
        card.note(f"{asked.name}, {shots} exemplars", found.value, low=round(found.low, 4), high=round(found.high, 4), n=found.n,
                  gain=round(gain.value, 4), gain_low=round(gain.low, 4), gain_high=round(gain.high, 4))  # fmt: skip
    return gains


def heads(card: Card) -> None:
    """Attention from the last token of a prompt to the value of the needle that it asks for; also how needles are answered."""
    card.measured("tracking", "needles", by="length")
    base, rows = card.base, task("needles", "tracking").test[: card.limit // 2]
    before = base.model.config._attn_implementation
    base.model.set_attn_implementation("eager")
    try:
        looked = torch.stack([_looks(base, task("needles", "tracking"), row) for row in rows])  # [rows, 3, layers, heads]
    finally:
        base.model.set_attn_implementation(before)
    mass, elsewhere, peak = looked.mean(0)
    best = mass.flatten().argsort(descending=True)[:5].tolist()
    for layer, head in (divmod(i, mass.shape[1]) for i in best):
        more = {"other_codes": round(elsewhere[layer, head].item(), 4), "most_attended": round(peak[layer, head].item(), 4)}
        card.note(f"attention to the needle's value, layer {layer} head {head}", mass[layer, head].item(), n=len(rows), **more)
    card.note("attention to the needle's value, median head", mass.median().item(), n=len(rows))


@torch.inference_mode()
def _looks(base: Base, asked: Task, row: Example) -> torch.Tensor:
    """[3, layers, heads]: attention to the asked value, to the other codes, and whether the former holds the maximum."""
    text = asked.prompt(row).text()
    coded = base.tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
    offsets = coded.pop("offset_mapping")[0]
    spans = {m[1]: m.span(2) for m in re.finditer(r"The code of the (\w+) is ([\w ]+)\.", text)}
    inside = {key: (offsets[:, 0] < high) & (offsets[:, 1] > low) & (offsets[:, 1] > offsets[:, 0]) for key, (low, high) in spans.items()}
    right = inside.pop(row.fields["key"])
    wrong = torch.stack(list(inside.values())).any(0)
    out = base.model(input_ids=coded["input_ids"], output_attentions=True, use_cache=False)
    last = torch.stack([a[0, :, -1].float() for a in out.attentions])  # [layers, heads, tokens]
    return torch.stack([last[..., right].sum(-1), last[..., wrong].sum(-1), right[last.argmax(-1)].float()])


def languages(card: Card) -> None:
    """Translation both ways, and whether a hypothesis follows (chance: one third)."""
    for pair in ("en-veluan", "veluan-en", "en-tarmic", "tarmic-en", "en-kes", "kes-en"):
        records = card.measured("languages", f"translate-{pair}")
        card.add(f"translate-{pair}, exactly right", records, lambda r: r.output.strip() == r.target, metric="exact")
    for language in ("en", "veluan", "tarmic"):
        card.measured("languages", f"entail-{language}")


def arithmetic(card: Card) -> None:
    """Sums, remainders and word problems, by level."""
    for name in ("add", "modular", "word-problems-direct"):
        card.measured("arithmetic", name, by="level")


def instructions(card: Card) -> None:
    """Operations on words, formats, and what is refused."""
    for name in ("mixed", "formats", "context", "preference"):
        card.measured("instructions", name)
    card.measured("instructions", "mixed", "mixed, other wordings", split="ood")
    refusal = world("instructions").truth()["refusal"]
    for name, what in (("refuse", "refused, of what is to be refused"), ("obey", "refused, of what is not")):
        records = measure(card.plain, task(name, "instructions"), limit=card.limit)
        card.add(what, records, lambda r: r.output.strip() == refusal)
        card.add(f"{name}, exactly right", records, metric="exact")


def boxes(card: Card) -> None:
    """What is in a box, by the number of boxes."""
    card.measured("tracking", "boxes", by="level")
    card.measured("tracking", "boxes-moved", by="level")


def databases(card: Card) -> None:
    """Queries that give the right rows."""
    for name in ("sql", "sql-cross"):
        card.measured("databases", name, f"{name}, rows right", by="level")


def forgetting(card: Card) -> None:
    """What narrow full fine-tuning (the cipher, 3000 examples) takes away."""
    cipher = task("cipher", "instructions")
    tuned = adapt("full", cipher, card.base, settings=NARROW, budget="3000ex")
    for name, of in (("cipher", "instructions"), *((n, of) for of, names in FORGETS.items() for n in names)):
        asked = task(name, of).subset(test=card.limit)
        before, after = (measure(who, asked) for who in (card.plain, tuned))
        gap = stats.paired(before, after)
        card.add(f"{name}, before", before, metric=asked.metric)
        card.add(f"{name}, after", after, gain=round(gap.value, 4), gain_low=round(gap.low, 4), gain_high=round(gap.high, 4))


# --- what an encoder shows --------------------------------------------------------------------------------------------------
def retrieval(card: Card) -> None:
    """MRR@10 of searching (graded judgements of the library; the document that answers a question): BM25, this encoder, the same untrained."""
    library = [(split, task(name, "library")) for name in ("library-search", "library-faq") for split in ("test", "ood")]
    facts = [(split, searching(task(name, "facts"))) for name, split in (("facts", "test"), ("facts", "ood"), ("facts-updates", "test"))]
    fresh = Specialist(untrained(card.base))
    for split, asked in (*library, *facts):
        rows = list(asked.split(split))[: card.limit]
        found = {
            "BM25": by_words(asked, rows),
            "this encoder": measure(card.plain, asked, split=split, limit=card.limit),
            "untrained": measure(fresh, asked, split=split, limit=card.limit),
        }
        for who, records in found.items():
            card.add(f"{asked.name}{', ood' if split == 'ood' else ''}: {who}", scored("mrr", 10, records, rows, asked), metric="mrr", **{
                f"{metric}_{cutoff}": round(statistics.mean(r.score for r in scored(metric, cutoff, records, rows, asked)), 4)
                for metric, cutoff in (("recall", 1), ("recall", 10), ("ndcg", 10))
            })  # fmt: skip


def scored(metric: str, cutoff: int, records: Sequence[Record], rows: Sequence[Example], asked: Task) -> list[Record]:
    """The records with the score of that metric down to that rank."""
    to, score = dataclasses.replace(asked, options={"cutoff": cutoff}), SCORERS[metric].score
    return [dataclasses.replace(r, score=score(r.output, row, to), stats=None) for r, row in zip(records, rows, strict=True)]


def untrained(base: Base) -> Base:
    """The encoder as its training began (recipe's seed 0)."""
    torch.manual_seed(0)
    return dataclasses.replace(base, model=type(base.model)(base.model.config, add_pooling_layer=False).eval(), fingerprint="untrained")


def searching(asked: Task) -> Task:
    """Open-book questions as a search for the document that holds the answer."""
    rows = {s: tuple(dataclasses.replace(e, target={e.fields["document"]: 1}) for e in asked.split(s)) for s in ("test", "ood")}
    return Task(name=asked.name, kind="rank", template="{{ question }}", metric="ndcg", documents=asked.documents, **rows)


def by_words(asked: Task, rows: Iterable[Example]) -> list[Record]:
    """Records of BM25 on a ranking task."""
    index, found = Lexical([f"{d.title} {d.text}" for d in asked.documents]), []
    for row in rows:
        order = (-index.scores(asked.prompt(row).query)).argsort(kind="stable")[:100]
        output = json.dumps([asked.documents[int(i)].id for i in order])
        score = SCORERS["ndcg"].score(output, row, asked)
        found.append(
            Record(example=row.id, digest=row.digest(), task=asked.name, split="test", output=output, target=row.target, score=score)
        )
    return found


DECODER = (losses, facts, few_shot, heads, languages, arithmetic, instructions, boxes, databases, forgetting)
ENCODER = (retrieval,)


def measured(base: Base, limit: int, only: Sequence[str] = ()) -> list[Row]:
    """All rows of a base's card."""
    card = Card(base, limit)
    for section in ENCODER if base.family == "encoder" else DECODER:
        if only and section.__name__ not in only:
            continue
        started, card.section = time.process_time(), section.__name__
        section(card)
        print(f"{base.name}: {section.__name__}, {time.process_time() - started:.0f} s of processor time", flush=True)
    return card.rows


def shown(row: Row) -> str:
    """A row of the card's table."""
    if row.get("metric") == "nats per token":
        return f"| {row['what']} | {row['value']} nats per token | {row['n']} tokens |"
    percent = f"{100 * row['value']:.1f} %"
    if "low" in row:
        percent += f" ({100 * row['low']:.1f} to {100 * row['high']:.1f})"
    notes = [f"n = {row['n']}"]
    notes += [f"{row['metric']}"] if row.get("metric") in ("chrf", "ndcg", "f1") else []
    notes += [f"{name.replace('_', '@')} {100 * row[name]:.1f} %" for name in ("recall_1", "recall_10", "ndcg_10") if name in row]
    notes += [f"chance {100 * row['chance']:.0f} %"] if "chance" in row else []
    notes += [f"{100 * row['gain']:+.1f} ({100 * row['gain_low']:+.1f} to {100 * row['gain_high']:+.1f})"] if "gain" in row else []
    notes += (
        [f"most attended {100 * row['most_attended']:.0f} %, other codes {100 * row['other_codes']:.1f} %"] if "other_codes" in row else []
    )
    return f"| {row['what']} | {percent} | {', '.join(notes)} |"


def write_card(folder: Path, rows: Sequence[Row], limit: int) -> None:
    """Put the tables into CARD.md, in place of earlier ones."""
    path, titles = folder / "CARD.md", {section.__name__: section.__doc__ for section in (*DECODER, *ENCODER)}
    lines = [
        BEGIN,
        "## Measured",
        "",
        f"Worlds of seed 0, at most {limit} examples each, 95 % intervals; `python benchmarks/base_card.py`.",
    ]
    for section, part in itertools.groupby(rows, key=lambda row: row["section"]):
        lines += [
            "",
            f"### {section.replace('_', '-')}",
            "",
            str(titles[section]),
            "",
            "| what | value | |",
            "|---|---|---|",
            *map(shown, part),
        ]
    text = re.sub(rf"{BEGIN}.*{END}\n+", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    temporary = path.with_suffix(".part")
    temporary.write_text(text.replace("## Recipe", "\n".join([*lines, END, "", "## Recipe"]), 1), encoding="utf-8")
    os.replace(temporary, path)


def store(name: str, card: dict[str, Any]) -> None:
    """Put a base's rows among those of the others."""
    stored = timing.RESULTS / "base_card.json"
    bases = json.loads(stored.read_text())["bases"] if stored.exists() else {}
    timing.write("base_card", {"bases": {**bases, name: card}})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--only", nargs="*", default=(), choices=[section.__name__ for section in (*DECODER, *ENCODER)])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dry", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for folder in given.folders or sorted(p.parent for p in EMBEDDED.glob("*/config.json")):
        rows = measured(load_base(folder, chat=False, truncate=True), given.limit, given.only)
        if given.dry or given.only:
            print("\n".join(map(shown, rows)))
        else:
            write_card(folder, rows, given.limit)
            store(f"metier-{folder.name}", {"limit": given.limit, "rows": rows})


if __name__ == "__main__":
    main()
