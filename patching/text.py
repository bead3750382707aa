"""Make tokens and prompts readable on a terminal and in a figure.

A token may hold any bytes: the space before a word, line ends, terminal escape
codes, half a character. Characters that are not printable are escaped before they
are shown.
"""

from __future__ import annotations

from collections.abc import Callable

SPACE = "\u2423"  # the open box: a leading space made visible


def escaped(text: str, drawable: Callable[[str], bool] = lambda char: True) -> str:
    r"""Return `text` with an escape for every character that is not printable or not drawable.

    Args:
        text: the text to show.
        drawable: returns True for a character that the figure's font has.

    Example:
        escaped("a\nb")  # a\nb, four characters
    """
    return "".join(
        char
        if char.isprintable() and drawable(char)
        else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in text
    )


def visible(token: str, drawable: Callable[[str], bool] = lambda char: True) -> str:
    """Return a token with open boxes for its leading spaces and the rest escaped."""
    rest = token.lstrip(" ")
    return SPACE * (len(token) - len(rest)) + escaped(rest, drawable)


def readable(text: str) -> str:
    """Return `text` with its line ends kept and every other unprintable character escaped."""
    return "\n".join(map(escaped, text.split("\n")))


def squeezed(text: str, most: int) -> str:
    """Return `text` cut to `most` characters, with an ellipsis in the middle.

    Use it for prompts, because they may differ at either end.
    """
    if len(text) <= most:
        return text
    end = most // 2
    return f"{text[: most - end - 1]}\u2026{text[len(text) - end :]}"


def shortened(text: str, most: int) -> str:
    """Return `text` cut to `most` characters, with an ellipsis as the last one."""
    return text if len(text) <= most else text[: most - 1] + "\u2026"
