"""What should change about a group's allocations, told as slowly and plainly as possible.

Written from the rules alone, one allocation and one question at a time; it shares no code with the scheduler. It knows
groups without an update strategy, so everything may change at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nomadpy.model.alloc import Allocation
from nomadpy.model.job import Job, TaskGroup
from nomadpy.model.time import SECOND


@dataclass
class Answer:
    """Ids of allocations by what happens to them, and how many new ones there are for each reason."""

    stop: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    in_place: set[str] = field(default_factory=set)
    update: set[str] = field(default_factory=set)
    migrate: set[str] = field(default_factory=set)
    reschedule: set[str] = field(default_factory=set)
    later: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    returned: set[str] = field(default_factory=set)
    substitute: set[str] = field(default_factory=set)  # another one takes its place while it is out of reach
    replace_lost: set[str] = field(default_factory=set)
    fresh: int = 0


ROWS = (
    # (the spec's number, what has to hold, what the allocation then is)
    ("1", lambda a, n: a.back and a.client == "failed" and a.desired == "run", "reconnecting"),
    ("7", lambda a, n: a.back and a.client == "failed", "ignored"),
    ("4", lambda a, n: a.over and not a.unwanted and a.canary and a.migrate, "migrating"),
    ("2, 3, 5", lambda a, n: a.over, "over"),
    ("6", lambda a, n: a.client == "unknown" and a.expired, "lost"),
    ("15", lambda a, n: n == "gone", "lost"),
    ("8", lambda a, n: n == "disconnected" and a.client == "unknown", "away"),
    ("9", lambda a, n: n == "disconnected" and a.client == "pending", "lost"),
    ("10", lambda a, n: n == "disconnected" and not a.lost_after, "lost"),
    ("11", lambda a, n: n == "disconnected", "disconnecting"),
    ("16", lambda a, n: n == "down" and not a.replaced and a.client == "unknown", "away"),
    ("17", lambda a, n: n == "down" and not a.replaced and a.client == "running", "disconnecting"),
    ("18", lambda a, n: n == "down", "lost"),
    # Its node is fine again, but has not said yet what became of it.
    ("-", lambda a, n: a.client == "unknown", "away"),
    # After the node's own trouble, because what is lost can tell nobody that it stopped.
    ("12", lambda a, n: a.migrate, "migrating"),
    ("13", lambda a, n: a.back, "reconnecting"),
    ("14", lambda a, n: True, "kept"),
)


class Plain:
    """An allocation as the rules speak of it."""

    def __init__(self, alloc: Allocation, now_ns: int) -> None:
        group = alloc.job.group(alloc.task_group) if alloc.job is not None else None
        disconnect = group.disconnect if group is not None else None
        self.alloc = alloc
        self.client, self.desired = alloc.client_status, alloc.desired_status
        self.unwanted = alloc.desired_status in ("stop", "evict")
        self.ended = alloc.client_status in ("complete", "failed", "lost")
        self.over = self.unwanted or self.ended
        self.migrate = bool(alloc.desired_transition.migrate)
        self.canary = alloc.deployment_status is not None and alloc.deployment_status.canary
        self.lost_after = disconnect.lost_after_ns if disconnect is not None else 0
        self.replaced = disconnect is None or disconnect.replace_ is not False
        unknown = [state.time_ns for state in alloc.alloc_states if state.value == "unknown"]
        last = alloc.alloc_states[-1].value if alloc.alloc_states else ""
        self.back = last == "unknown" and alloc.client_status in ("running", "failed")
        self.expired = self.lost_after > 0 and bool(unknown) and now_ns - unknown[-1] >= self.lost_after


def word(alloc: Allocation, node: str, now_ns: int) -> str:
    """What an allocation is: the first row that holds."""
    plain = Plain(alloc, now_ns)
    return next(name for _, holds, name in ROWS if holds(plain, node))


def answer(
    job: Job,
    group: TaskGroup,
    allocs: list[Allocation],
    nodes: dict[str, str],
    *,
    batch: bool,
    now_ns: int,
    eval_id: str,
    kinds: dict[str, str],
) -> Answer:
    """What happens to each allocation. ``nodes``: node id → its status, or "gone"; ``kinds``: allocation id → whether a
    change of its job leaves it, changes it in place, or replaces it."""
    out = Answer()
    by_id = {alloc.id: alloc for alloc in allocs}
    words = {alloc.id: word(alloc, nodes[alloc.node_id], now_ns) for alloc in allocs}
    for alloc in allocs:
        if words[alloc.id] == "migrating" and batch and alloc.desired_transition.migrate_disable_placement:
            words[alloc.id] = "drained"

    def wanted_follower(alloc: Allocation) -> Allocation | None:
        found = by_id.get(alloc.next_allocation)
        return found if found is not None and found.desired_status == "run" else None

    # Who came back, and who had taken its place?
    for alloc in allocs:
        if words[alloc.id] != "reconnecting":
            continue
        rival = wanted_follower(alloc)
        if rival is not None and words[rival.id] == "lost":
            rival = None
        if alloc.client_status == "failed":
            words[alloc.id] = "stopped" if rival is not None else "over"
        elif rival is not None and (_outdated(alloc, job) or not _original_stays(alloc, rival, batch)):
            words[alloc.id] = "stopped"
        elif alloc.desired_transition.migrate:
            words[alloc.id] = "migrating"
        else:
            words[alloc.id] = "kept"
            out.returned.add(alloc.id)
            if rival is not None:
                words[rival.id] = "ignored" if rival.client_status in ("complete", "lost") else "stopped"
    # What is over: does it count as done, is it placed anew, is it waited for?
    for alloc in allocs:
        if words[alloc.id] == "over":
            words[alloc.id] = _after_the_end(alloc, job, batch, now_ns, eval_id)
    # What is out of reach: does it count, or does another one?
    for alloc in allocs:
        if words[alloc.id] not in ("disconnecting", "away"):
            continue
        if words[alloc.id] == "disconnecting":
            out.unknown.add(alloc.id)
        if wanted_follower(alloc) is not None:
            words[alloc.id] = "ignored"
        elif Plain(alloc, now_ns).replaced and nodes[alloc.node_id] in ("down", "disconnected", "gone"):
            words[alloc.id] = "substituted"
        else:
            words[alloc.id] = "waited for"
    for alloc in allocs:
        if words[alloc.id] == "lost" and wanted_follower(alloc) is not None:
            words[alloc.id] = "lost and replaced"

    def those(*names: str) -> list[Allocation]:
        return [alloc for alloc in allocs if words[alloc.id] in names]

    for alloc in those("lost", "lost and replaced"):
        out.lost.add(alloc.id)
    out.stop.update(alloc.id for alloc in those("stopped", "drained"))
    # Too many? Those that move go first, then those that only hold a place, then the highest numbers.
    known = [*those("kept", "failed, waits", "failed for good", "done"), *those("migrating")]
    known = [alloc for alloc in known if alloc.client_status != "unknown"]
    surplus = len(known) - group.count
    moving = sorted(those("migrating"), key=lambda a: (not Plain(a, now_ns).over, -a.index))
    failed = [a for a in those("failed, waits", "failed for good") if a.desired_status == "run"]
    failed = sorted(failed, key=lambda a: -a.index)
    running = sorted(those("kept"), key=lambda a: -a.index)
    for alloc in [*moving, *failed, *running][: max(surplus, 0)]:
        words[alloc.id] = "stopped"
        out.stop.add(alloc.id)
    out.migrate.update(alloc.id for alloc in those("migrating"))
    out.later.update(alloc.id for alloc in those("failed, waits") if not alloc.followup_eval_id)
    # Too few?
    names = ("kept", "waited for", "failed, waits", "failed for good", "done", "migrating", "drained")
    existing = len(those(*names))
    for reason, into in (("again", out.reschedule), ("substituted", out.substitute), ("lost", out.replace_lost)):
        for alloc in sorted(those(reason), key=lambda a: a.index):
            if existing < group.count:
                existing += 1
                into.add(alloc.id)
            elif reason == "again" and alloc.desired_status == "run":
                out.stop.add(alloc.id)
    out.fresh = max(group.count - existing, 0)
    # What stays may have to change.
    for alloc in those("kept", "waited for", "failed, waits", "failed for good", "done"):
        over = Plain(alloc, now_ns).over
        if kinds[alloc.id] == "destructive" and not (batch and over):
            out.update.add(alloc.id)
        if kinds[alloc.id] == "in-place" and not over and words[alloc.id] != "waited for":
            out.in_place.add(alloc.id)
    return out


def _outdated(alloc: Allocation, job: Job) -> bool:
    flags = alloc.desired_transition
    moved = flags.migrate or flags.reschedule or flags.force_reschedule
    return bool(moved) or alloc.job is None or alloc.job.version < job.version


def _original_stays(original: Allocation, rival: Allocation, batch: bool) -> bool:
    assert original.job is not None
    assert rival.job is not None
    group = original.job.group(original.task_group)
    assert group is not None
    assert group.disconnect is not None
    if rival.job.version > original.job.version:
        return False
    if batch and rival.client_status == "complete":
        return False
    if rival.client_status in ("unknown", "failed"):
        return True
    return group.disconnect.reconcile == "keep_original"


def _after_the_end(alloc: Allocation, job: Job, batch: bool, now_ns: int, eval_id: str) -> str:
    older = alloc.job is None or alloc.job.version < job.version
    if alloc.next_allocation or (batch and older):
        return "ignored"
    if alloc.client_status == "lost":
        return "ignored"
    tracker = alloc.reschedule_tracker
    unplaced = tracker is not None and tracker.last_reschedule == "no placement"
    if alloc.desired_status == "stop":
        if batch and alloc.desired_transition.migrate_disable_placement:
            return "done"
        if batch and alloc.task_states and all(s.state == "dead" and not s.failed for s in alloc.task_states.values()):
            return "done"
        if not (unplaced and alloc.client_status == "failed"):
            return "ignored"
    elif alloc.client_status == "complete":
        return "done" if batch else "ignored"
    assert alloc.client_status == "failed"
    if alloc.desired_transition.force_reschedule:
        return "again"
    group = alloc.job.group(alloc.task_group) if alloc.job is not None else None
    policy = group.reschedule_policy if group is not None else None
    if policy is None or not policy.unlimited:
        return "failed for good"
    due = alloc.task_states["web"].finished_at_ns + policy.delay_ns
    if due - now_ns <= SECOND or alloc.followup_eval_id == eval_id:
        return "again"
    return "failed, waits"
