"""Examples for the live page: those that make sense on the model at hand."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mingpt.errors import MinGPTError
from patching.page.charts import JSON
from patching.page.live.prompts import Loaded
from patching.prompts import PromptPair
from patching.running import eval_mode


@dataclass(frozen=True)
class Example:
    """A pair of prompts with its answers, and what it shows."""

    title: str
    clean: str
    corrupt: str
    target: str
    foil: str


EXAMPLES = (
    Example(
        "a surname that was named before",
        "Michelle Jones was a top-notch student. Michelle",
        "Michelle Smith was a top-notch student. Michelle",
        "Jones",
        "Smith",
    ),
    Example(
        "who was given something (IOI)",
        "When Mary and John went to the store, John gave a drink to",
        "When Mary and John went to the store, Mary gave a drink to",
        "Mary",
        "John",
    ),
    Example(
        "singular and plural",
        "The keys to the cabinet",
        "The key to the cabinet",
        "are",
        "is",
    ),
    Example(
        "a noun between subject and verb",
        "The keys near the cars",
        "The key near the cars",
        "are",
        "is",
    ),
    Example(
        "a capital",
        "The capital of France is",
        "The capital of Italy is",
        "Paris",
        "Rome",
    ),
    Example(
        "a country",
        "Paris is the capital of",
        "Rome is the capital of",
        "France",
        "Italy",
    ),
    Example(
        "he and she",
        "The doctor met Mary because",
        "The doctor met John because",
        "she",
        "he",
    ),
    Example(
        "an opposite",
        "This summer, unlike the previous winter, is being extremely",
        "This winter, unlike the previous summer, is being extremely",
        "hot",
        "cold",
    ),
    Example(
        "a word that was repeated",
        "cat dog tree house cat dog tree",
        "cat dog tree river cat dog tree",
        "house",
        "river",
    ),
    Example(
        "greater than",
        "The war lasted from the year 1732 to the year 17",
        "The war lasted from the year 1701 to the year 17",
        "33",
        "02",
    ),
)


def sensible(loaded: Loaded) -> list[JSON]:
    """Return the examples that the model answers rightly: the target after the clean prompt.

    An example is left out if its prompts or answers do not fit the tokenizer, or if the model
    prefers the foil after the clean prompt or the target after the corrupt one.
    """
    found = []
    for one in EXAMPLES:
        answers = (one.target, one.foil)
        try:
            pair = PromptPair.from_text(loaded.tokenizer, one.clean, one.corrupt, *answers)
            if _answers_rightly(loaded, pair):
                found.append(vars(one))
        except MinGPTError:
            continue
    return found


@torch.no_grad()
def _answers_rightly(loaded: Loaded, pair: PromptPair) -> bool:
    ids = torch.tensor([pair.clean_ids, pair.corrupt_ids], device=loaded.model.device)
    with eval_mode(loaded.model):
        logits = loaded.model.next_logits(ids)
    target, foil = pair.target_ids[0], pair.foil_ids[0]
    clean, corrupt = (logits[:, target] - logits[:, foil]).tolist()
    return clean > 0 > corrupt
