"""The page of a result within a notebook: a frame of its own, cut off from the notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patching.page.escape import as_text
from patching.page.report import html_of, page_of

if TYPE_CHECKING:
    from patching.page.report import Result

HEIGHT = 760  # pixels


class Shown:
    """A page that Jupyter shows as a frame.

    The frame is sandboxed: its script reaches neither the notebook nor a network. The whole
    page, 0.9 MB and more, is saved in the notebook with the cell's output.
    """

    def __init__(self, html: str, height: int = HEIGHT) -> None:
        self.html = html
        self.height = height

    def _repr_html_(self) -> str:
        return (
            f'<iframe sandbox="allow-scripts allow-downloads" srcdoc="{as_text(self.html)}"'
            f' style="width: 100%; height: {self.height}px; border: 0"></iframe>'
        )

    def __repr__(self) -> str:
        return f"a page of {len(self.html):,} characters; Jupyter shows it"


def show(result: Result, height: int = HEIGHT) -> Shown:
    """Return a result's page for a notebook, as `result.show()` does.

    Args:
        height: of the frame, in pixels.

    Raises:
        DrawingError: the package vl-convert-python is missing.
        StudyError, ResultError: a study whose summary cannot be made.
    """
    return Shown(html_of(page_of(result)), height)
