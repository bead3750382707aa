"""The repository's own rules: imports, lengths of files, names of tests."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from helpers import ROOT

PACKAGES = ("mingpt", "patching")
SOURCES = sorted(path for name in ("mingpt", "patching", "scripts")
                 for path in (ROOT / name).rglob("*.py"))  # fmt: skip
LIBRARY = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in PACKAGES]
MOST_LINES = 400  # of a file
MOST_FUNCTION_LINES = 60  # docstring and decorators count
MOST_CORE_FILES = 7

# Path -> why the file is better not split.
LONG_FILES: dict[str, str] = {}
# Path and function -> why the function is better not split.
LONG_FUNCTIONS: dict[str, str] = {}

# --------------------------------------------------------------------- imports


def imported_by(statement: str) -> set[str]:
    """Return the modules that a fresh interpreter has after running a statement."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    return {*done.stdout.split()}


@pytest.mark.slow
def test_the_model_imports_little():
    """Leave out the packages' __init__.py, lazy.py and version.py, which every import loads.

    The __init__.py of a folder inside a package does count: loading it means that
    something in the folder is imported.
    """
    brought = imported_by("import mingpt.model") - imported_by("import torch, mingpt")
    ours = {name for name in brought if name.partition(".")[0] in PACKAGES}
    assert len(ours) <= MOST_CORE_FILES, sorted(ours)
    assert not [name for name in ours if name.startswith(("mingpt.loading", "mingpt.generation"))]
    assert brought.isdisjoint({"requests", "urllib3", "filelock", "huggingface_hub"})


def imports_in(path: Path) -> list[tuple[str, str]]:
    """Return (the place, the module) of every import in a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is relative"
            names = [node.module]
        else:
            continue
        found += [(f"{path.relative_to(ROOT)}:{node.lineno}", name) for name in names]
    return found


def test_our_own_code_imports_from_submodules():
    """`from mingpt import GPT` is for users: it goes through the lazy names."""
    assert [one for path in LIBRARY for one in imports_in(path) if one[1] in PACKAGES] == []


def test_the_packages_import_no_script():
    scripts = {"scripts", *(path.stem for path in (ROOT / "scripts").iterdir())}
    assert {"bench", "benchmark", "builtin_model"} <= scripts
    imported = [one for path in LIBRARY for one in imports_in(path)]
    assert [one for one in imported if one[1].partition(".")[0] in scripts] == []


# --------------------------------------------------------------------- sizes and names


def test_no_file_is_too_long():
    """The list of exceptions is complete, and holds none that is short."""
    lines = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n")
        for path in SOURCES
    }
    assert {path for path, count in lines.items() if count > MOST_LINES} == {*LONG_FILES}


def test_no_function_is_too_long():
    """The list of exceptions is complete, and holds none that is short."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
                if node.end_lineno - first + 1 > MOST_FUNCTION_LINES:
                    found.add(f"{path.relative_to(ROOT)} {node.name}")
    assert found == {*LONG_FUNCTIONS}


def test_names_of_test_files_are_unique():
    """A failure names its file, and a search for the name finds only that file."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert {name for name, times in names.items() if times > 1} == set()


def test_every_test_folder_mirrors_a_folder():
    """tests/mingpt/loading tests mingpt/loading; tests/cost and tests/fuzz test it all."""
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("*.py")}
    for folder in folders - {Path("cost"), Path("fuzz")}:
        assert (ROOT / folder).is_dir(), folder
