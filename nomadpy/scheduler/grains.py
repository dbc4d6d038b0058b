"""The one formula for scores, in whole numbers.

Every scorer's value is rounded to grains of 2^-34, and the mean of n scorers (n at most 6) is kept as its sum times
60/n: a whole number again. Sums, means and comparisons are then exact, however and in whatever order they are worked
out, for one node, for all, or for many allocations ahead. Equal nodes get equal scores, and ties are the normal case:
a second way to compute the same number would break them at random. Whole numbers up to 2^53 are exact in floats, which
is how numpy holds them here; a scorer beyond ±4096 counts as that, and crowding beyond 255.

Source: BestFit v3 (Google's cell packing) as Nomad uses it; the final score is the mean of the scorers that had
something to say.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nomadpy.model.node import SCHEDULER_ALGORITHMS
from nomadpy.scheduler.facts import LOG2_10
from nomadpy.state.view import IntColumn

FloatColumn = npt.NDArray[np.float64]

BINPACK, SPREAD, BALANCED = ALGORITHMS = SCHEDULER_ALGORITHMS

GRAIN = float(1 << 34)
PARTS = 60
UNIT = GRAIN * PARTS  # the rank of a final score of 1
_LARGEST = 4096 * GRAIN
_MOST_CROWDED = 255.0
_POWERS_KEPT, _POWERS_LEAST = 1 << 18, 64  # of all scales together, and of each
_MAX_FIT = 18.0
_FIT = GRAIN / _MAX_FIT
_BALANCE = 3.0  # chosen with scripts/bench_packing among 0.5 … 4; keys in ``cells`` have room for up to 4
_GAP = _BALANCE * GRAIN / LOG2_10


def to_grains(values: FloatColumn) -> FloatColumn:
    """Scorer values in grains."""
    whole: FloatColumn = np.rint(values * GRAIN)
    return np.clip(whole, -_LARGEST, _LARGEST, out=whole)


def grains_of(value: float) -> int:
    """One scorer value in grains."""
    value *= GRAIN
    if -_LARGEST <= value <= _LARGEST:
        return round(value)
    return int(_LARGEST) if value > 0 else -int(_LARGEST)


def fit(algorithm: str, cpu_left: Any, memory_left: Any, cpu_scale: Any, memory_scale: Any) -> FloatColumn:
    """The grains of the fit scorer where so much is left after the allocation; ``exp2(left · scale)`` is 10 to the free
    share. ``binpack``: the fuller the better; ``spread``: the emptier the better; ``balanced``: as binpack, less three
    times the difference between the free shares of cpu and memory, so that no node runs out of one with much of the
    other left.
    """
    cpu: FloatColumn = cpu_left * cpu_scale
    memory: FloatColumn = memory_left * memory_scale
    gap: FloatColumn | None = np.abs(cpu - memory) if algorithm == BALANCED else None
    load: FloatColumn = np.exp2(cpu, out=cpu)
    load += np.exp2(memory, out=memory)
    raw: FloatColumn
    if algorithm == SPREAD:
        raw = np.subtract(load, 2.0, out=load)
    else:
        raw = np.subtract(20.0, load, out=load)
    np.maximum(raw, 0.0, out=raw)
    np.minimum(raw, _MAX_FIT, out=raw)
    raw *= _FIT
    if gap is not None:
        gap *= _GAP
        raw -= gap
    return np.rint(raw, out=raw)


def fit_one(algorithm: str, cpu_left: int, memory_left: int, cpu_scale: float, memory_scale: float) -> int:
    """``fit`` of a single node, to the same bit."""
    cpu, memory = cpu_left * cpu_scale, memory_left * memory_scale
    return fit_of(algorithm, float(np.exp2(cpu)) + float(np.exp2(memory)), cpu - memory)


def fit_of(algorithm: str, load: float, gap: float) -> int:
    """``fit_one`` from the sum of both powers, and the difference of their exponents."""
    raw = load - 2.0 if algorithm == SPREAD else 20.0 - load
    if raw < 0.0:
        raw = 0.0
    elif raw > _MAX_FIT:
        raw = _MAX_FIT
    raw *= _FIT
    if algorithm == BALANCED:
        raw -= abs(gap) * _GAP
    return round(raw)


class Powers(dict[int, float]):
    """``exp2(left · scale)`` by what is left, remembered for one scale: what nodes have left is seldom an odd
    number."""

    def __init__(self, scale: float, most: int) -> None:
        super().__init__()
        self._scale, self._most = scale, most

    def __missing__(self, left: int) -> float:
        if len(self) >= self._most:
            self.clear()
        value = self[left] = float(np.exp2(left * self._scale))
        return value


class Scales:
    """The scales of the nodes' cpu and memory by number, and their powers."""

    def __init__(self, cpu: FloatColumn, memory: FloatColumn) -> None:
        self.cpu: list[float] = cpu.tolist()
        self.memory: list[float] = memory.tolist()
        every = {*self.cpu, *self.memory}
        most = max(_POWERS_KEPT // max(len(every), 1), _POWERS_LEAST)
        known = {scale: Powers(scale, most) for scale in every}
        self.cpu_powers = [known[scale] for scale in self.cpu]
        self.memory_powers = [known[scale] for scale in self.memory]


def parts(scorers: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    """What the sum of so many scorers is multiplied with to be the rank of their mean."""
    return PARTS / scorers


def crowding(held: int, desired: float) -> int:
    """The grains that job anti-affinity takes off a node that holds so many of the group, if any."""
    return round(min((held + 1) / desired, _MOST_CROWDED) * GRAIN)


def crowdings(held: IntColumn, desired: float) -> FloatColumn:
    """``crowding`` of many nodes, to the same bit; 0 where none is held."""
    share: FloatColumn = np.minimum((held + 1) / desired, _MOST_CROWDED)
    share *= GRAIN
    np.rint(share, out=share)
    share[held <= 0] = 0.0
    return share
