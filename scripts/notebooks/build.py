"""Build the notebooks, in English and in Spanish, from one list of cells each.

    python scripts/notebooks/build.py           # writes NAME.en.ipynb and NAME.es.ipynb
    python scripts/notebooks/build.py --check   # exit code 1 if one is not current

The code is the same in both languages; only texts differ. Cells are in cells/NAME.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
LANGUAGES = ("en", "es")
NAMES = ("assignment", "why_this_word", "sampling", "own_model", "study")


@dataclass(frozen=True)
class Text:
    """A cell of Markdown, in both languages."""

    en: str
    es: str


@dataclass(frozen=True)
class Code:
    """A cell of code, the same in both languages."""

    source: str


def notebook(name: str, language: str) -> str:
    """Return a notebook as its file holds it, without outputs.

    Args:
        name: one of NAMES.
        language: one of LANGUAGES.
    """
    import nbformat

    v4 = nbformat.v4
    cells = []
    for number, cell in enumerate(import_module(f"cells.{name}").CELLS):
        if isinstance(cell, Code):
            made = v4.new_code_cell(cell.source.strip())
        else:
            made = v4.new_markdown_cell(getattr(cell, language).strip())
        made["id"] = f"{name}-{number}"  # nbformat draws random ones
        cells.append(made)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book = v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.validate(book)
    return nbformat.writes(book) + "\n"


def path_of(name: str, language: str) -> Path:
    """Return the path of a notebook."""
    return FOLDER / f"{name.replace('_', '-')}.{language}.ipynb"


def main(argv: Sequence[str] | None = None) -> int:
    """Write all notebooks, or with --check compare them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args(argv)
    code = 0
    for name in NAMES:
        for language in LANGUAGES:
            path, text = path_of(name, language), notebook(name, language)
            if path.exists() and path.read_text(encoding="utf-8") == text:
                continue
            if arguments.check:
                print(f"{path.name} is not current: run python scripts/notebooks/build.py")
                code = 1
            else:
                path.write_text(text, encoding="utf-8")
                print(f"wrote {path}")
    return code


sys.path.insert(0, str(FOLDER))
# The cells import this module by its name, also when it is run as a script.
sys.modules.setdefault("build", sys.modules[__name__])

if __name__ == "__main__":
    sys.exit(main())
