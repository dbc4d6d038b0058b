"""Plans that only add allocations are carried out together; that must lead to what one after another leads to."""

from __future__ import annotations

import struct
from typing import Any
from unittest.mock import patch

from cluster_builders import make_group, make_job
from hypothesis import given, settings
from hypothesis import strategies as st
from state_checker import check_store, fingerprint
from state_world import World

from nomadpy.model.alloc import AllocMetric
from nomadpy.model.evaluation import Deployment, DeploymentState
from nomadpy.state import commands as c
from nomadpy.state.apply import plans
from nomadpy.state.store import StateStore

JOBS, NODES = 3, 4
Blocks = tuple[int, list[tuple[int, list[int]]]]


@st.composite
def batches(draw: st.DrawFn) -> list[Blocks]:
    """Plans of (job, blocks of (group, nodes)); some name nodes and groups that do not exist."""
    block = st.tuples(st.integers(0, 2), st.lists(st.integers(0, NODES), max_size=6))
    plan = st.tuples(st.integers(0, JOBS - 1), st.lists(block, max_size=3))
    return draw(st.lists(plan, min_size=1, max_size=4))


def command(batch: list[Blocks], *, all_at_once: bool, stop: tuple[str, str]) -> c.ApplyPlans:
    made = []
    for number, (job, blocks) in enumerate(batch):
        places = tuple(
            c.PlaceBlock(
                job_id=f"job-{job}",
                group=f"g{group}",
                eval_id=f"e{number}-{job}",
                deployment_id="d" if job == 0 else "",
                nodes=struct.pack(f"<{len(nodes)}I", *nodes),
                name_indexes=struct.pack(f"<{len(nodes)}I", *range(len(nodes))),
                metrics=AllocMetric(nodes_evaluated=len(nodes)),
            )
            for group, nodes in blocks
        )
        groups = {"g0": DeploymentState(desired_total=3)}
        opened = Deployment(id="d", namespace="default", job_id="job-0", status="running", task_groups=groups)
        stops = (c.StopAlloc(alloc_id=stop[1]),) if stop[0] == f"job-{job}" else ()
        made.append(
            c.PlanResult(
                eval_id=f"e{number}-{job}",
                job_id=f"job-{job}",
                all_at_once=all_at_once,
                places=places,
                stops=stops,
                deployment=opened if job == 0 else None,
            )
        )
    return c.ApplyPlans(plans=tuple(made))


def carried_out(
    batches_: list[list[Blocks]], *, all_at_once: bool, stop: bool
) -> tuple[list[Any], StateStore, list[Any]]:
    world = World(NODES, cpu=2000)
    for number in range(JOBS):
        groups = tuple(make_group(name=f"g{at}", count=20, cpu=200 * (number + at)) for at in range(2))
        world.register(make_job(f"job-{number}").replace(task_groups=groups))
    world.set_node(NODES - 1, "down")
    answers = []
    for batch in batches_:
        oldest = next((world.store.alloc_at(row) for row in world.store.allocs.rows()), None)
        stopped = (oldest.job_id, oldest.id) if stop and oldest is not None else ("", "")
        answers.append(world.apply(command(batch, all_at_once=all_at_once, stop=stopped)))
    check_store(world.store)
    table = world.store.allocs
    held = [list(table.rows_by_node(number)) for number in range(NODES)] + [
        list(table.rows_by_job(("default", f"job-{number}"))) for number in range(JOBS)
    ]
    return answers, world.store, held


@given(st.lists(batches(), min_size=1, max_size=3), st.booleans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_together_is_one_after_another(many: list[list[Blocks]], all_at_once: bool, stop: bool) -> None:
    together = carried_out(many, all_at_once=all_at_once, stop=stop)
    with patch.object(plans, "place_fresh", lambda *_: False):
        alone = carried_out(many, all_at_once=all_at_once, stop=stop)
    assert together[0] == alone[0]
    assert fingerprint(together[1]) == fingerprint(alone[1])
    assert together[2] == alone[2]


def test_most_plans_are_carried_out_together() -> None:
    with patch.object(plans, "_apply_plan", side_effect=AssertionError):
        answers, store, _ = carried_out([[(0, [(0, [0, 1, 2])]), (1, [(1, [0, 0])])]], all_at_once=False, stop=False)
    assert answers == [[0, 0]]
    assert store.allocs.live == 5
    assert store.deployments["d"].task_groups["g0"].placed_allocs == 3
