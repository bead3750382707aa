"""Results as tidy pandas tables, where pandas is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from patching.errors import ResultError

if TYPE_CHECKING:
    import pandas


def frame(columns: Mapping[str, Sequence[Any] | np.ndarray]) -> pandas.DataFrame:
    """Return a pandas table of equally long columns.

    Args:
        columns: name of the column -> its values.

    Raises:
        ResultError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise ResultError("to_frame() needs pandas: pip install pandas") from None
    return pandas.DataFrame(dict(columns))


def tidy(values: np.ndarray, axes: Sequence[str]) -> dict[str, np.ndarray]:
    """Return one column of indices for each axis of `values`, a row for each number.

    Example:
        tidy(np.zeros((2, 3)), ("layer", "position"))
        # {"layer": [0 0 0 1 1 1], "position": [0 1 2 0 1 2]}
    """
    return dict(zip(axes, (index.ravel() for index in np.indices(values.shape)), strict=True))
