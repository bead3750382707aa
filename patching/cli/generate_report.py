"""What mingpt-generate has to say, as text for a terminal; tables.py has the tables' parts."""

from __future__ import annotations

import codecs
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from patching.cli.common.tables import table, token_cell, width
from patching.text import escaped, readable, shortened, squeezed

if TYPE_CHECKING:
    from mingpt.bpe import BPETokenizer
    from mingpt.generation.sampling import Choice
    from patching.continuation.counts import Count
    from patching.continuation.run import Continuation
    from patching.continuation.step_candidates import Candidate

Key = tuple[int, int]  # numbers of a prompt and of its sample
_PROMPT_COLUMNS = 40  # of a prompt in a table
_FEWEST_COLUMNS = 20  # of a model, side by side with others
NEXT = "\n\n"  # between the tables of a sample's steps, and its text
_ENDED = {"length": "length", "end": "end of text", "stop": "text to stop at"}


def likelihood_line(log_probs: Sequence[float]) -> str:
    """How likely a prompt is, by what the model says of each token but the first."""
    count = len(log_probs) + 1
    line = f"{count} token" if count == 1 else f"{count} tokens"
    if not log_probs:
        return line
    total = sum(log_probs)
    return f"{line}, ln p {total:.2f}, {total / len(log_probs):.2f} for each but the first"


def sample_name(number: int, seed: int | None, score: float | None = None) -> str:
    """What a sample is called."""
    if score is not None:
        return f"beam {number + 1}, score {score:.4f}"
    return "the likeliest" if seed is None else f"seed {seed}"


def named(one: Continuation, number: int) -> str:
    """What a continuation is called, the `number`-th of its prompt."""
    return sample_name(number, one.sample.seed, one.sample.score)


def sample_end(count: int, log_prob: float, ended: str) -> str:
    """What is said after a sample, of so many tokens."""
    tokens = "1 token" if count == 1 else f"{count} tokens"
    return f"[{tokens}, ln p {log_prob:.2f}, ended by {_ENDED[ended]}]"


def candidate_table(candidates: Sequence[Candidate]) -> str:
    """One step: a star at the token chosen."""
    rows = [("", "rank", "id", "token", "logit", "prob", "cumul", "", "drawn with")]
    for one in candidates:
        rows.append(
            (
                "*" if one.is_chosen else "",
                str(one.rank),
                str(one.id),
                token_cell(one.token),
                f"{one.logit:.4f}",
                f"{one.probability:.4f}",
                f"{one.cumulative:.4f}",
                f"cut by {one.cut}" if one.cut else "kept" if one.drawn_with else "",
                f"{one.drawn_with:.4f}",
            )
        )
    return table(rows, right=(1, 2, 4, 5, 6, 8))


def count_table(counts: Sequence[Count]) -> str:
    """How often each pattern was found after each prompt."""
    rows = [("prompt", "pattern", "found", "of", "share", "95 % interval")]
    for one in counts:
        low, high = one.interval
        rows.append(
            (
                cell(one.prompt),
                cell(one.pattern),
                str(one.found),
                str(one.samples),
                f"{one.share:.4f}",
                f"{low:.4f} to {high:.4f}",
            )
        )
    return table(rows, right=(2, 3, 4))


def cell(text: str) -> str:
    """A prompt or a pattern in one cell of a table."""
    shown = squeezed(escaped(text), _PROMPT_COLUMNS)
    while width(shown) > _PROMPT_COLUMNS:
        shown = squeezed(shown, len(shown) - 1)
    return shown


def side_by_side(texts: Sequence[Sequence[str | None]], heads: Sequence[str], columns: int) -> str:
    """Texts in columns, row by row with a blank line between; each column has a head.

    Args:
        texts: the rows, for each column a text, or None.
        columns: of the terminal; they are shared out evenly.
    """
    each = max((columns - 2 * (len(heads) - 1)) // len(heads), _FEWEST_COLUMNS)
    lines: list[Sequence[str]] = [[shortened(readable(head), each) for head in heads]]
    lines.append(["-" * min(width(head), each) for head in lines[0]])
    for number, row in enumerate(texts):
        lines += [[""] * len(heads)] if number else []
        wrapped = [[*_wrapped(text or "", each)] for text in row]
        lines += zip_longest(*wrapped, fillvalue="")
    return "\n".join(
        "  ".join(part + " " * (each - width(part)) for part in line).rstrip() for line in lines
    )


def _wrapped(text: str, columns: int) -> Iterator[str]:
    """Lines of at most so many columns, wide characters counted as two."""
    for line in readable(text).split("\n"):
        for part in textwrap.wrap(line, columns) or [""]:
            while width(part) > columns:
                end = next(n for n in range(len(part), 0, -1) if width(part[:n]) <= columns)
                yield part[:end]
                part = part[end:]
            yield part


class Transcript:
    """Samples on their way to the screen: whole, one after another, however they are made.

    A batch makes all its samples at once, token by token. What belongs to one
    that is not yet on is kept until those before it are done.

    Args:
        write: prints a piece of text, without an end of line.
        tokenizer: that the tokens are of.
        order: of the samples.
        heads: what stands before each, by prompt and sample.
        steps: the table of a step, in place of the text as it comes; None: none.
        is_live: print what there is of a sample at once, not when it is done.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        tokenizer: BPETokenizer,
        order: Sequence[Key],
        head: Callable[[Key], str],
        *,
        steps: Callable[[Choice], str] | None = None,
        is_live: bool = False,
        with_ends: bool = True,
    ) -> None:
        self._write, self._tokenizer = write, tokenizer
        self._order, self._head = [*order], head
        self._steps, self._is_live, self._with_ends = steps, is_live, with_ends
        self._kept: dict[Key, list[str]] = defaultdict(list)
        self._open: dict[Key, _Text] = {}

    def __call__(self, choice: Choice) -> None:
        """Take one step of one sample."""
        key = (choice.prompt, choice.sample)
        text = self._open.setdefault(key, _Text(self._tokenizer))
        piece = text.add(choice.token, choice.log_prob, is_end=choice.ended == "end")
        kept = self._kept[key]
        if choice.step == 0:
            kept.append(self._head(key))
        if self._steps is None:
            kept.append(piece)
        else:
            kept += [NEXT] if choice.step else []
            kept.append(f"step {choice.step + 1}\n{self._steps(choice)}")
        if choice.ended is not None:
            kept.append(text.rest() if self._steps is None else f"{NEXT}{text.whole()}")
            end = sample_end(text.count, text.log_prob, choice.ended)
            kept.append(f"\n{end}\n" if self._with_ends else "\n")
            kept.append(_DONE)
        self._tell()

    def _tell(self) -> None:
        while self._order:
            kept = self._kept[self._order[0]]
            is_done = kept[-1:] == [_DONE]
            if kept and (is_done or self._is_live):
                self._write("".join(kept[: -1 if is_done else None]))
                kept.clear()
            if not is_done:
                return
            del self._order[0]


_DONE = "\0"  # after the last piece of a sample; no piece is this


class _Text:
    """A sample's text as it grows: characters come when their last byte does."""

    def __init__(self, tokenizer: BPETokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pieces: list[str] = []
        self.count, self.log_prob = 0, 0.0

    def add(self, token: int, log_prob: float, *, is_end: bool) -> str:
        """What can be shown now."""
        self.count += 1
        self.log_prob += log_prob
        data = b"" if is_end else self._tokenizer.data(token)
        self._pieces.append(readable(self._decoder.decode(data)))
        return self._pieces[-1]

    def rest(self) -> str:
        """What was waiting for bytes that do not come."""
        self._pieces.append(readable(self._decoder.decode(b"", final=True)))
        return self._pieces[-1]

    def whole(self) -> str:
        """All of it."""
        self.rest()
        return "".join(self._pieces)
