"""The numbers in the names of allocations: the lowest free ones are given out first."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from nomadpy.state.view import IntColumn


def free_indexes(taken: Iterable[int] | IntColumn, count: int) -> IntColumn:
    """The ``count`` lowest numbers that are not taken, in order.

    >>> free_indexes([0, 2, 3], 3).tolist()
    [1, 4, 5]
    """
    used: IntColumn = taken if isinstance(taken, np.ndarray) else np.fromiter(taken, dtype=np.int64)
    free = np.ones(len(used) + count, dtype=np.bool_)
    free[used[used < len(free)]] = False
    return np.flatnonzero(free)[:count]
