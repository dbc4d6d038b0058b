"""The reconciler against a slow one that is easy to believe, on thousands of small random groups."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from scheduler_world import EPOCH_NS, make_group, make_job, make_node
from slow_reconciler import Answer, answer, word

from nomadpy.model.alloc import (
    Allocation,
    AllocDeploymentStatus,
    AllocState,
    DesiredTransition,
    RescheduleTracker,
    TaskState,
)
from nomadpy.model.evaluation import Evaluation
from nomadpy.model.job import DisconnectStrategy, Job, ReschedulePolicy
from nomadpy.model.node import Node
from nomadpy.model.time import MINUTE, SECOND
from nomadpy.scheduler.classes import Class, classify
from nomadpy.scheduler.reconcile import Cause, GroupChanges, Reconciler
from nomadpy.scheduler.rollout import Rollout

HOUR = 60 * MINUTE
EVAL = "evaluation"
STATUSES = ("ready", "down", "disconnected", "initializing")
POLICY = ReschedulePolicy(delay_ns=30 * SECOND, delay_function="constant", unlimited=True)


def version(
    number: int, count: int, *, batch: bool, lost_after_ns: int, replace: bool, reconcile: str, reschedules: bool
) -> Job:
    strategy = DisconnectStrategy(lost_after_ns=lost_after_ns, replace_=replace, reconcile=reconcile)
    group = make_group(count=count, disconnect=strategy, reschedule_policy=POLICY if reschedules else None)
    job: Job = make_job(type="batch" if batch else "service", group=group)
    return job.replace(version=number, job_modify_index=10 + number)


# --- the table --------------------------------------------------------------------------------------------------------


def test_every_combination_is_in_the_class_of_its_row() -> None:
    seen: Counter[str] = Counter()
    dimensions = itertools.product(
        ("gone", *STATUSES),
        ("pending", "running", "complete", "failed", "lost", "unknown"),
        ("run", "stop", "evict"),
        (False, True),  # flagged to migrate
        (False, True),  # a canary
        ((), ("unknown",), ("unknown", "running")),
        (0, HOUR),
        (False, True),  # replaced while it is out of reach
        (1, 2 * HOUR),  # out of reach for so long
    )
    for node, client, desired, migrate, canary, history, lost_after, replace, away_ns in dimensions:
        job = version(
            0, 1, batch=False, lost_after_ns=lost_after, replace=replace, reconcile="best_score", reschedules=False
        )
        alloc = Allocation(
            id="a",
            job=job,
            task_group="app",
            client_status=client,
            desired_status=desired,
            desired_transition=DesiredTransition(migrate=migrate),
            deployment_status=AllocDeploymentStatus(canary=canary),
            alloc_states=tuple(AllocState(value=value, time_ns=EPOCH_NS - away_ns) for value in history),
        )
        record = None if node == "gone" else make_node(0).replace(status=node)
        found = classify(alloc, record, EPOCH_NS)
        assert found.value == word(alloc, node, EPOCH_NS), (node, client, desired, migrate, canary, history)
        seen[found.value] += 1
    assert set(seen) == {each.value for each in Class}
    assert sum(seen.values()) == 5 * 6 * 3 * 2 * 2 * 3 * 2 * 2 * 2


# --- whole groups -----------------------------------------------------------------------------------------------------


class Scene:
    """A small random group with everything that may have happened to it."""

    def __init__(self, seed: int) -> None:
        rng = self._rng = random.Random(seed)
        self.batch = rng.random() < 0.4
        settings = {
            "batch": self.batch,
            "lost_after_ns": rng.choice((0, HOUR, HOUR)),
            "replace": rng.random() < 0.7,
            "reconcile": rng.choice(("keep_original", "keep_replacement")),
            "reschedules": rng.random() < 0.7,
        }
        self.old = version(0, rng.randint(1, 5), **settings)
        self.job = version(1, rng.randint(1, 5), **settings)
        self.nodes: dict[str, Node] = {}
        self.statuses: dict[str, str] = {}
        self.kinds: dict[str, str] = {}
        old_kind = rng.choice(("in-place", "destructive"))
        self.allocs: list[Allocation] = []
        for index in range(rng.randint(0, 6)):
            alloc = self._alloc(len(self.allocs), index)
            self.allocs.append(alloc)
            if rng.random() < 0.3:
                follower = self._alloc(len(self.allocs), index).replace(previous_allocation=alloc.id)
                self.allocs[-1] = alloc.replace(next_allocation=follower.id)
                self.allocs.append(follower.replace(alloc_states=(), next_allocation=""))
        for alloc in self.allocs:
            self.kinds[alloc.id] = "ignore" if alloc.job is self.job else old_kind

    def _alloc(self, number: int, index: int) -> Allocation:
        rng = self._rng
        node_id, status = f"node-{number}", rng.choice(("gone", *STATUSES, "ready", "ready"))
        self.statuses[node_id] = status
        if status != "gone":
            self.nodes[node_id] = make_node(number).replace(id=node_id, status=status)
        client = rng.choice(("pending", "running", "running", "complete", "failed", "failed", "lost", "unknown"))
        history = ("unknown",) if client == "unknown" else rng.choice(((), (), ("unknown",), ("unknown", "running")))
        job = rng.choice((self.old, self.job))
        failed = client == "failed" or rng.random() < 0.2
        return Allocation(
            id=f"alloc-{number}",
            name=f"job.app[{index}]",
            node_id=node_id,
            job=job,
            job_id="job",
            task_group="app",
            client_status=client,
            desired_status="stop" if rng.random() < 0.15 else "run",
            desired_transition=DesiredTransition(
                migrate=rng.random() < 0.15,
                migrate_disable_placement=rng.random() < 0.3,
                force_reschedule=rng.random() < 0.1,
            ),
            alloc_states=tuple(AllocState(value=value, time_ns=self._since()) for value in history),
            followup_eval_id=rng.choice(("", "", "", EVAL, "another")),
            reschedule_tracker=RescheduleTracker(last_reschedule="no placement") if rng.random() < 0.1 else None,
            task_states={
                "web": TaskState(
                    state="dead" if client in ("complete", "failed", "lost") else "running",
                    failed=failed,
                    finished_at_ns=EPOCH_NS - rng.choice((1, 20, 29, 40)) * SECOND,
                )
            },
        )

    def _since(self) -> int:
        return EPOCH_NS - self._rng.choice((MINUTE, 2 * HOUR))

    def changes(self) -> GroupChanges:
        reconciler = Reconciler(
            self.job,
            Evaluation(id=EVAL),
            batch=self.batch,
            now_ns=EPOCH_NS,
            node_of=self.nodes.get,
            update_kind=lambda alloc: self.kinds[alloc.id],
            rollout=Rollout(self.job, None, paced=False),
        )
        [changes] = reconciler.reconcile(self.allocs)
        return changes

    def expected(self) -> Answer:
        return answer(
            self.job,
            self.job.task_groups[0],
            self.allocs,
            self.statuses,
            batch=self.batch,
            now_ns=EPOCH_NS,
            eval_id=EVAL,
            kinds=self.kinds,
        )


def told(changes: GroupChanges) -> Answer:
    """The reconciler's word in the same form."""
    lost = {alloc.id for alloc, stop in changes.stops if stop.client_status == "lost"}
    by_cause: dict[Cause, set[str]] = {cause: set() for cause in Cause}
    for replacement in changes.replace:
        by_cause[replacement.cause].add(replacement.alloc.id)
    return Answer(
        stop={alloc.id for alloc, _ in changes.stops} - lost - by_cause[Cause.MIGRATE],
        lost=lost,
        in_place={alloc.id for alloc in changes.in_place},
        update=by_cause[Cause.UPDATE],
        migrate=by_cause[Cause.MIGRATE],
        reschedule=by_cause[Cause.RESCHEDULE],
        later={later.alloc.id for later in changes.later},
        unknown={alloc.id for alloc in changes.unknown},
        returned={alloc.id for alloc in changes.returned},
        substitute=by_cause[Cause.DISCONNECT],
        replace_lost=by_cause[Cause.LOST],
        fresh=len(changes.fresh),
    )


@pytest.mark.parametrize("block", range(10))
def test_the_reconciler_says_what_the_slow_one_says(block: int) -> None:
    met: Counter[str] = Counter()
    for seed in range(block * 500, (block + 1) * 500):
        scene = Scene(seed)
        changes, expected = scene.changes(), scene.expected()
        assert told(changes) == expected, f"seed {seed}"
        check_counts(changes, expected, seed)
        met.update(name for name in Answer.__dataclass_fields__ if getattr(expected, name))
    assert set(met) == set(Answer.__dataclass_fields__), "everything comes up"


def check_counts(changes: GroupChanges, expected: Answer, seed: int) -> None:
    desired = changes.desired
    placed = len(expected.reschedule) + len(expected.substitute) + len(expected.replace_lost) + expected.fresh
    assert desired.place == placed, f"seed {seed}"
    assert desired.stop == len(expected.stop) + len(expected.lost), f"seed {seed}"
    assert desired.migrate == len(expected.migrate)
    assert desired.in_place_update == len(expected.in_place)
    assert desired.destructive_update == len(expected.update)
    assert (desired.reschedule_now, desired.reschedule_later) == (len(expected.reschedule), len(expected.later))
    assert (desired.disconnect, desired.reconnect) == (len(expected.unknown), len(expected.returned))
    stopped = [alloc.id for alloc, _ in changes.stops]
    assert len(stopped) == len(set(stopped)), "nobody is stopped twice"
    names = [replacement.alloc.index for replacement in changes.replace]
    assert not set(changes.fresh.tolist()) & set(names), "a fresh name is nobody else's"
