"""Draining: what has to leave the nodes that an operator wants empty, and how much of it at once.

Everything follows from the state alone, so that a new leader goes on where the old one stopped. Services leave as fast
as their ``migrate`` block allows; batch and sysbatch work may finish before the deadline; system jobs (and CSI plugins,
which others need until the end) are stopped when nothing else is left. At the deadline all that remains is told to
leave and the drain counts as complete. Source: Nomad's drainer, as described in its documentation of node drains.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import msgspec

from nomadpy.model.alloc import RUNNING, DesiredTransition
from nomadpy.model.evaluation import EVAL_PENDING, TRIGGER_NODE_DRAIN, Evaluation
from nomadpy.model.ids import new_uuid
from nomadpy.model.job import Job, MigrateStrategy, TaskGroup
from nomadpy.model.node import Node, NodeEvent
from nomadpy.model.time import MINUTE
from nomadpy.state import commands as c
from nomadpy.state.allocs import CLIENT
from nomadpy.state.store import StateStore

DRAIN_EVENTS = "Drain"
TRANSITIONS_MAX = 1000  # allocations in one entry of the log

_HEALTHY_DEADLINE_NS = 5 * MINUTE
_GroupKey = tuple[str, str, str]


class DrainDecision(msgspec.Struct, frozen=True):
    """What to propose, in this order, and the wall clock (Unix ns) at which the answer may be another one although
    nothing changed; None when only a change of the state matters."""

    commands: tuple[c.Command, ...] = ()
    wake_at_ns: int | None = None
    draining: bool = False


def decide_drain(store: StateStore, *, now_ns: int, rng: random.Random) -> DrainDecision:
    """What is due on all draining nodes. Once it is applied, the same question has no commands for an answer until
    allocations move, an operator speaks or a deadline passes."""
    nodes = [node for node in store.nodes if node.drain_strategy is not None]
    if not nodes:
        return DrainDecision()
    drains = _Drains(store, now_ns, rng)
    for node in nodes:
        drains.look_at(node)
    drains.pace_services()
    commands = (*drains.transitions(), *drains.completions())
    return DrainDecision(commands=commands, wake_at_ns=min(drains.wakes, default=None), draining=True)


class _Drains:
    """One look at all draining nodes; ``flagged`` collects the rows that have to leave now."""

    def __init__(self, store: StateStore, now_ns: int, rng: random.Random) -> None:
        self._store, self._now_ns, self._rng = store, now_ns, rng
        self.wakes: list[int] = []
        self._flagged: dict[int, None] = {}
        self._waiting: dict[_GroupKey, list[int]] = {}
        self._complete: list[tuple[Node, bool]] = []

    def look_at(self, node: Node) -> None:
        """Sorts what is left on a node. A drain is over when its time is, or when nothing but what leaves last is
        left; what was only told to stop is still there."""
        strategy, table = node.drain_strategy, self._store.allocs
        assert strategy is not None
        there = [row for row in table.rows_by_node(self._store.node_number(node.id)) if not table.is_over(row)]
        others = [row for row in there if not _leaves_last(table.shape_of(row).job)]
        late = _is_late(node, self._now_ns)
        if late or not others:
            self._complete.append((node, late))
            leaving = others if strategy.ignore_system_jobs else there
            self._flagged.update(dict.fromkeys(row for row in leaving if self._may_be_told(row)))
            return
        if strategy.force_deadline_ns:
            self.wakes.append(strategy.force_deadline_ns)
        for row in others:
            shape = table.shape_of(row)
            if shape.job.type == "service" and self._may_be_told(row):
                self._waiting.setdefault((*shape.job.key, shape.group.name), []).append(row)

    def pace_services(self) -> None:
        """Picks from every service group as many allocations as may leave without falling below its count minus
        ``migrate.max_parallel`` healthy ones. A job or group that is gone is for the scheduler to stop."""
        for (namespace, job_id, name), waiting in self._waiting.items():
            job = self._store.job(namespace, job_id)
            group = job.group(name) if job is not None and not job.stop else None
            if group is None:
                continue
            migrate = group.migrate or MigrateStrategy(max_parallel=1)
            healthy, next_look = self._healthy((namespace, job_id), group)
            room = max(0, healthy - (group.count - migrate.max_parallel))
            self._flagged.update(dict.fromkeys(waiting[:room]))
            if room < len(waiting):
                self.wakes += next_look

    def _healthy(self, key: tuple[str, str], group: TaskGroup) -> tuple[int, list[int]]:
        """How many allocations of a group are there to stay and were judged, well or badly: a bad one may not hold a
        drain up. One that runs for longer than a verdict may take counts too, because none will come (its health is
        for an operator to set, or was cleared by an update in place). Also: when the next of those will count."""
        table, healthy, next_look = self._store.allocs, 0, []
        patience_ns = _patience_ns(group)
        for row in self._store.live_rows(key):
            if table.shape_of(row).group.name != group.name or self._leaves(row):
                continue
            verdict = table.extra(row).deployment_status
            if verdict is not None and verdict.healthy is not None:
                healthy += 1
            elif CLIENT[table.client[row]] == RUNNING:
                counts_at_ns = int(table.create_time[row]) + patience_ns
                if counts_at_ns <= self._now_ns:
                    healthy += 1
                else:
                    next_look.append(counts_at_ns)
        return healthy, sorted(next_look)[:1]

    def _may_be_told(self, row: int) -> bool:
        return self._store.allocs.is_live(row) and not self._leaves(row)

    def _leaves(self, row: int) -> bool:
        told = self._store.allocs.extra(row).transition
        return row in self._flagged or (told is not None and bool(told.migrate))

    # --- commands --------------------------------------------------------------------------------------------------

    def transitions(self) -> Iterator[c.Command]:
        """Tells the flagged allocations to leave, with an evaluation for each of their jobs."""
        table, rows = self._store.allocs, list(self._flagged)
        for at in range(0, len(rows), TRANSITIONS_MAX):
            part = rows[at : at + TRANSITIONS_MAX]
            wanted = {table.ids.uuid(row): _transition(table.shape_of(row).job) for row in part}
            evals = tuple(self._evals(table.shape_of(row).job for row in part))
            yield c.UpdateAllocTransitions(now_ns=self._now_ns, transitions=wanted, evals=evals)

    def _evals(self, jobs: Iterable[Job]) -> Iterator[Evaluation]:
        for job in {job.key: job for job in jobs}.values():
            yield Evaluation(
                id=new_uuid(self._rng),
                namespace=job.namespace,
                job_id=job.id,
                type=job.type,
                priority=job.priority,
                triggered_by=TRIGGER_NODE_DRAIN,
                status=EVAL_PENDING,
            )

    def completions(self) -> Iterator[c.Command]:
        """Ends the drains that are over; the nodes stay ineligible."""
        for node, late in self._complete:
            yield c.UpdateNodeDrain(
                now_ns=self._now_ns,
                node_id=node.id,
                completed=node.drain_strategy,
                event=NodeEvent(
                    message="Node drain complete",
                    subsystem=DRAIN_EVENTS,
                    details={"deadline_reached": "true"} if late else {},
                    timestamp_ns=self._now_ns,
                ),
            )


def _is_late(node: Node, now_ns: int) -> bool:
    strategy = node.drain_strategy
    assert strategy is not None
    return strategy.deadline_ns < 0 or 0 < strategy.force_deadline_ns <= now_ns


def _leaves_last(job: Job) -> bool:
    return job.type == "system" or any(
        task.csi_plugin_config is not None for group in job.task_groups for task in group.tasks
    )


def _transition(job: Job) -> DesiredTransition:
    """Batch work that did not finish in time is not begun again elsewhere."""
    return DesiredTransition(migrate=True, migrate_disable_placement=True if job.type == "batch" else None)


def _patience_ns(group: TaskGroup) -> int:
    """How long a verdict on an allocation may take at most."""
    stated = (strategy.healthy_deadline_ns for strategy in (group.update, group.migrate) if strategy is not None)
    return max(stated, default=0) or _HEALTHY_DEADLINE_NS
