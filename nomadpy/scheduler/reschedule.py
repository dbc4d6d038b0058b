"""When a failed allocation is placed anew: now, later, or never."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from nomadpy.model.alloc import Allocation, RescheduleEvent, RescheduleTracker
from nomadpy.model.job import ReschedulePolicy
from nomadpy.model.time import SECOND

NO_PLACEMENT = "no placement"
"""The tracker's note that a reschedule was due and no node was found."""

_SOON_NS = SECOND
_WINDOW_NS = 5 * SECOND
_UNLIMITED_EVENTS_KEPT = 5


class Later(msgspec.Struct, frozen=True):
    """A failed allocation that waits for its delay."""

    due_ns: int
    alloc: Allocation


def policy_of(alloc: Allocation) -> ReschedulePolicy | None:
    """The policy of the job version that the allocation was made from; None when it allows no rescheduling."""
    group = alloc.job.group(alloc.task_group) if alloc.job is not None else None
    policy = group.reschedule_policy if group is not None else None
    if policy is None or not (policy.unlimited or (policy.attempts > 0 and policy.interval_ns > 0)):
        return None
    return policy


def failed_at_ns(alloc: Allocation) -> int:
    """When the allocation ended: its last task's end, else its last change."""
    ends = [state.finished_at_ns for state in alloc.task_states.values()]
    return max(ends, default=0) or alloc.modify_time_ns


def _events(alloc: Allocation) -> tuple[RescheduleEvent, ...]:
    return alloc.reschedule_tracker.events if alloc.reschedule_tracker is not None else ()


def may_reschedule(alloc: Allocation, policy: ReschedulePolicy) -> bool:
    """Whether the policy has an attempt left: those within the interval before the failure count."""
    if policy.unlimited:
        return True
    failed = failed_at_ns(alloc)
    recent = sum(failed - event.reschedule_time_ns < policy.interval_ns for event in _events(alloc))
    return recent < policy.attempts


def delay_ns(alloc: Allocation, policy: ReschedulePolicy) -> int:
    """How long after its end the allocation is placed anew: constant, doubling, or the sum of the last two delays,
    up to a ceiling. An allocation that ran for longer than the ceiling starts again with the first delay."""
    events = _events(alloc)
    if not events:
        return policy.delay_ns
    last = events[-1]
    match policy.delay_function:
        case "exponential":
            delay = last.delay_ns * 2
        case "fibonacci":
            delay = _fibonacci(events, policy)
        case _:
            return policy.delay_ns
    if policy.max_delay_ns <= 0 or delay <= policy.max_delay_ns:
        return delay
    ran_ns = failed_at_ns(alloc) - last.reschedule_time_ns
    return policy.delay_ns if ran_ns > policy.max_delay_ns else policy.max_delay_ns


def _fibonacci(events: tuple[RescheduleEvent, ...], policy: ReschedulePolicy) -> int:
    if len(events) < 2:
        return policy.delay_ns
    before, last = events[-2].delay_ns, events[-1].delay_ns
    if before == policy.max_delay_ns and last == policy.delay_ns:
        return last  # The ceiling was left behind, so the series begins anew.
    return before + last


def due_ns(alloc: Allocation, *, eval_id: str, now_ns: int) -> int | None:
    """When a failed allocation is to be placed anew; 0 for now, None for never. An allocation whose own follow-up
    evaluation runs is due even when the clocks disagree a little."""
    if alloc.desired_transition.force_reschedule:
        return 0
    policy = policy_of(alloc)
    if policy is None or not may_reschedule(alloc, policy):
        return None
    due = failed_at_ns(alloc) + delay_ns(alloc, policy)
    if due - now_ns <= _SOON_NS or (eval_id and alloc.followup_eval_id == eval_id):
        return 0
    return due


def next_tracker(alloc: Allocation, now_ns: int) -> RescheduleTracker:
    """The tracker of the allocation that replaces a failed one."""
    policy = policy_of(alloc)
    kept = _events(alloc)
    if policy is None or policy.unlimited:
        kept = kept[-(_UNLIMITED_EVENTS_KEPT - 1) :]
    else:
        kept = tuple(event for event in kept if now_ns - event.reschedule_time_ns <= policy.interval_ns)
    event = RescheduleEvent(
        reschedule_time_ns=now_ns,
        prev_alloc_id=alloc.id,
        prev_node_id=alloc.node_id,
        delay_ns=delay_ns(alloc, policy) if policy is not None else 0,
    )
    return RescheduleTracker(events=(*kept, event), last_reschedule="ok")


def nodes_to_avoid(alloc: Allocation) -> tuple[str, ...]:
    """The ids of nodes on which the allocation's chain failed."""
    own = (alloc.node_id,) if alloc.client_status == "failed" else ()
    return (*own, *(event.prev_node_id for event in _events(alloc)))


def windows(waiting: Iterable[Later]) -> list[list[Later]]:
    """The waiting allocations in groups that share a follow-up evaluation: due within 5 s of the group's first."""
    groups: list[list[Later]] = []
    for later in sorted(waiting, key=lambda each: (each.due_ns, each.alloc.id)):
        if groups and later.due_ns - groups[-1][0].due_ns < _WINDOW_NS:
            groups[-1].append(later)
        else:
            groups.append([later])
    return groups
