"""Start a command: watch for signals first, then import the command, which takes longer.

The installed commands (pyproject.toml) and those of scripts/ call these functions.
"""

from __future__ import annotations

from importlib import import_module

from patching.interrupts import run_watched


def patch() -> int:
    """Run mingpt-patch and return its exit code."""
    return _start("patch")


def explain() -> int:
    """Run mingpt-explain and return its exit code."""
    return _start("explain")


def generate() -> int:
    """Run mingpt-generate and return its exit code."""
    return _start("generate")


def tokens() -> int:
    """Run mingpt-tokens and return its exit code."""
    return _start("tokens")


def fetch() -> int:
    """Run mingpt-fetch and return its exit code."""
    return _start("fetch")


def verify() -> int:
    """Run mingpt-verify and return its exit code."""
    return _start("verify")


def train() -> int:
    """Run mingpt-train and return its exit code."""
    return _start("train")


def embeddings() -> int:
    """Run mingpt-embeddings and return its exit code."""
    return _start("embeddings")


def study() -> int:
    """Run mingpt-study and return its exit code."""
    return _start("study")


def paths() -> int:
    """Run mingpt-paths and return its exit code."""
    return _start("paths")


def live() -> int:
    """Run mingpt-live and return its exit code."""
    return _start("live")


def _start(name: str) -> int:
    def body() -> int:
        code: int = import_module(f"patching.cli.{name}").main()
        return code

    return run_watched(f"mingpt-{name}", body, is_process=True)
