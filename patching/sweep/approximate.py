"""The approximate methods by name: their settings, checked, and how titles call them.

No tensor is touched here. attribution.py and relp.py compute them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from patching.errors import SweepError
from patching.text import counted

APPROXIMATE = ("attribution", "attribution-ig", "relp")
# RelP's rules: which step of the backward pass is replaced (see relp.py).
RELP_RULES = ("ln", "gelu", "pattern")
DEFAULT_RULES = ("ln", "gelu")
STEPS = 5  # of attribution-ig
# Sites that reach the output through the attention pattern alone.
_BEHIND_PATTERN = ("q", "k")


def parse_rules(asked: str | Sequence[str]) -> tuple[str, ...]:
    """Return RelP's rules in the order of RELP_RULES, from a list or names with commas between.

    Raises:
        SweepError: none, one twice, or an unknown one.
    """
    given = asked.split(",") if isinstance(asked, str) else asked
    if not (isinstance(given, Iterable) and all(isinstance(one, str) for one in given)):
        raise SweepError(f"relp_rules are some of {', '.join(RELP_RULES)}, not {asked!r:.80}")
    names = [one.strip() for one in given]
    for name in names:
        if name not in RELP_RULES:
            raise SweepError(f"no RelP rule {name!r:.80}; there are {', '.join(RELP_RULES)}")
        if names.count(name) > 1:
            raise SweepError(f"the RelP rule {name} is asked for twice")
    if not names:
        raise SweepError(f"no RelP rule; there are {', '.join(RELP_RULES)}")
    return tuple(name for name in RELP_RULES if name in names)


def settings_of(
    method: str, site: str, relp_rules: str | Sequence[str] | None, steps: int | None
) -> tuple[tuple[str, ...] | None, int | None]:
    """Return RelP's rules and attribution-ig's steps; None for each that the method has not.

    Args:
        relp_rules, steps: as they were asked for; None: the default.

    Raises:
        SweepError: one is given with another method, or the rules leave no path from the site.
    """
    if relp_rules is not None and method != "relp":
        raise SweepError(f"relp_rules are for the method relp, not for {method}")
    if steps is not None and method != "attribution-ig":
        raise SweepError(f"steps are for the method attribution-ig, not for {method}")
    if method == "relp":
        rules = parse_rules(DEFAULT_RULES if relp_rules is None else relp_rules)
        if "pattern" in rules and site in _BEHIND_PATTERN:
            raise SweepError(
                f"RelP's rule pattern cuts the only path from {site} to the logits, so no estimate"
                " would differ from the unpatched run: leave the rule out, or choose another site"
            )
        return rules, None
    if method == "attribution-ig":
        return None, STEPS if steps is None else steps
    return None, None


def only_point(method: str, base: str, source: str, steps: int | None) -> str | None:
    """Return the unpatched run at which alone the gradient is taken; None if there are others.

    Args:
        base, source: the run that is patched, and the one that is put in.
    """
    if method != "attribution-ig":
        return base
    return source if steps == 1 else None


def estimate_words(
    method: str, relp_rules: Sequence[str] | None, steps: int | None
) -> tuple[str, str]:
    """Return an approximate method's name for titles, and in which way it is approximate."""
    if method == "relp":
        return "RelP", f"approximate; rules {', '.join(relp_rules or ())}"
    if method == "attribution-ig":
        return "Attribution patching", f"approximate, integrated over {counted(steps or 0, 'step')}"
    return "Attribution patching", "approximate, to first order"
