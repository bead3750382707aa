"""Turn a look at embeddings into the plain values of its figures, and draw them."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from patching.drawing.embeddings import Positions, WordMap, draw_positions, draw_words
from patching.embeddings.result import Embeddings
from patching.errors import DrawingError, check_result
from patching.text import model_label

FIGURES = ("positions", "words")


def figures_of(found: Embeddings) -> tuple[str, ...]:
    """Return the names of the figures that there are: a map needs two words."""
    return FIGURES if len(found.ids) > 1 else FIGURES[:1]


def draw_embeddings(
    found: Embeddings,
    path: str | Path | None = None,
    *,
    figure: str = "positions",
    cmap: str | None = None,
    title: str | None = None,
) -> Figure:
    """Draw one figure of a model's embeddings.

    Args:
        path: the file to write; its suffix chooses PNG, SVG or PDF. None writes nothing.
        figure: "positions", similarity and components; "words", a map of the words.
        cmap: a matplotlib colour map, for the similarities.
        title: replaces the figure's own title; notes stay.

    Raises:
        DrawingError: another suffix, no such figure or colour map, or too few words for a map.
    """
    check_result(found, Embeddings, DrawingError)
    if figure not in figures_of(found):
        raise DrawingError(f"no figure {figure!r} here; there are {', '.join(figures_of(found))}")
    model = model_label(found.model_name)
    if figure == "positions":
        own = f"Position embeddings of {model}"
        lines = (own if title is None else title, *found.notes)
        things = Positions(found.cosine, found.components, found.explained, lines)
        return draw_positions(things, path, cmap=cmap)
    own = f"Token embeddings of {model}: {len(found.ids)} words, principal components of them alone"
    lines = (own if title is None else title, *found.notes)
    return draw_words(WordMap(found.tokens, found.word_map, found.word_map_explained, lines), path)
