"""What clients saw of a set of registers, and whether a single copy of each could have answered so.

A register is a job: its value is in its ``Meta``, its version is ``JobModifyIndex``. Each register is judged alone,
since linearizability is local. Answers name places in the log, so the order is mostly known and only has to be compared
with the time (``in_order_of_index``); what leaves the order open is searched, by Wing and Gong's search with Lowe's
memory (Testing for linearizability, 2017).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

WRITE, SWAP, READ = "write", "swap", "read"
DONE, CONFLICT, UNKNOWN, REFUSED = "done", "conflict", "unknown", "refused"
"""How an operation ended. After UNKNOWN it may take effect at any later time, or never; REFUSED never took effect."""


@dataclass(frozen=True)
class Op:
    """One operation. ``index`` is what a done write was told, what a done read saw, and what a swap lost against (0:
    it was not told); ``expected`` is the index that a swap demands. Times are seconds on one clock; ``ended`` counts
    only for ends that are known."""

    key: str
    kind: str
    value: str = ""
    expected: int = 0
    began: float = 0.0
    ended: float = math.inf
    outcome: str = UNKNOWN
    index: int = 0
    place: str = ""


@dataclass(frozen=True)
class Register:
    """The state of one register. ``index`` is -1 after a write that nobody was told the index of."""

    value: str = ""
    index: int = 0


def step(state: Register, op: Op) -> Register | None:
    """The state after the operation, None when it cannot have ended like that in this state."""
    if op.kind == READ:
        if op.value != state.value or (state.index >= 0 and op.index != state.index):
            return None
        return Register(state.value, op.index)
    if op.kind == SWAP:
        matches = state.index in (-1, op.expected)
        if op.outcome == CONFLICT and op.index:
            return (
                Register(state.value, op.index) if state.index in (-1, op.index) and op.index != op.expected else None
            )
        if op.outcome == CONFLICT:
            return None if state.index == op.expected else state
        if not matches:
            return None
    if op.outcome == UNKNOWN:
        return Register(op.value, -1)
    # The log's index only grows.
    return Register(op.value, op.index) if op.index > state.index else None


def linearizable(ops: Sequence[Op]) -> bool:
    """Whether the operations of one register can be put into an order that explains every answer and keeps to the
    time: whatever ended before another began comes before it."""
    resolved = resolve(ops)
    if resolved is None:
        return False
    if any(op.outcome == UNKNOWN or (op.outcome == CONFLICT and not op.index) for op in resolved):
        return search(resolved)
    return in_order_of_index(resolved)


def resolve(ops: Iterable[Op]) -> list[Op] | None:
    """The same history with what can be concluded about unknown ends: a value that was read was written, and what
    nobody ever saw matters only where a swap lost against it. None when a swap lost against a write that nobody began.
    """
    ops = [op for op in ops if _matters(op)]
    seen = {op.value: op.index for op in ops if op.kind == READ}
    happened = [
        replace(op, outcome=DONE, index=seen[op.value], ended=math.inf) if op.outcome == UNKNOWN else op
        for op in ops
        if op.outcome != UNKNOWN or op.value in seen
    ]
    unseen = [op for op in ops if op.outcome == UNKNOWN and op.value not in seen]
    if any(op.outcome == CONFLICT and not op.index for op in ops):
        return [*happened, *unseen]
    told = {op.index for op in happened if op.outcome == DONE}
    phantoms = sorted({op.index for op in happened if op.outcome == CONFLICT} - told)
    if len(phantoms) > len(unseen):
        return None
    since = min((op.began for op in unseen), default=0.0)
    return happened + [Op("", WRITE, f"at {index}", 0, since, math.inf, DONE, index) for index in phantoms]


def in_order_of_index(ops: Iterable[Op]) -> bool:
    """Whether the order of the log, which every operation here names, explains every answer and keeps to the time."""
    state: Register | None = Register()
    latest_beginning = -math.inf
    for op in sorted(ops, key=lambda op: (op.index, op.kind == READ or op.outcome == CONFLICT, op.began)):
        if op.ended < latest_beginning or state is None:
            return False
        latest_beginning = max(latest_beginning, op.began)
        state = step(state, op)
    return state is not None


def search(ops: Sequence[Op]) -> bool:
    """Tries orders, the likely ones first, none twice."""
    ops = sorted((op for op in ops if _matters(op)), key=lambda op: op.began)
    must = sum(1 << number for number, op in enumerate(ops) if op.outcome != UNKNOWN)
    start = (0, Register())
    seen, stack = {start}, [start]
    while stack:
        done, state = stack.pop()
        if done & must == must:
            return True
        for number in reversed(_next(ops, done)):
            after = step(state, ops[number])
            if after is not None and (there := (done | 1 << number, after)) not in seen:
                seen.add(there)
                stack.append(there)
    return False


def _matters(op: Op) -> bool:
    return op.outcome != REFUSED and not (op.kind == READ and op.outcome == UNKNOWN)


def _next(ops: Sequence[Op], done: int) -> list[int]:
    """Operations that may come next: not done, and none that is not done ended before they began. Those whose end is
    known come first, so that the search tries the likely order first."""
    found: list[int] = []
    limit = math.inf
    # Ops are sorted by their beginning: beyond the first one that began after the limit nobody may come.
    low = ((done + 1) & ~done).bit_length() - 1
    for number in range(low, len(ops)):
        op = ops[number]
        if op.began > limit:
            break
        if not done >> number & 1:
            found.append(number)
            if op.outcome != UNKNOWN:
                limit = min(limit, op.ended)
    found = [number for number in found if ops[number].began <= limit]
    return sorted(found, key=lambda number: (ops[number].outcome == UNKNOWN, ops[number].ended))


@dataclass
class History:
    """Operations of many threads."""

    ops: list[Op] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, op: Op) -> None:
        """Notes an operation that ended, or was given up."""
        with self._lock:
            self.ops.append(op if op.outcome not in (UNKNOWN,) else replace(op, ended=math.inf))

    def of(self, outcome: str, *kinds: str) -> list[Op]:
        """Those that ended so."""
        with self._lock:
            return [op for op in self.ops if op.outcome == outcome and (not kinds or op.kind in kinds)]

    def broken_keys(self) -> list[str]:
        """Registers whose history nothing explains."""
        by_key: dict[str, list[Op]] = {}
        for op in self.ops:
            by_key.setdefault(op.key, []).append(op)
        return sorted(key for key, ops in by_key.items() if not linearizable(ops))


def indexes_are_one_order(ops: Iterable[Op]) -> bool:
    """Whether no two acknowledged writes, of whatever register, were given the same place in the log, and none that
    began after another ended got an earlier one."""
    done = sorted((op for op in ops if op.outcome == DONE and op.kind != READ), key=lambda op: op.index)
    if len({op.index for op in done}) != len(done):
        return False
    latest_beginning = -math.inf
    for op in done:
        if op.ended < latest_beginning:
            return False
        latest_beginning = max(latest_beginning, op.began)
    return True
