"""Check what a saved result holds: a table says what each field must be.

A check is a function (name, value) that raises FieldError unless the value is what the field
may hold. The functions here make checks; a wing lists one for each of its fields.

Example:
    TABLE = {"site": one_of(SITES), "layers": list_of(whole(0)), "checksum": optional(text)}
    check_fields(fields, TABLE)
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from mingpt.checks import is_real

Check = Callable[[str, Any], None]

LIMIT = 2**63  # whole numbers are below it, as NumPy's and PyTorch's are
# Sums and differences of numbers this many times below a float's largest do not overflow.
HEADROOM = 8


class FieldError(ValueError):
    """A field of a saved result that is missing, or is not what it must be."""


def check_fields(fields: Mapping[str, Any], table: Mapping[str, Check]) -> None:
    """Check every field that the table names.

    Raises:
        FieldError: a field is missing, or is not what the table says.
    """
    for name, check in table.items():
        if name not in fields:
            raise FieldError(f"it has no field {name}")
        check(name, fields[name])


def agree(is_so: bool, names: str) -> None:
    """Raise FieldError, which names the fields, unless `is_so`."""
    if not is_so:
        raise FieldError(f"its fields {names} do not agree")


# --------------------------------------------------------------------- values


def is_a(words: str, test: Callable[[Any], bool]) -> Check:
    """Return a check that a value passes `test`; `words` say in a message what it must be."""

    def check(name: str, value: Any) -> None:
        if not test(value):
            raise FieldError(f"its field {name} is {reprlib.repr(value)}, not {words}")

    return check


text = is_a("a text", lambda value: isinstance(value, str))
flag = is_a("true or false", lambda value: isinstance(value, bool))
number = is_a("a number", is_real)
finite = is_a("a finite number", lambda value: is_real(value) and math.isfinite(value))
dictionary = is_a("a dictionary", lambda value: isinstance(value, dict))


def whole(least: int) -> Check:
    """Return a check for a whole number from `least` to 2**63 - 1."""
    return is_a(
        f"a whole number of at least {least}",
        lambda value: type(value) is int and least <= value < LIMIT,
    )


def one_of(names: Iterable[str]) -> Check:
    """Return a check for one of some names."""
    known = tuple(names)
    return is_a(
        f"one of {', '.join(known)}", lambda value: isinstance(value, str) and value in known
    )


def optional(check: Check) -> Check:
    """Return a check for None, or what `check` accepts."""

    def checked(name: str, value: Any) -> None:
        if value is not None:
            check(name, value)

    return checked


def list_of(check: Check, *, least: int = 0) -> Check:
    """Return a check for a list of at least `least` items that `check` accepts."""
    is_list = is_a(f"a list of at least {least}", lambda value: isinstance(value, list))

    def checked(name: str, value: Any) -> None:
        is_list(name, value)
        if len(value) < least:
            raise FieldError(f"its field {name} has {len(value)} items, not at least {least}")
        for item in value:
            check(name, item)

    return checked


def mapping_of(check: Check) -> Check:
    """Return a check for a dictionary whose values `check` accepts."""

    def checked(name: str, value: Any) -> None:
        dictionary(name, value)
        for key, item in value.items():
            check(f"{name}.{key:.40}", item)

    return checked


def record(table: Mapping[str, Check]) -> Check:
    """Return a check for a dictionary with the fields of a table; it may have others."""

    def checked(name: str, value: Any) -> None:
        dictionary(name, value)
        check_fields(
            {f"{name}.{key}": item for key, item in value.items()},
            {f"{name}.{key}": check for key, check in table.items()},
        )

    return checked


# --------------------------------------------------------------------- arrays


def _of_kind(kinds: str, words: str, test: Callable[[np.ndarray], bool]) -> Check:
    """Return a check for an array of a NumPy kind; a message gives its type, not its numbers."""

    def check(name: str, value: Any) -> None:
        if not (isinstance(value, np.ndarray) and value.dtype.kind in kinds and test(value)):
            raise FieldError(f"its field {name} does not hold {words}")

    return check


def _is_share(array: np.ndarray) -> np.ndarray:
    return (array > -0.01) & (array < 1.01)  # they are rounded


numbers = _of_kind("f", "numbers", lambda array: True)
finite_numbers = _of_kind("f", "finite numbers", lambda array: bool(np.isfinite(array).all()))
positive_numbers = _of_kind("f", "numbers above 0", lambda array: bool((array > 0).all()))

shares = _of_kind("f", "shares from 0 to 1", lambda array: bool(_is_share(array).all()))
shares_or_nan = _of_kind(  # NaN: a model's numbers overflowed
    "f", "shares from 0 to 1", lambda array: bool((_is_share(array) | np.isnan(array)).all())
)
summable_numbers = _of_kind(
    "f",
    "numbers that are finite and small enough to be added",
    lambda array: bool((np.abs(array) <= np.finfo(array.dtype).max / HEADROOM).all()),
)


def whole_numbers(least: int) -> Check:
    """Return a check for an array of whole numbers of at least `least`."""
    return _of_kind(
        "i", f"whole numbers of at least {least}", lambda array: bool((array >= least).all())
    )


def check_shapes(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, str]) -> dict[str, int]:
    """Check that arrays have the shapes of a table, and that their axes agree.

    Args:
        shapes: name -> its axes: a size ("3"), a letter that has the same size of at least 1
            in every array ("T"), or one more than it ("L+1"). A letter must first occur alone.

    Returns:
        The size of each letter.

    Raises:
        FieldError: an array has another shape.
    """
    sizes: dict[str, int] = {}
    for name, axes in shapes.items():
        found, expected = arrays[name].shape, axes.split()
        if len(found) == len(expected):
            for size, axis in zip(found, expected, strict=True):
                if axis.isalpha() and size >= 1:
                    sizes.setdefault(axis, size)
        known = tuple(_size(axis, sizes) for axis in expected)
        if found != known:
            wanted = ", ".join(
                axis if size is None or axis == str(size) else f"{axis} = {size}"
                for axis, size in zip(expected, known, strict=True)
            )
            raise FieldError(f"its field {name} has the shape {found}, not ({wanted})")
    return sizes


def _size(axis: str, sizes: Mapping[str, int]) -> int | None:
    """Return the size of an axis; None if its letter has none yet."""
    letter, _, more = axis.partition("+")
    if letter.isdigit():
        return int(letter)
    return sizes[letter] + int(more or 0) if letter in sizes else None
