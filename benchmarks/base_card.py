"""Measure the embedded bases on their worlds and write the numbers into their model cards.

    python benchmarks/base_card.py [FOLDER ...] [--limit 200] [--threads 1] [--dry]

Greedy generation, answers compared after normalisation; prompts are `Prompt.text()`. Without folders: the packaged
tiny and nano. `--dry` prints and writes nothing. Only torch and transformers do the work, so that the card does not
depend on the code it is a yardstick for.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import string
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.nn.functional import log_softmax
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import metier.worlds
from metier.task.example import Example
from metier.task.task import Task

BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
EMBEDDED = Path(metier.worlds.__file__).parents[1] / "embedded"


def normalised(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


class Base:
    """A base in evaluation mode with the two things a card needs: greedy answers and choices by likelihood."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.longest = self.model.config.max_position_embeddings

    @torch.inference_mode()
    def answers(self, prompts: Sequence[str], tokens: int = 16) -> list[str]:
        """Greedy continuations up to the first line end."""
        texts: dict[int, str] = {}
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for part in _batched(order, 25):
            coded = self.tokenizer([prompts[i] for i in part], padding=True, return_tensors="pt")
            ids, mask = coded["input_ids"][:, -(self.longest - tokens) :], coded["attention_mask"][:, -(self.longest - tokens) :]
            out = self.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False)
            for i, row in zip(part, out[:, ids.shape[1] :], strict=True):
                texts[i] = self.tokenizer.decode(row, skip_special_tokens=True).split("\n")[0].strip()
        return [texts[i] for i in range(len(prompts))]

    @torch.inference_mode()
    def loss(self, text: str) -> tuple[float, int]:
        """Summed loss in nats and number of targets of one text."""
        ids = torch.tensor([self.tokenizer(text, truncation=True)["input_ids"]])
        logs = log_softmax(self.model(input_ids=ids).logits[0, :-1], dim=-1)
        return -logs.gather(1, ids[0, 1:, None]).sum().item(), ids.shape[1] - 1

    @torch.inference_mode()
    def chosen(self, prompt: str, choices: Sequence[str]) -> str:
        """The choice whose tokens are likeliest after the prompt."""
        start = self.tokenizer(prompt)["input_ids"]
        scores = []
        for choice in choices:
            tail = self.tokenizer(f" {choice}", add_special_tokens=False)["input_ids"]
            ids = torch.tensor([(start + tail)[-self.longest :]])
            logs = log_softmax(self.model(input_ids=ids).logits[0, -len(tail) - 1 : -1], dim=-1)
            scores.append(logs.gather(1, torch.tensor(tail)[:, None]).sum().item())
        return choices[scores.index(max(scores))]


def _batched(items: Sequence[int], n: int) -> Iterator[Sequence[int]]:
    return (items[i : i + n] for i in range(0, len(items), n))


def generation(
    base: Base, task: Task, rows: Sequence[Example], shots: int = 0, passages: dict[str, tuple[str, ...]] | None = None
) -> float:
    """Share of exact answers after normalisation."""
    prompts = [_shown(task, row, shots).with_(passages=(passages or {}).get(row.id, ())).text() for row in rows]
    given = base.answers(prompts)
    return sum(normalised(a) == normalised(row.answer) for a, row in zip(given, rows, strict=True)) / len(rows)


def choosing(base: Base, task: Task, rows: Sequence[Example], shots: int) -> float:
    """Share of right choices."""
    return sum(base.chosen(_shown(task, row, shots).text(), task.choices_of(row)) == row.answer for row in rows) / len(rows)


def _shown(task: Task, row: Example, shots: int):
    drawn = random.Random(f"{row.id}:{shots}").sample(list(task.train), shots) if shots else []
    return task.prompt(row).with_(exemplars=tuple((task.prompt(e).query, e.answer) for e in drawn))


def reading_passages(task: Task, rows: Sequence[Example], others: int) -> dict[str, tuple[str, ...]]:
    """For each example its gold document among `others` random ones, in random order."""
    texts = {d.id: d.text for d in task.documents}
    found = {}
    for row in rows:
        rng = random.Random(row.id)
        wrong = rng.sample(sorted(set(texts) - {row.fields["document"]}), others)
        shown = [texts[row.fields["document"]], *(texts[w] for w in wrong)]
        rng.shuffle(shown)
        found[row.id] = tuple(shown)
    return found


def measure(base: Base, limit: int) -> dict[str, float]:
    """All numbers of the card, shares in [0, 1] and losses in nats per token."""
    made = {name: metier.worlds.world(name) for name in ("facts", "instructions", "classification")}
    tasks = {name: task for w in made.values() for name, task in w.tasks().items()}
    new, known, cipher, reviews = (tasks[n] for n in ("facts", "facts-known", "cipher", "reviews"))
    rows, shifted = new.test[:limit], new.ood[:limit]
    rng = random.Random(0)
    once = [Example(id=f"once-{i}", fields={"question": f.ask(rng)}, target=f.value) for i, f in enumerate(made["facts"].once()[:limit])]
    out = {
        "closed-book, frequent facts": generation(base, known, known.test[:limit]),
        "closed-book, facts said once": generation(base, known, once),
        "closed-book, new facts": generation(base, new, rows),
        "open-book, gold passage": generation(base, new, rows, passages=reading_passages(new, rows, 0)),
        "open-book, gold among 3": generation(base, new, rows, passages=reading_passages(new, rows, 2)),
        "open-book, gold passage, other wording": generation(base, new, shifted, passages=reading_passages(new, shifted, 0)),
        "cipher, zero-shot": generation(base, cipher, cipher.test[:limit]),
        "cipher, 8 exemplars": generation(base, cipher, cipher.test[:limit], shots=8),
    }
    for shots in (0, 4, 8):
        out[f"reviews, {shots} exemplars"] = choosing(base, reviews, reviews.test[:limit], shots)
    out["reviews ood, 8 exemplars"] = choosing(base, reviews, reviews.ood[:limit], 8)
    for name in (*made, "code"):
        sums = [base.loss(text) for text in itertools.islice(metier.worlds.world(name, seed=99).corpus(), 60)]
        out[f"loss, {name} (another seed)"] = sum(s for s, _ in sums) / sum(n for _, n in sums)
    return {key: round(value, 4) for key, value in out.items()}


def write(folder: Path, numbers: dict[str, float], limit: int) -> None:
    """Put the table into CARD.md, in place of an earlier one."""
    path = folder / "CARD.md"
    table = "\n".join(f"| {key} | {value if key.startswith('loss') else f'{100 * value:.1f} %'} |" for key, value in numbers.items())
    how = f"Worlds of seed 0, at most {limit} examples each, `python benchmarks/base_card.py`."
    section = f"{BEGIN}\n## Measured\n\n{how}\n\n| what | value |\n|---|---|\n{table}\n{END}\n"
    text = re.sub(rf"{BEGIN}.*{END}\n", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    temporary = path.with_suffix(".part")
    temporary.write_text(text.replace("## Recipe", f"{section}\n## Recipe", 1), encoding="utf-8")
    os.replace(temporary, path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dry", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for folder in given.folders or [EMBEDDED / "tiny", EMBEDDED / "nano"]:
        numbers = measure(Base(folder), given.limit)
        print(json.dumps({"folder": str(folder), **numbers}, indent=1), flush=True)
        if not given.dry:
            write(folder, numbers, given.limit)


if __name__ == "__main__":
    main()
