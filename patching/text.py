"""Make tokens and prompts readable on a terminal and in a figure.

A token may hold any bytes: the space before a word, line ends, terminal escape
codes, half a character. Characters that are not printable are escaped before they
are shown.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable

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


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number and its noun: "1 head", "2 heads".

    Args:
        plural: of the noun; None adds an "s".
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """Return a time in words: "0.5 s", "45 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_of_hour = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_of_hour} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def probability(value: float) -> str:
    """Return a probability with four decimals, or with two digits if that would show 0.0000."""
    return f"{value:.4f}" if value >= 0.00005 or value == 0 else f"{value:.1e}"


def model_label(name: str) -> str:
    """Return a model's name for a figure: of a path, its last part.

    A name with one slash stays, because it may be a repository of the hub.

    Example:
        model_label("/home/ann/runs/tiny")  # tiny
        model_label("openai-community/gpt2")  # openai-community/gpt2
    """
    is_path = name.startswith((".", "~", "/", "\\")) or name.count("/") > 1 or "\\" in name
    is_file = name.endswith((".pt", ".pth", ".bin", ".safetensors"))
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    return last if (is_path or is_file) and last.strip(".") else name


def shell_line(words: Iterable[str]) -> str:
    """Return words as a command line that bash and zsh read as just these words.

    A word with line ends or other characters that are not printable is written with escapes.

    Example:
        shell_line(["a b", "c\nd"])  # 'a b' $'c\\nd'
    """
    return " ".join(
        shlex.quote(word)
        if word.isprintable()
        else "$'" + escaped(word.replace("\\", "\\\\").replace("'", "\\'")) + "'"
        for word in words
    )


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
