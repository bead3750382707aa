"""Show results as pages in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from patching.page.show import Shown


class HasPage:
    """A result that has a page: sweeps, explanations, continuations, studies."""

    __slots__ = ()

    def show(self, height: int = 760) -> Shown:
        """Return the result as a page for a notebook, in which cells and tokens can be clicked.

        Args:
            height: of its frame, in pixels.

        Raises:
            DrawingError: the package vl-convert-python is missing.
            StudyError, ResultError: a study whose summary cannot be made.
        """
        from patching.page.show import show  # not at the top: a page knows every result

        return show(self, height)  # type: ignore[arg-type]
