"""Read one tokenizer.json and texts, in a process that other_tokenizers.py starts.

The file decides what happens to a text. Its rules can make the text a million times longer, its
regular expressions can search for hours, and some mistakes in it make the package's Rust code
panic, which prints a trace and is no Exception in Python. A process of its own, with a limit of
memory and time, keeps all of that from the command.

The request comes as JSON on stdin, the answer goes as JSON to stdout. Nothing of ours is
imported, so that the process starts within some 30 ms.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

MOST_MEMORY = 4 * 2**30  # bytes of address space
MOST_TOKENS = 10**6  # of one text


def main() -> None:
    """Answer one request."""
    _limit()
    request = json.loads(sys.stdin.buffer.read())
    try:
        answer = answer_to(**request)
    except BaseException as error:  # a panic is no Exception
        words = " ".join(str(error).split())[:200]
        answer = {"error": words or type(error).__name__}
    sys.stdout.write(json.dumps(answer))


def answer_to(file: str, text: str | None) -> dict[str, Any]:
    """Return the vocabulary of a tokenizer, or a text's tokens.

    Args:
        file: the content of a tokenizer.json.
        text: the text to encode; None for the vocabulary.

    Returns:
        "vocabulary", token -> id; or "tokens", a row of id, token, start and end for each.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(file)
    tokenizer.no_padding()  # either could hide tokens, or make any number of them
    tokenizer.no_truncation()
    if text is None:
        return {"vocabulary": tokenizer.get_vocab(with_added_tokens=True)}
    found = tokenizer.encode(text)
    if len(found.ids) > MOST_TOKENS:
        raise ValueError(f"it makes {len(found.ids)} tokens, more than {MOST_TOKENS}")
    rows = zip(found.ids, found.tokens, found.offsets, strict=True)
    return {"tokens": [(number, token, *ends) for number, token, ends in rows]}


def _limit() -> None:
    """Limit this process's memory, and let it use one thread and leave no core file."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows has no such limits
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = MOST_MEMORY if hard == resource.RLIM_INFINITY else min(MOST_MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
