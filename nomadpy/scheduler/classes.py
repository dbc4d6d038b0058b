"""What an allocation of a service or batch job is, seen from its job: one class for each, the first rule that holds.

Whether what is over has to be placed anew is not asked here (``reschedule``).
"""

from __future__ import annotations

from enum import Enum

from nomadpy.model.alloc import FAILED, PENDING, RUN, RUNNING, UNKNOWN, Allocation
from nomadpy.model.node import DISCONNECTED, DOWN, Node
from nomadpy.scheduler.disconnect import has_expired, is_replaced, lost_after_ns, needs_reconnect


class Class(Enum):
    """What is to become of it, its job's wishes aside."""

    KEPT = "kept"
    OVER = "over"
    MIGRATING = "migrating"
    LOST = "lost"
    DISCONNECTING = "disconnecting"  # runs, as far as anybody knows, on a node that is out of reach
    AWAY = "away"  # the same, and is known as such
    RECONNECTING = "reconnecting"
    IGNORED = "ignored"


def classify(alloc: Allocation, node: Node | None, now_ns: int) -> Class:
    """The class of an allocation. ``node`` is None when it was purged."""
    back = needs_reconnect(alloc)
    if back and alloc.client_status == FAILED:
        return Class.RECONNECTING if alloc.desired_status == RUN else Class.IGNORED
    if alloc.terminal():
        moves = is_canary(alloc) and alloc.desired_transition.migrate and not alloc.server_terminal()
        return Class.MIGRATING if moves else Class.OVER
    if has_expired(alloc, now_ns):
        return Class.LOST
    if node is None:
        return Class.LOST
    if node.status == DISCONNECTED:
        return _disconnected(alloc)
    if node.status == DOWN:
        return _down(alloc)
    if alloc.client_status == UNKNOWN:
        return Class.AWAY
    if alloc.desired_transition.migrate:
        return Class.MIGRATING
    return Class.RECONNECTING if back else Class.KEPT


def _disconnected(alloc: Allocation) -> Class:
    if alloc.client_status == UNKNOWN:
        return Class.AWAY
    if alloc.client_status == PENDING or lost_after_ns(alloc) <= 0:
        return Class.LOST
    return Class.DISCONNECTING


def _down(alloc: Allocation) -> Class:
    """Without a replacement the allocation is waited for, whatever became of its node."""
    if not is_replaced(alloc):
        if alloc.client_status == UNKNOWN:
            return Class.AWAY
        if alloc.client_status == RUNNING:
            return Class.DISCONNECTING
    return Class.LOST


def is_canary(alloc: Allocation) -> bool:
    """Whether it was placed to try out a version that nobody has promoted yet."""
    return alloc.deployment_status is not None and alloc.deployment_status.canary
