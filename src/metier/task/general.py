"""A general task that nobody tunes for: tell the real continuation of a text from three strangers.

It measures forgetting where the user names no task to retain. The text is English prose that every Python brings along
(the language reference in `pydoc_data`), so it needs no download; the examples are the same on every machine with the same Python.
"""

from __future__ import annotations

import functools
import random
import re

from metier.task.example import Example
from metier.task.task import Task

WORDS_BEFORE, WORDS_AFTER = 24, 8


@functools.cache
def continuation(count: int = 120) -> Task:
    """The task 'continuation': choose among four spans of eight words the one that follows 24 words of prose."""
    from pydoc_data.topics import topics

    rng = random.Random(0)
    spans: list[tuple[str, str]] = []
    for name in sorted(topics):
        for paragraph in topics[name].split("\n\n"):
            words = re.sub(r"[*`\"_]", "", paragraph).split()
            if paragraph[:1].isalpha() and len(words) >= WORDS_BEFORE + WORDS_AFTER and ">>>" not in paragraph:
                spans.append((" ".join(words[:WORDS_BEFORE]), " ".join(words[WORDS_BEFORE : WORDS_BEFORE + WORDS_AFTER])))
    spans = sorted(set(spans))
    rng.shuffle(spans)
    endings = [after for _, after in spans]
    examples = []
    for i, (before, after) in enumerate(spans[:count]):
        choices = [after, *rng.sample([e for e in endings if e != after], 3)]
        rng.shuffle(choices)
        examples.append(Example(f"continuation-{i}", {"text": before}, after, tuple(choices)))
    return Task(
        name="continuation",
        kind="choose",
        template="{{ text }}",
        metric="accuracy",
        inputs=("text",),
        test=tuple(examples),
        source="pydoc_data.topics",
    )
