"""Switch a head off, and see what the other parts of the model make up for.

Both runs are explained by direct logit attribution, each with its own final layer norm. In each run
the terms add up to the logit difference, so the changes of all terms add up to its change. What
the head itself added is gone; the changes of the other terms are what they make up for, or take
away too. Parts below the head, and heads beside it, write the same vectors in both runs; their
terms change by the final layer norm alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from patching.errors import ExplanationError
from patching.explanation.result import Explanation, target_minus_foil


@dataclass(frozen=True)
class Part:
    """What a part of the model adds to logit(target) - logit(foil), in logits."""

    name: str  # "4.2" is head 2 of layer 4, "MLP 4" its MLP
    before: float
    after: float

    @property
    def change(self) -> float:
        """What it adds more after the head is switched off."""
        return self.after - self.before


@dataclass(frozen=True, eq=False)
class Ablation:
    """A prediction with all heads, and with one of them switched off."""

    before: Explanation
    after: Explanation

    def __post_init__(self) -> None:
        one, other = self.before, self.after
        same = (
            np.array_equal(one.ids, other.ids)
            and (one.target, one.foil) == (other.target, other.foil)
            and one.heads.shape == other.heads.shape
            and one.checksum == other.checksum
        )
        if not same or one.ablated is not None or other.ablated is None:
            raise ExplanationError(
                "an ablation is two explanations of one question by one model, the second with a"
                " head switched off"
            )

    @property
    def head(self) -> tuple[int, int]:
        """The (layer, head) that is switched off."""
        assert self.after.ablated is not None
        return self.after.ablated

    @property
    def total(self) -> float:
        """The change of logit(target) - logit(foil), in logits."""
        after, before = (target_minus_foil(one.logits) for one in (self.after, self.before))
        return float(after - before)

    @property
    def direct(self) -> float:
        """What the head added by itself, and no longer adds: the change that it makes alone."""
        layer, head = self.head
        return -float(self.before.heads[0, layer, head] - self.before.heads[1, layer, head])

    @property
    def made_up(self) -> float:
        """The change of all other terms; against `direct` if they make up for it."""
        return self.total - self.direct

    def parts(self) -> list[Part]:
        """Return all parts but the head itself, those that change most first."""
        found = [
            Part(f"{layer}.{head}", *self._both("heads", layer, head))
            for layer, head in np.ndindex(self.before.heads.shape[1:])
            if (layer, head) != self.head
        ]
        layers = range(len(self.before.mlp))
        found += [Part(f"MLP {layer}", *self._both("mlp", layer)) for layer in layers]
        return sorted(found, key=lambda part: -abs(part.change))

    def _both(self, field: str, *at: int) -> tuple[float, float]:
        """Return a head's or an MLP's term before and after."""
        values = []
        for one in (self.before, self.after):
            terms = one.heads[0] - one.heads[1] if field == "heads" else target_minus_foil(one.mlp)
            values.append(float(terms[at]))
        return values[0], values[1]
