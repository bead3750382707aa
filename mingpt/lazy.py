"""Packages whose names are imported when they are first used (PEP 562).

PyTorch takes a second to import: a command's --help, and a mistyped option,
should not wait for it. And whoever imports one submodule gets no other.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping


def public_name(package: str, home: Mapping[str, str], name: str) -> object:
    """Return what `name` of a package stands for: the `__getattr__` of its __init__.py.

    Args:
        package: its `__name__`.
        home: public name -> the module that defines it.

    Raises:
        AttributeError: the package has no such name.
    """
    if name not in home:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home[name]), name)
