"""The option --html of several commands, its check, and the page's path and command line."""

from __future__ import annotations

import sys
from pathlib import Path

from click import Option

from patching.text import shell_line


def html_option(what: str) -> Option:
    """Return --html.

    Args:
        what: what can be done on the page.
    """
    return Option(
        ["--html"],
        is_flag=True,
        help=f"also write a page to look at and send, NAME.html: {what}; one file, no network"
        " (needs vl-convert-python)",
    )


def check_html() -> None:
    """Check, before the work, that a page can be written.

    Raises:
        DrawingError: a package is missing.
    """
    from patching.page.report import vega_library

    vega_library()


def html_path(stem: Path) -> Path:
    """Return the path of the page beside a run's other files.

    Args:
        stem: their path without a suffix.
    """
    return stem.with_name(f"{stem.name}.html")


def command_line(command: str) -> str:
    """Return the command line of this process, to be shown on the page."""
    return shell_line([command, *sys.argv[1:]])
