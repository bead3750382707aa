"""mingpt-generate's output as text for a terminal; common/tables.py has the parts of tables."""

from __future__ import annotations

import codecs
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from patching.cli.common.narrow import terminal_columns
from patching.cli.common.tables import table, token_cell, width
from patching.text import counted, escaped, probability, readable, shortened, squeezed

if TYPE_CHECKING:
    from mingpt.bpe import BPETokenizer
    from mingpt.generation.beams import BeamCandidate, BeamStep
    from mingpt.generation.sampling import Choice
    from patching.cli.generate_records import SettingsRun
    from patching.continuation.counts import Count
    from patching.continuation.request import GenerationSettings
    from patching.continuation.step_candidates import Candidate

Key = tuple[int, int]  # number of a prompt, number of its sample
_PROMPT_COLUMNS = 40  # width of a prompt in a table
_MOST_SETTINGS = 6  # named in the line that says which settings are run
_FEWEST_COLUMNS = 20  # width of a model's column beside others, at least
NEXT = "\n\n"  # between two tables of steps, and before the text after them
_ENDED = {"length": "--max-new-tokens", "end": "<|endoftext|>", "stop": "a text of --stop"}
_TEXT_COLUMNS = 30  # width of a beam's text in a table; a longer one loses its beginning


def settings_line(settings: Sequence[GenerationSettings]) -> str:
    """Return a line with the settings that a grid of listed values runs."""
    shown = "; ".join(one.describe() for one in settings[:_MOST_SETTINGS])
    more = f"; {len(settings) - _MOST_SETTINGS} more" if len(settings) > _MOST_SETTINGS else ""
    return f"{len(settings)} settings, one for each combination: {shown}{more}"


def likelihood_line(log_probs: Sequence[float]) -> str:
    """Return a prompt's length and log-probability.

    Args:
        log_probs: of each of the prompt's tokens but the first, in nats.
    """
    count = len(log_probs) + 1
    line = counted(count, "token")
    if not log_probs:
        return line
    total = sum(log_probs)
    return f"{line}, ln p {total:.2f}, {total / len(log_probs):.2f} per token after the first"


def heading(number: int, seed: int | None, score: float | None = None) -> str:
    """Return the heading of a sample: its name, and a beam's score.

    Args:
        number: the sample's number, from 0.
        seed: None if it was not drawn.
        score: of a beam; None for any other sample.
    """
    # Not at the top: the module imports PyTorch, and this one is imported for --help.
    from patching.continuation.result import sample_name

    name = sample_name(number, seed, is_beam=score is not None)
    return name if score is None else f"{name}, score {score:.4f}"


def sample_end(count: int, log_prob: float, ended: str) -> str:
    """Return the line below a sample.

    Args:
        count: the number of its tokens.
        log_prob: in nats.
        ended: why it ended; see mingpt.Sample.
    """
    return f"[{counted(count, 'token')}, ln p {log_prob:.2f}, ended at {_ENDED[ended]}]"


def time_line(run: SettingsRun) -> str:
    """Return a line with the number of tokens and the time that they took."""
    watch = run.stopwatch
    line = f"{counted(run.tokens, 'token')}; first token of each sample: {watch.first:.2f} s in all"
    if watch.milliseconds_per_token is None:
        return line
    is_search = run.settings.num_beams is not None
    unit = "step of all beams" if is_search else "token"
    if not is_search and sum(map(len, run.result)) > 1:
        unit += ", several samples at a time"
    return f"{line}; then {watch.milliseconds_per_token:.1f} ms per {unit}"


def candidate_table(candidates: Sequence[Candidate]) -> str:
    """Return the candidates of one step as a table, with a star at the chosen one."""
    rows = [("", "rank", "id", "token", "logit", "prob", "cumul", "", "drawn with")]
    for one in candidates:
        rows.append(
            (
                "*" if one.is_chosen else "",
                str(one.rank),
                str(one.id),
                token_cell(one.token),
                f"{one.logit:.4f}",
                probability(one.probability),
                f"{one.cumulative:.4f}",
                f"cut by {one.cut}" if one.cut else "kept" if one.drawn_with else "",
                probability(one.drawn_with),
            )
        )
    return table(rows, right=(1, 2, 4, 5, 6, 8), keys=4)


def beam_tables(steps: Sequence[BeamStep], tokenizer: BPETokenizer) -> str:
    """Return a table of the candidates of each step of a beam search, and what became of them."""
    texts = {0: ""}  # beam -> its tokens so far
    tables = []
    for step in steps:
        tables.append(f"step {step.step + 1}\n{_beam_table(step, texts, tokenizer)}")
        texts = {
            one.kept_as: texts[one.beam] + _token(tokenizer, one.token)
            for one in step.candidates
            if one.kept_as is not None
        }
    return NEXT.join(tables)


def _beam_table(step: BeamStep, texts: dict[int, str], tokenizer: BPETokenizer) -> str:
    """Return the table of a step.

    Args:
        texts: beam -> the tokens before this step, as one text.
    """
    rows = [("beam", "id", "with its next token", "ln p", "total", "score", "")]
    for one in step.candidates:
        text = texts[one.beam] + _token(tokenizer, one.token)
        rows.append(
            (
                str(one.beam + 1),
                str(one.token),
                text if width(text) <= _TEXT_COLUMNS else f"\u2026{text[1 - _TEXT_COLUMNS :]}",
                f"{one.log_prob:.2f}",
                f"{one.total:.2f}",
                f"{one.score:.4f}",
                _fate(one),
            )
        )
    return table(rows, right=(0, 1, 3, 4, 5), keys=3)


def _token(tokenizer: BPETokenizer, number: int) -> str:
    from patching.next_tokens import text_or_id  # not at the top: see `heading`

    return token_cell(text_or_id(tokenizer.token, number))


def _fate(one: BeamCandidate) -> str:
    if one.ended is not None:
        return "ends"
    return "dropped" if one.kept_as is None else f"beam {one.kept_as + 1}"


def count_table(counts: Sequence[Count]) -> str:
    """Return a table with a row for each prompt and pattern."""
    # On a narrow terminal, prompt and pattern get what the numbers leave.
    most = min(_PROMPT_COLUMNS, max((terminal_columns() or 1000) // 2 - 22, 8))
    rows = [("prompt", "pattern", "found", "of", "share", "95 % interval")]
    for one in counts:
        low, high = one.interval
        rows.append(
            (
                cell(one.prompt, most),
                cell(one.pattern, most),
                str(one.found),
                str(one.samples),
                f"{one.share:.4f}",
                f"{low:.4f} to {high:.4f}",
            )
        )
    return table(rows, right=(2, 3, 4))


def cell(text: str, most: int = _PROMPT_COLUMNS) -> str:
    """Return a prompt or a pattern as a cell of a table, cut in the middle if it is long."""
    shown = squeezed(escaped(text), most)
    while width(shown) > most:
        shown = squeezed(shown, len(shown) - 1)
    return shown


def side_by_side(texts: Sequence[Sequence[str | None]], heads: Sequence[str], columns: int) -> str:
    """Return texts in columns of equal width, with a blank line between two rows.

    Args:
        texts: rows with a text, or None, for each column.
        heads: the heading of each column.
        columns: width of the terminal, in characters.
    """
    each = max((columns - 2 * (len(heads) - 1)) // len(heads), _FEWEST_COLUMNS)
    lines: list[Sequence[str]] = [[shortened(readable(head), each) for head in heads]]
    lines.append(["-" * min(width(head), each) for head in lines[0]])
    for number, row in enumerate(texts):
        lines += [[""] * len(heads)] if number else []
        wrapped = [list(_wrapped(text or "", each)) for text in row]
        lines += zip_longest(*wrapped, fillvalue="")
    return "\n".join(
        "  ".join(part + " " * (each - width(part)) for part in line).rstrip() for line in lines
    )


def _wrapped(text: str, columns: int) -> Iterator[str]:
    """Yield lines that are at most `columns` wide; a wide character takes two columns."""
    for line in readable(text).split("\n"):
        for part in textwrap.wrap(line, columns) or [""]:
            while width(part) > columns:
                end = next(n for n in range(len(part), 0, -1) if width(part[:n]) <= columns)
                yield part[:end]
                part = part[end:]
            yield part


class Transcript:
    """A printer of samples one after another, although a batch makes them at the same time.

    The text of a sample is kept until all samples before it have been printed.

    Args:
        write: prints a piece of text, without an end of line.
        tokenizer: the model's.
        order: the samples, in the order in which to print them.
        head: returns the heading of a sample.
        steps: returns the table of a step, which is printed in place of the step's token;
            the text then follows the tables. None prints no tables.
        is_live: print each token of a sample at once; otherwise print whole samples.
        with_ends: print a line below each sample: tokens, log-probability, why it ended.
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
        self._order, self._head = list(order), head
        self._steps, self._is_live, self._with_ends = steps, is_live, with_ends
        self._kept: dict[Key, list[str]] = defaultdict(list)
        self._open: dict[Key, _Text] = {}

    def __call__(self, choice: Choice) -> None:
        """Add one step of one sample; print every sample whose turn it is."""
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
        self._print()

    def _print(self) -> None:
        while self._order:
            kept = self._kept[self._order[0]]
            is_done = kept[-1:] == [_DONE]
            if kept and (is_done or self._is_live):
                self._write("".join(kept[: -1 if is_done else None]))
                kept.clear()
            if not is_done:
                return
            del self._order[0]


_DONE = "\0"  # after the last piece of a sample; no piece equals it


class _Text:
    """The growing text of a sample; a character is added once all its bytes are there."""

    def __init__(self, tokenizer: BPETokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pieces: list[str] = []
        self.count, self.log_prob = 0, 0.0

    def add(self, token: int, log_prob: float, *, is_end: bool) -> str:
        """Add a token, and return the characters that it completes."""
        self.count += 1
        self.log_prob += log_prob
        data = b"" if is_end else self._tokenizer.data(token)
        self._pieces.append(readable(self._decoder.decode(data)))
        return self._pieces[-1]

    def rest(self) -> str:
        """Return a replacement character if the last character is incomplete, otherwise ""."""
        self._pieces.append(readable(self._decoder.decode(b"", final=True)))
        return self._pieces[-1]

    def whole(self) -> str:
        """Return the whole text."""
        self.rest()
        return "".join(self._pieces)
