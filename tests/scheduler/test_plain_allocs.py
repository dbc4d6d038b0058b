"""Allocations that nothing is to be decided about are counted, not looked at; the decision must be the same."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_world import World, make_group, make_job, make_node
from test_invariants import NODES, POLICY, act, actions, job, watch

from nomadpy.model.alloc import Allocation
from nomadpy.model.evaluation import Evaluation
from nomadpy.model.job import DisconnectStrategy, UpdateStrategy
from nomadpy.model.time import SECOND
from nomadpy.scheduler import Decision
from nomadpy.state import plain
from nomadpy.state.store import StateStore

NEVER, ALWAYS = 10**9, 0


class Twice(World):
    """Decides everything twice, by counts and by records."""

    counted = 0

    def decide(self, evaluation: Evaluation, **options: Any) -> Decision:
        before = self.rng.getstate()
        with patch.object(plain, "FEW", NEVER):
            expected = super().decide(evaluation, **options)
        after = self.rng.getstate()
        self.rng.setstate(before)
        with patch.object(plain, "FEW", ALWAYS):
            found = super().decide(evaluation, **options)
            stored = self.store.job("default", evaluation.job_id)
            if stored is not None:
                groups, _ = self.store.split_allocs(stored, "")
                self.counted += sum(len(each.names) for each in groups.values())
        assert self.rng.getstate() == after
        assert found.plan == expected.plan
        assert (found.evaluation, found.created, found.desired) == (
            expected.evaluation,
            expected.created,
            expected.desired,
        )
        return found


@given(st.sampled_from(("service", "batch")), st.lists(actions, min_size=1, max_size=12), st.booleans())
@settings(max_examples=200, deadline=None)
def test_counting_decides_as_looking_does(type: str, history: list[tuple[str, int, object]], watched: bool) -> None:
    world = Twice(*(make_node(n, cpu_mhz=2200) for n in range(NODES)))
    world.deploy(job(3, 0, type))
    for action in history:
        act(world, type, action)
        if watched:
            watch(world)


def test_most_of_a_large_job_is_counted() -> None:
    world = Twice(*(make_node(n, cpu_mhz=10**6, memory_mb=10**6, disk_mb=10**6) for n in range(NODES)))
    world.deploy(make_job(group=make_group(count=300, reschedule_policy=POLICY, update=None)))
    first, second, *rest = world.live()
    world.report("running", first, *rest)
    world.report("failed", second)
    decision = world.run()
    assert len(decision.created) == 1, "it is placed anew after a while"
    assert world.counted == 299
    made: list[int] = []
    with patch.object(StateStore, "alloc_at", lambda self, row: made.append(row) or _alloc_at(self, row)):
        world.wait(600)
        with patch.object(plain, "FEW", ALWAYS):
            World.decide(world, world.evaluation())
    assert len(set(made)) <= 3


_alloc_at = StateStore.alloc_at


@pytest.mark.parametrize("update", [None, UpdateStrategy(max_parallel=3), UpdateStrategy(max_parallel=2, canary=2)])
def test_a_change_of_a_group_beside_another(update: UpdateStrategy | None) -> None:
    """A group that stays as it is, one that grows, one that shrinks, on nodes that come and go."""
    world = Twice(*(make_node(n, cpu_mhz=10**5, memory_mb=10**5) for n in range(NODES)))
    groups = tuple(make_group(name=name, count=40, update=update) for name in "abc")
    world.deploy(make_job().replace(task_groups=groups))
    for alloc in world.live():
        world.judge(alloc)
    for counts in ((40, 45, 35), (40, 45, 36), (41, 2, 40)):
        changed = tuple(g.replace(count=count) for g, count in zip(groups, counts, strict=True))
        world.deploy(make_job().replace(task_groups=changed))
        for _ in range(3):
            for alloc in world.live():
                if alloc.client_status == "pending":
                    world.judge(alloc)
            world.run()
    assert len(world.live()) == 83


def test_nodes_out_of_reach() -> None:
    strategy = DisconnectStrategy(lost_after_ns=600 * SECOND, replace_=True)
    world = Twice(*(make_node(n, cpu_mhz=10**5, memory_mb=10**5) for n in range(NODES)))
    world.deploy(make_job(group=make_group(count=30, disconnect=strategy)))
    world.report("running", *world.live())
    for status in ("disconnected", "ready", "down", "ready"):
        world.set_node(1, status)
        world.run()
        unknown: list[Allocation] = [alloc for alloc in world.live() if alloc.client_status == "unknown"]
        if status == "ready" and unknown:
            world.report("running", *unknown)
        world.run()
        world.wait(30)
