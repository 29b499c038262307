"""Zero-shot: the base as it is, with an instruction if one is given; what every other way is compared with.

Paper:       Brown et al. 2020, arXiv:2005.14165, section 2 ("zero-shot"); row 171.
Formula:     p(y | instruction, x).
Shapes:      none.
Units:       none.
Randomness:  none.
Cost:        none before the first answer; then the tokens of the instruction with every answer.
Deviations:  an encoder chooses by the likeness of its embeddings of the text and of the choices' texts.
Errors:      UserError where an instruction is given to an encoder or for ranking: there only the query is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from torch import Tensor

from metier.errors import UserError
from metier.method import About
from metier.model import InputChange, Specialist
from metier.task import Example, Prompt, Task
from metier.train import Run

ABOUT = About(place="in", papers=(171,), kinds=("choose", "generate", "rank"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of zero-shot."""

    instruction: str = ""
    """What stands before the query, in place of the task's own instruction; empty: the task's own."""


@dataclass(frozen=True)
class Instruction(InputChange):
    """Puts an instruction in place of the task's; an empty one changes nothing."""

    text: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def prompt(self, prompt: Prompt, example: Example, task: Task) -> Prompt:
        """The prompt with this instruction."""
        return prompt.with_(instruction=self.text) if self.text else prompt

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `Change.state`."""
        return {"text": self.text}, {}

    @classmethod
    def from_state(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """See `Change.from_state`."""
        return cls(facts["text"])


def zero_shot(start: Specialist, task: Task, settings: Settings, run: Run) -> Instruction:
    """The start with an instruction, or as it is."""
    if settings.instruction and (start.base.family == "encoder" or task.kind == "rank"):
        reader = "an encoder" if start.base.family == "encoder" else "ranking"
        raise UserError(
            f"zero-shot: {reader} reads only the query, so the instruction would change nothing. Write it into the task's template."
        )
    return Instruction(settings.instruction)
