"""A folder to hand in: the figures of a sweep, its tables, its numbers, and a caption.

The caption says what was measured and how; the tables are in Markdown and in LaTeX.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mingpt.files import replacing
from patching.drawing.sweep import check_drawable, draw_heatmaps
from patching.next_tokens import NextTokens
from patching.prompts import PromptPair
from patching.sweep.figures import Look, heatmaps
from patching.sweep.put import ABLATIONS
from patching.sweep.result import SweepResult
from patching.sweep.words import experiment_words, put_notes, put_words, run_names
from patching.text import SPACE, counted, escaped, model_label, visible

STEM = "sweep"  # of the folder's files
MOST_TABLE_COLUMNS = 40  # of cells: a wider table fits no page
LATIN_END = 0x180  # the letters of Latin-1 and Latin Extended-A
QUOTES = "\u201c\u201d\u2018\u2019\u2013\u2014"
LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", SPACE: r"\textvisiblespace{}",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table of texts with a title."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [self.head, tuple("---" for _ in self.head), *self.rows]
        return "\n".join(
            [f"**{_markdown(self.title)}**", "", *(f"| {' | '.join(map(_markdown, line))} |"
                                                   for line in lines)]
        )  # fmt: skip

    def latex(self) -> str:
        """Return the table in LaTeX, without packages."""
        lines = [
            r"\begin{table}[ht]", r"\centering", rf"\caption{{{latex(self.title)}}}",
            rf"\begin{{tabular}}{{{'l' * len(self.head)}}}", r"\hline", _latex_row(self.head),
            r"\hline", *map(_latex_row, self.rows), r"\hline", r"\end{tabular}", r"\end{table}",
        ]  # fmt: skip
        return "\n".join(lines)


def latex(text: str) -> str:
    """Return a text that LaTeX shows as it is: special characters and rare ones are escaped.

    Latin letters stay, which LaTeX reads as UTF-8.
    """
    return "".join(LATEX.get(char) or _latex_character(char) for char in text)


def _latex_character(char: str) -> str:
    if char.isascii() or (char.isalpha() and ord(char) < LATIN_END) or char in QUOTES:
        return char
    return r"\textbackslash{}" + char.encode("unicode_escape").decode("ascii")[1:]


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(latex, cells)) + r" \\"


def _markdown(text: str) -> str:
    """Return a text that Markdown shows as it is, also within a row of a table."""
    for char in ("\\", "|", "*", "_", "`", "<", ">", "[", "]", "#", "$"):
        text = text.replace(char, f"\\{char}")
    return text


# --------------------------------------------------------------------- what it says


def caption(result: SweepResult, metric: str) -> str:
    """Return the caption of a metric's figure: what a cell is, what its colours mean."""
    base, source = run_names(result)
    found, pair = result.metrics[metric], result.pair
    across = "token" if result.axes[-1] == "position" else "head"
    method = ABLATIONS.get(result.put, "Activation patching")
    if result.patches is not None:
        done = f"the caller's patches {result.patches}() are put into the {base} run"
    elif result.is_approximate:
        method, how = result.estimate_words
        done = (
            f"the effect of putting {result.site} of the {source} run into the {base} run is"
            f" estimated from gradients ({how})"
        )
    else:
        done = f"{result.site} of the {source} run is put into the {base} run"
        if result.put == "zero":
            done = f"{result.site} of the {base} run is set to zero"
        elif result.put in ABLATIONS:
            put_in = put_words(result.put, result.put_from)
            by = "that of " if result.put == "resample" else ""
            done = f"{result.site} of the {base} run is replaced by {by}{put_in}"
        done += f", {result.window} layers at once" if result.window > 1 else ""
    each = {"token": "one layer and one token", "head": "one head, at all positions at once"}[
        across
    ]
    if result.values.ndim == 3:
        each = "one head at one token"
    said = put_notes(result.put, result.put_from)
    prompts = "; ".join(
        f"{run} prompt: \u201c{getattr(pair, f'{run}_text')}\u201d" for run in pair.runs
    )
    return (
        f"{method} in {model_label(result.model_name)}. In each cell, {done}, at"
        f" {each}; the cell shows {result.captions[metric]}. Without a patch it is"
        f" {' and '.join(f'{getattr(found, run):z.4g} in the {run}' for run in result.runs)} run."
        f" {prompts[0].upper()}{prompts[1:]}."
        f" {counted(result.cells, 'cell')}"
        f"{' (those that are hatched were not patched)' if _has_gaps(result) else ''}."
        + "".join(f" Note: {note}." for note in result.notes if note not in said)
    )


def _has_gaps(result: SweepResult) -> bool:
    return bool(np.isnan(result.values).any())


def tables(result: SweepResult) -> list[Table]:
    """Return the tables: both prompts' tokens, the likeliest next tokens, each metric's cells."""
    found = [_tokens(result.pair)]
    for run in ("clean", "corrupt"):
        scores = getattr(result, f"{run}_next")
        if scores is not None:
            found.append(_next_tokens(run, scores))
    for name in result.metrics:
        found += _cells(result, name)
    return found


def _tokens(pair: PromptPair) -> Table:
    if not pair.has_corrupt:
        alone = enumerate(zip(pair.clean_ids, pair.clean_tokens, strict=True))
        return Table(
            "Tokens of the prompt",
            ("position", "id", "token"),
            tuple((str(position), str(a), visible(x)) for position, (a, x) in alone),
        )
    rows = zip(
        pair.clean_ids, pair.clean_tokens, pair.corrupt_ids, pair.corrupt_tokens, strict=True
    )
    return Table(
        "Tokens of both prompts (a star where they differ)",
        ("", "position", "id", "clean", "id", "corrupt"),
        tuple(
            ("*" if a != b else "", str(position), str(a), visible(x), str(b), visible(y))
            for position, (a, x, b, y) in enumerate(rows)
        ),
    )


def _next_tokens(run: str, scores: NextTokens) -> Table:
    named = [("", one) for one in scores.top]
    named += [("target", one) for one in scores.target] + [("foil", one) for one in scores.foil]
    return Table(
        f"The likeliest next tokens of the {run} prompt, the target and the foil",
        ("", "rank", "id", "token", "logit", "probability"),
        tuple(
            (name, str(one.rank), str(one.id), visible(one.token), f"{one.logit:.4f}",
             f"{one.probability:.3g}")
            for name, one in named
        ),
    )  # fmt: skip


def _cells(result: SweepResult, metric: str) -> list[Table]:
    """Return a table of layers by columns, one for each head that is swept by position."""
    values = result.metrics[metric].values
    grids = [("", values)] if values.ndim == 2 else [
        (f", head {head}", values[:, head]) for head in range(values.shape[1])]  # fmt: skip
    if values.shape[-1] > MOST_TABLE_COLUMNS:
        return []
    across = result.axes[-1]
    return [
        Table(
            f"{result.captions[metric]}{name}, by layer and {across}",
            ("layer", *map(str, range(grid.shape[1]))),
            tuple(
                (str(layer), *("" if np.isnan(cell) else f"{cell:z.3f}" for cell in row))
                for layer, row in enumerate(grid)
            ),
        )
        for name, grid in grids
        if np.isfinite(grid).any()
    ]


# --------------------------------------------------------------------- the folder


def check_folder(result: SweepResult, look: Look) -> None:
    """Raise DrawingError if a figure could not be drawn, before a file is written."""
    for metric in result.metrics:
        check_drawable(heatmaps(result, metric, look=look))


def write_folder(
    result: SweepResult, folder: str | Path, *, command: str = "", look: Look | None = None
) -> list[Path]:
    """Write the folder to hand in; return the paths of its files.

    It gets report.md (figure, caption, tables, command, versions), tables.tex, a figure of each
    metric as PNG and SVG, and the numbers as .npz and .json.

    Args:
        folder: created if it is not there; files of these names are replaced.
        command: the command line that repeats the sweep; "" leaves it out.
        look: of the figures.

    Raises:
        DrawingError: a figure cannot be drawn as `look` asks.
    """
    folder, look = Path(folder), look or Look()
    check_folder(result, look)
    paths = list(result.save(folder / STEM))
    figures = []
    for metric in result.metrics:
        plot = heatmaps(result, metric, look=look)
        for suffix in ("png", "svg"):
            figures.append(folder / f"{STEM}-{metric}.{suffix}")
            draw_heatmaps(plot, figures[-1])
    found = tables(result)
    texts = {
        "report.md": _report(result, found, command),
        "tables.tex": "\n\n".join(table.latex() for table in found) + "\n",
    }
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [*(folder / name for name in texts), *figures, *paths]


def _report(result: SweepResult, found: Sequence[Table], command: str) -> str:
    done = experiment_words(result, result.site)
    parts = [f"# {_markdown(escaped(f'{done}: {result.pair.clean_text}'))}"]
    for metric in result.metrics:
        parts += [
            f"![heatmap]({STEM}-{metric}.png)",
            f"*Figure.* {_markdown(escaped(caption(result, metric)))}",
        ]
    parts += [table.markdown() for table in found]
    parts.append("## How to repeat it")
    if command:
        parts.append(f"    {escaped(command)}")
    versions = ", ".join(f"{name} {value}" for name, value in result.versions.items())
    parts.append(
        _markdown(
            f"{versions}. Weights: SHA-256 {result.checksum}. Created {result.created}. The numbers"
            f" are in {STEM}.npz and {STEM}.json."
        )
    )
    return "\n\n".join(parts) + "\n"
