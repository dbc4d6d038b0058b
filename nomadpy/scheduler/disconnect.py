"""Allocations whose node is out of reach, by the ``disconnect`` block of their group.

An allocation with ``lost_after`` is ``unknown`` for so long before it counts as lost. Meanwhile another one takes its
place, unless ``replace`` is false. When the node returns in time, ``reconcile`` decides which of the two stays. With
``stop_on_client_after`` the node stops the allocation by itself, and nothing is placed in its stead before that must
have happened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nomadpy.model.alloc import COMPLETE, FAILED, LOST, RUN, RUNNING, UNKNOWN, Allocation, TaskState
from nomadpy.model.job import DisconnectStrategy, Job, Task
from nomadpy.model.time import SECOND

_KILL_TIMEOUT_NS = 5 * SECOND


def strategy_of(alloc: Allocation) -> DisconnectStrategy | None:
    """What the job version that the allocation was made from says about nodes out of reach."""
    group = alloc.job.group(alloc.task_group) if alloc.job is not None else None
    return group.disconnection() if group is not None else None


def lost_after_ns(alloc: Allocation) -> int:
    """How long the allocation may be out of reach; 0 when it is lost at once."""
    strategy = strategy_of(alloc)
    return strategy.lost_after_ns if strategy is not None else 0


def is_replaced(alloc: Allocation) -> bool:
    """Whether another allocation takes its place while it is out of reach."""
    strategy = strategy_of(alloc)
    return strategy is None or strategy.replace_ is not False


def unknown_since_ns(alloc: Allocation) -> int:
    """When it was last lost sight of; 0 when never."""
    return max((state.time_ns for state in alloc.alloc_states if state.value == UNKNOWN), default=0)


def needs_reconnect(alloc: Allocation) -> bool:
    """Whether its node reports it again and nobody has decided yet whether it stays."""
    states = [state for state in alloc.alloc_states if state.field_ == 0]
    return bool(states) and states[-1].value == UNKNOWN and alloc.client_status in (RUNNING, FAILED)


def expires_ns(alloc: Allocation, now_ns: int) -> int:
    """When an allocation that is out of reach counts as lost; ``now_ns`` when it does at once."""
    since = unknown_since_ns(alloc) if alloc.client_status == UNKNOWN else 0
    return (since or now_ns) + lost_after_ns(alloc)


def has_expired(alloc: Allocation, now_ns: int) -> bool:
    """Whether it has been out of reach for longer than it may."""
    since = unknown_since_ns(alloc) if alloc.client_status == UNKNOWN else 0
    return since > 0 and 0 < lost_after_ns(alloc) <= now_ns - since


def may_return(alloc: Allocation, now_ns: int) -> bool:
    """Whether it is wanted and may be out of reach for some time yet: its node is then not down, only disconnected."""
    if alloc.terminal() or alloc.desired_status != RUN or lost_after_ns(alloc) <= 0:
        return False
    return expires_ns(alloc, now_ns) > now_ns


def stopped_by_ns(alloc: Allocation, now_ns: int) -> int:
    """When a node without servers has certainly stopped a lost allocation by itself; 0 when it does not."""
    strategy = strategy_of(alloc)
    if strategy is None or not strategy.stop_on_client_after_ns or alloc.job is None:
        return 0
    group = alloc.job.group(alloc.task_group)
    assert group is not None
    kill_ns = max((task.kill_timeout_ns or 0 for task in group.tasks), default=0)
    lost = [state.time_ns for state in alloc.alloc_states if state.value == LOST]
    return (lost[0] if lost else now_ns) + strategy.stop_on_client_after_ns + max(kill_ns, _KILL_TIMEOUT_NS)


# --- after the return -------------------------------------------------------------------------------------------------


def replacements_of(alloc: Allocation, by_id: Mapping[str, Allocation]) -> list[Allocation]:
    """Those that followed the allocation, one after another, as far as they are wanted."""
    found, seen = [], {alloc.id}
    following = alloc.next_allocation
    while following in by_id and following not in seen:
        seen.add(following)
        found.append(by_id[following])
        following = by_id[following].next_allocation
    return [each for each in found if not each.server_terminal()]


def is_outdated(alloc: Allocation, job: Job) -> bool:
    """Whether nobody wants a returned allocation as it is, replaced or not."""
    wishes, old = alloc.desired_transition, alloc.job
    return (
        alloc.desired_status != RUN
        or bool(wishes.migrate or wishes.reschedule or wishes.force_reschedule)
        or old is None
        or old.version < job.version
        or old.create_index < job.create_index
    )


def keeps_original(original: Allocation, replacement: Allocation) -> bool:
    """Whether the returned allocation stays and its replacement goes."""
    old, new = original.job, replacement.job
    if old is not None and new is not None and (new.version > old.version or new.create_index > old.create_index):
        return False
    if replacement.client_status == COMPLETE and new is not None and new.type == "batch":
        return False  # The work is done.
    if replacement.client_status in (UNKNOWN, FAILED):
        return True
    strategy = strategy_of(original)
    match strategy.reconcile if strategy is not None else "":
        case "keep_original":
            return True
        case "keep_replacement":
            return False
        case "longest_running":
            return _ran_longer(original, replacement)
    return _scores_better(original, replacement)


def _scores_better(original: Allocation, replacement: Allocation) -> bool:
    """The replacement needs a better place, and must not be the only one of the two that does not run."""
    mine, other = _best_score(original), _best_score(replacement)
    if other is None:
        return True
    if mine is not None and other <= mine:
        return True
    return original.client_status == RUNNING and replacement.client_status != RUNNING


def _best_score(alloc: Allocation) -> float | None:
    scores = alloc.metrics.score_meta_data if alloc.metrics is not None else ()
    here = [meta.norm_score for meta in scores if meta.node_id == alloc.node_id]
    every = here or [meta.norm_score for meta in scores]
    return max(every, default=None)


def _ran_longer(original: Allocation, replacement: Allocation) -> bool:
    mine, other = _started_ns(original), _started_ns(replacement)
    if mine and other and mine != other:
        return mine < other
    return _scores_better(original, replacement)


def _started_ns(alloc: Allocation) -> int:
    """When the leader task, or the oldest one of the main tasks, began its present run; 0 when that is not known."""
    group = alloc.job.group(alloc.task_group) if alloc.job is not None else None
    if group is None:
        return 0
    leaders = [task for task in group.tasks if task.leader]
    main = leaders or [task for task in group.tasks if task.lifecycle is None]
    return min(_starts(main, alloc.task_states), default=0)


def _starts(tasks: Iterable[Task], states: Mapping[str, TaskState]) -> list[int]:
    known = [states[task.name] for task in tasks if task.name in states]
    starts = [max(state.started_at_ns, state.last_restart_ns) for state in known]
    return [start for start in starts if start]
