"""Switch a head off, and see what the other parts of the model make up for.

Both runs are explained by direct logit attribution, each with its own scale of the final layer
norm (the standard deviation by which it divides), so that the terms add up to each run's logits.
A term can change for two reasons: its part writes another vector, or the scale is another one. The
scale changes every term, those of parts below the head and of heads beside it too, which write the
same vectors in both runs. So a part's change is that of its vector, at the first run's scale, and
what the scale changes in all terms is a number of its own (Rushing and Nanda 2024, arXiv
2402.15390, tell the two apart in the same way).
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
    before: float  # at the scale of each run
    after: float
    change: float  # of the vector that it writes, at the scale of the run with all heads


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
        if self.after.ablated is None:
            raise ExplanationError("no head is switched off in the second explanation")
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
        """The rest of the change: other vectors, and the other scale of the final layer norm.

        It has the opposite sign of `direct` if the rest of the model makes up for the head.
        """
        return self.total - self.direct

    @property
    def by_scale(self) -> float:
        """What the other scale of the final layer norm changes in all terms together."""
        after = target_minus_foil(self.after.logits) - target_minus_foil(self.after.final_bias)
        return float(after) * (1 - self.scale_ratio)

    @property
    def scale_ratio(self) -> float:
        """The final layer norm's scale without the head, divided by the scale with it.

        The terms of parts that write the same are inversely proportional to the scale.
        """
        before, after = (
            self._unchanged(one).astype(np.float64) for one in (self.before, self.after)
        )
        product = float(before @ after)
        return float(before @ before) / product if product else 1.0

    def _unchanged(self, one: Explanation) -> np.ndarray:
        """Return the terms of all parts that write the same vector in both runs (n,)."""
        heads, mlps = self.can_change
        terms = (one.initial, one.bias, one.heads[:, ~heads], one.mlp[~mlps])
        return np.concatenate([term.ravel() for term in terms])

    @property
    def can_change(self) -> tuple[np.ndarray, np.ndarray]:
        """The heads (L, nh) and MLPs (L,) that can write another vector without the head."""
        layer, head = self.head
        _, L, nh = self.before.heads.shape
        heads = np.repeat(np.arange(L)[:, None] > layer, nh, axis=1)
        heads[layer, head] = True
        return heads, np.arange(L) >= layer

    def changes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the changes of the heads (L, nh) and MLPs (L,), in logits; float64.

        They are 0 where a part cannot change.
        """
        found = []
        both = (self._terms(self.before), self._terms(self.after))
        for before, after, can in zip(*both, self.can_change, strict=True):
            found.append(np.where(can, after * self.scale_ratio - before, 0.0))
        return found[0], found[1]

    @staticmethod
    def _terms(one: Explanation) -> tuple[np.ndarray, np.ndarray]:
        """Return what the heads (L, nh) and MLPs (L,) add, target minus foil."""
        heads = (one.heads[0] - one.heads[1]).astype(np.float64)
        return heads, target_minus_foil(one.mlp).astype(np.float64)

    def parts(self) -> list[Part]:
        """Return the parts that can change, but the head itself, those that change most first."""
        columns = (self._terms(self.before), self._terms(self.after), self.changes())
        heads, mlps = (np.stack(one, axis=-1).tolist() for one in zip(*columns, strict=True))
        can_heads, can_mlps = self.can_change
        found = [
            Part(f"{layer}.{head}", *heads[layer][head])
            for layer, head in np.argwhere(can_heads).tolist()
            if (layer, head) != self.head
        ]
        found += [Part(f"MLP {n}", *mlps[n]) for n in np.flatnonzero(can_mlps).tolist()]
        return sorted(found, key=lambda part: -abs(part.change))
