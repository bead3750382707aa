"""Import a package's public names when they are first used (PEP 562).

PyTorch takes a second to import; a command's --help and its errors about options
should not wait for it. Importing one submodule then imports no other.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping


def public_name(package: str, home: Mapping[str, str], name: str) -> object:
    """Import and return a public name; a package's `__getattr__` calls this.

    Args:
        package: the package's `__name__`.
        home: public name -> the module that defines it.

    Raises:
        AttributeError: the package has no such name.
    """
    if name not in home:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home[name]), name)
