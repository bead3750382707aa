"""Answer option names that people bring from other tools with the names used here."""

from __future__ import annotations

from collections.abc import Collection

# Another tool's option -> the option here, and what to know about it.
ELSEWHERE = {
    "--max-length": ("--max-new-tokens", "it counts the new tokens, without the prompt's"),
    "--max-tokens": ("--max-new-tokens", ""),
    "--num-return-sequences": ("--num-samples", ""),
    "--n": ("--num-samples", ""),
    "--beams": ("--num-beams", ""),
    "--beam-size": ("--num-beams", ""),
    "--do-sample": ("--greedy", "tokens are drawn unless it is given"),
    "--stop-strings": ("--stop", ""),
    "--frequency-penalty": ("--repetition-penalty", ""),
    "--model-name": ("--model", ""),
    "--model-name-or-path": ("--model", ""),
    "--output": ("--out", ""),
    "--output-dir": ("--out", ""),
    "--save": ("--out", ""),
    "--prompt": ("--text", ""),
    "--text": ("--prompt", ""),
    "--input": ("--prompt", ""),
    "--answer": ("--target", ""),
    "--wrong": ("--foil", ""),
    "--corrupted": ("--corrupt", ""),
    "--activation": ("--site", ""),
    "--hook": ("--site", ""),
    "--topk": ("--rows", "the rows of the tables of next tokens"),
    "--num-threads": ("--threads", ""),
    "--fp16": ("--dtype", "write --dtype float16"),
    "--bf16": ("--dtype", "write --dtype bfloat16"),
    "--gpu": ("--device", "write --device cuda"),
}
# The text of a command whose text is an option: the first of these that it has.
TEXTS = ("--prompt", "--text", "--clean")


def answer(name: str, options: Collection[str]) -> str | None:
    """Return what to type in place of an option that a command does not have.

    Args:
        name: the option as it was typed.
        options: the command's.

    Returns:
        A sentence without a full stop; None if nothing is known.
    """
    typed = name.partition("=")[0].lower().replace("_", "-")
    if typed in options:
        return f"write {typed}"
    here, note = ELSEWHERE.get(typed, ("", ""))
    if here not in options:
        return None
    return f"here it is {here}" + (f" ({note})" if note else "")


def answer_text(options: Collection[str]) -> str | None:
    """Return how to give a text to a command that takes none by position."""
    here = next((name for name in TEXTS if name in options), None)
    return None if here is None else f'write a text after its option: {here} "..."'
