"""Which of many values are there for the first time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def first_of_each(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each of these values, of shape (n,), is the first of its kind."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    is_first = np.ones(len(values), np.bool_)
    is_first[order[1:]] = ordered[1:] != ordered[:-1]
    return is_first
