"""Training: the loop against a bare PyTorch loop of the same maths; packing against padding; bf16 against float32.

    python benchmarks/training.py [--steps 8] [--rounds 5]

The lengths for packing are log-normal (median 110 tokens, sigma 0.8, cut at 512), as in instruction data.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time

import torch
from timing import alternate, ratio, write
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from metier.delta import Delta
from metier.model import Base, Specialist, WeightChange, load_base
from metier.model.change import no_grad_module
from metier.task import Example, Task
from metier.train import Budget, Run, Trainable, fit
from metier.train.items import Item, collate
from metier.train.precision import _time


def base_10m() -> Base:
    """A random Llama of about 10 M parameters with the embedded base's tokenizer."""
    tiny = load_base("metier-tiny")
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=256, num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=8, intermediate_size=1024, vocab_size=len(tiny.tokenizer),
        max_position_embeddings=1024,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    no_grad_module(model)
    return Base("random-10m", "causal", model, tiny.tokenizer, "none", 1024)


def loop_cost(base: Base, steps: int, rounds: int) -> dict[str, float]:
    """Our loop's processor time, on one thread, over that of a bare loop on the very same batches: what other work on the machine moves least."""
    rng = random.Random(0)
    words = base.tokenizer.convert_ids_to_tokens(range(300, 400))
    rows = [Example(str(i), {"text": " ".join(rng.choices(words, k=120))}, " ".join(rng.choices(words, k=20))) for i in range(8 * steps)]
    task = Task(name="t", kind="generate", template="{{ text }}", metric="exact", train=tuple(rows))
    start = Specialist(base)
    named = dict(base.model.named_parameters())
    what = Trainable(start, task, named, change=lambda: WeightChange(Delta({})))
    from metier.train.items import items

    made = items(start, task, task.train)

    def ours() -> None:
        fit(what, Run(seed=0, budget=Budget(8 * steps)), lr=1e-6, batch_size=8, pack=False, keep_best=False)

    def bare() -> None:
        order, shuffler = list(range(len(made))), random.Random(0)
        shuffler.shuffle(order)
        with what.live():
            optimizer = torch.optim.AdamW(named.values(), lr=1e-6, weight_decay=0.0)
            for s in range(steps):
                batch = collate([made[i] for i in order[8 * s : 8 * s + 8]], start, pack=False)
                hidden = base.model.model(**batch.inputs, use_cache=False).last_hidden_state
                counted = batch.labels[:, 1:] != -100
                loss = nn.functional.cross_entropy(base.model.lm_head(hidden[:, :-1][counted]).float(), batch.labels[:, 1:][counted])
                loss.backward()
                nn.utils.clip_grad_norm_(named.values(), 1.0)
                optimizer.step()
                optimizer.zero_grad()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = alternate({"ours": ours, "bare": bare}, rounds, clock=time.process_time)
    torch.set_num_threads(threads)
    return {
        "ours_over_bare": statistics.median(seconds["ours"]) / statistics.median(seconds["bare"]),
        "ms_a_step": 1000 * statistics.median(seconds["ours"]) / steps,
    }


def packing(base: Base, rounds: int) -> dict[str, float]:
    """Real tokens a second packed over padded, and the largest difference of their losses."""
    rng = random.Random(0)
    lengths = [max(8, min(512, int(math.exp(rng.gauss(math.log(110), 0.8))))) for _ in range(64)]
    made = [Item(ids := tuple(rng.randrange(300, 2000) for _ in range(n)), ids) for n in lengths]
    start, named = Specialist(base), dict(base.model.named_parameters())
    what = Trainable(start, Task(name="t", kind="generate", template="", metric="exact"), named, change=lambda: WeightChange(Delta({})))
    losses: dict[str, list[float]] = {}

    def step(pack: bool) -> None:
        losses[str(pack)] = []
        with what.live():
            for i in range(0, len(made), 8):
                batch = collate(made[i : i + 8], start, pack=pack)
                loss = what.loss(batch) / batch.learnt
                loss.backward()
                losses[str(pack)].append(float(loss.detach()))

    seconds = alternate({"packed": lambda: step(True), "padded": lambda: step(False)}, rounds)
    gap = max(abs(a - b) for a, b in zip(losses["True"], losses["False"], strict=True))
    return {"packed_over_padded_speed": ratio(seconds["padded"], seconds["packed"]), "largest_loss_difference": gap}


def precision(base: Base) -> dict[str, float]:
    """bf16 autocast's time over float32's for one batch."""
    rng = random.Random(0)
    made = [Item(ids := tuple(rng.randrange(300, 2000) for _ in range(256)), ids) for _ in range(8)]
    start, named = Specialist(base), dict(base.model.named_parameters())
    what = Trainable(start, Task(name="t", kind="generate", template="", metric="exact"), named, change=lambda: WeightChange(Delta({})))
    with what.live():
        batch = collate(made, start, pack=True)
        pairs = [(_time(what, batch, "bf16"), _time(what, batch, "float32")) for _ in range(3)]
    return {"bf16_over_float32": statistics.median(a / b for a, b in pairs)}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    a = parser.parse_args()
    base = base_10m()
    write("training", {"loop": loop_cost(base, a.steps, a.rounds), "packing": packing(base, a.rounds), "precision": precision(base)})


if __name__ == "__main__":
    main()
