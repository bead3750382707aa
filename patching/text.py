"""Tokens as a person can see them, on a terminal or in a figure.

A token may hold anything: the space before a word, line ends, terminal escape
codes, half a character. None of it may reach a terminal or a figure raw.
"""

from __future__ import annotations

from collections.abc import Callable

SPACE = "\u2423"  # the open box: a leading space made visible


def escaped(text: str, drawable: Callable[[str], bool] = lambda char: True) -> str:
    r"""`text` with every character that is not printable, or not drawable, as \n, \x1b, \u4e2d."""
    return "".join(
        char
        if char.isprintable() and drawable(char)
        else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in text
    )


def visible(token: str, drawable: Callable[[str], bool] = lambda char: True) -> str:
    """A token with its leading spaces as open boxes and the rest escaped."""
    rest = token.lstrip(" ")
    return SPACE * (len(token) - len(rest)) + escaped(rest, drawable)


def readable(text: str) -> str:
    """`text` for a terminal: its lines as they are, what else is not printable escaped."""
    return "\n".join(map(escaped, text.split("\n")))


def squeezed(text: str, most: int) -> str:
    """`text` cut to `most` characters, an ellipsis in the middle: prompts differ at either end."""
    if len(text) <= most:
        return text
    end = most // 2
    return f"{text[: most - end - 1]}\u2026{text[len(text) - end :]}"


def shortened(text: str, most: int) -> str:
    """`text` cut to `most` characters, an ellipsis as the last of them."""
    return text if len(text) <= most else text[: most - 1] + "\u2026"
