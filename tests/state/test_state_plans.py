"""Plans are checked once more when they are applied: what no longer fits is dropped, stops always pass."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from cluster_builders import make_job, make_node, node_id
from hypothesis import given, settings
from hypothesis import strategies as st
from state_checker import check_store, fingerprint
from state_world import World

from nomadpy.model.resources import AllocatedDevice, AllocatedPort
from nomadpy.state import commands as c


def block(*nodes: int, details: dict[int, c.PlacedAlloc] | None = None, **changes: Any) -> c.PlaceBlock:
    """New allocations of job ``job``, one on each of the nodes."""
    return c.PlaceBlock(
        **{
            "job_id": "job",
            "group": "app",
            "eval_id": "e",
            "nodes": struct.pack(f"<{len(nodes)}I", *nodes),
            "name_indexes": struct.pack(f"<{len(nodes)}I", *range(len(nodes))),
            "details": details or {},
            **changes,
        }
    )


def plan(*places: c.PlaceBlock, stop: tuple[str, ...] = (), **changes: Any) -> c.PlanResult:
    stops = tuple(c.StopAlloc(alloc_id=alloc_id) for alloc_id in stop)
    return c.PlanResult(eval_id="e", job_id="job", places=places, stops=stops, **changes)


def carry_out(world: World, *plans: c.PlanResult) -> list[int]:
    refused: list[int] = world.apply(c.ApplyPlans(plans=plans))
    check_store(world.store)
    return refused


def ports(*values: int, **changes: Any) -> c.PlacedAlloc:
    given = tuple(AllocatedPort(label="http", value=value, host_ip="10.0.0.1").replace(**changes) for value in values)
    return c.PlacedAlloc(ports=given)


def world_of(n_nodes: int = 2, **job: Any) -> World:
    """Nodes of 1,000 MHz and a job whose allocations take 400."""
    world = World(n_nodes, cpu=1000)
    world.register(make_job(**{"cpu": 400, "count": 10, **job}))
    return world


def test_what_fits_is_placed() -> None:
    world = world_of()
    assert carry_out(world, plan(block(0, 1, 0))) == [0]
    assert [(alloc.node_id[-1], alloc.name) for alloc in world.live()] == [
        ("0", "job.app[0]"),
        ("1", "job.app[1]"),
        ("0", "job.app[2]"),
    ]


def test_what_is_too_much_for_a_node_is_dropped_there() -> None:
    world = world_of()
    assert carry_out(world, plan(block(0, 1, 0, 0))) == [3]
    assert [alloc.node_id for alloc in world.live()] == [node_id(1)]


def test_blocks_of_one_plan_count_together() -> None:
    world = world_of()
    assert carry_out(world, plan(block(0, 0), block(0, 1))) == [1]
    assert sorted(alloc.node_id[-1] for alloc in world.live()) == ["0", "0", "1"]


def test_plans_of_one_entry_see_each_other() -> None:
    world = world_of()
    assert carry_out(world, plan(block(0)), plan(block(0)), plan(block(0))) == [0, 0, 1]


def test_a_stop_makes_room_in_its_own_plan_only() -> None:
    world = world_of(1)
    carry_out(world, plan(block(0, 0)))
    first, second = world.live()
    assert carry_out(world, plan(block(0)), plan(stop=(first.id,)), plan(block(0))) == [1, 0, 1]
    assert carry_out(world, plan(block(0), stop=(second.id,))) == [0]
    assert carry_out(world, plan(block(0, 0), stop=(second.id, second.id))) == [2]
    assert int(world.store.columns.cpu_used[0]) == 1200
    world.report(first, "complete")
    world.report(second, "complete")
    assert int(world.store.columns.cpu_used[0]) == 400


def test_all_at_once_is_all_or_nothing() -> None:
    world = world_of()
    carry_out(world, plan(block(1)))
    (old,) = world.live()
    assert carry_out(world, plan(block(0, 0, 0), block(1), stop=(old.id,), all_at_once=True)) == [4]
    assert world.live() == []
    assert carry_out(world, plan(block(0, 0), all_at_once=True)) == [0]


@pytest.mark.parametrize("status", ["down", "initializing", "disconnected"])
def test_nothing_is_placed_on_a_node_that_is_not_ready(status: str) -> None:
    world = world_of(1)
    world.set_node(0, status)
    assert carry_out(world, plan(block(0))) == [1]


def test_nothing_is_placed_for_a_version_that_is_gone() -> None:
    world = world_of()
    assert carry_out(world, plan(block(0, job_version=3)), plan(block(0, group="x")), plan(block(1, job_id="x"))) == [
        1,
        1,
        1,
    ]
    assert world.store.allocs.shapes == {}


def test_a_port_is_given_once() -> None:
    world = world_of()
    assert carry_out(world, plan(block(0, details={0: ports(80)}))) == [0]
    assert carry_out(world, plan(block(0, details={0: ports(80)}))) == [1]
    assert carry_out(world, plan(block(1, 1, details={0: ports(90), 1: ports(90)}))) == [1]
    assert carry_out(world, plan(block(0, details={0: ports(80, ignore_collision=True)}))) == [0]


def test_a_stopped_allocation_leaves_its_port_to_its_successor() -> None:
    world = world_of()
    carry_out(world, plan(block(0, details={0: ports(80)})))
    (old,) = world.live()
    assert carry_out(world, plan(block(0, details={0: ports(80)}), stop=(old.id,))) == [0]
    world.report(old, "complete")
    assert world.store.columns.used_ports(0) == {"10.0.0.1": 1 << 80}
    check_store(world.store)


def test_a_shared_port_is_free_only_when_both_holders_stop() -> None:
    world = world_of(1, cpu=100)
    shared = ports(80, ignore_collision=True)
    carry_out(world, plan(block(0, 0, details={0: shared, 1: shared})))
    one, other = world.live()
    assert carry_out(world, plan(block(0, details={0: ports(80)}), stop=(one.id,))) == [1]
    assert carry_out(world, plan(block(0, details={0: ports(80)}), stop=(one.id, other.id))) == [0]


def test_cores_and_devices_are_given_once() -> None:
    world = world_of(2, cpu=100)
    gpu = AllocatedDevice(vendor="v", type="gpu", name="n", device_ids=("g0",))
    cores, device = c.PlacedAlloc(reserved_cores={"web": (1, 2)}), c.PlacedAlloc(devices={"web": (gpu,)})
    assert carry_out(world, plan(block(0, 0, 0, details={0: cores, 1: device}))) == [0]
    overlapping = c.PlacedAlloc(reserved_cores={"web": (2, 3)})
    assert carry_out(world, plan(block(0, 0, 1, details={0: overlapping, 1: device, 2: device}))) == [2]
    holder = next(a for a in world.live() if a.index == 1 and a.node_id == node_id(0))
    assert carry_out(world, plan(block(0, details={0: device}), stop=(holder.id,))) == [0]


def test_a_successor_is_linked_to_its_predecessor() -> None:
    world = world_of()
    carry_out(world, plan(block(0)))
    (old,) = world.live()
    carry_out(world, plan(block(1, details={0: c.PlacedAlloc(previous_alloc_id=old.id)}), stop=(old.id,)))
    (new,) = world.live()
    assert new.previous_allocation == old.id
    stored = world.store.alloc(old.id)
    assert stored is not None
    assert (stored.next_allocation, stored.desired_status) == (new.id, "stop")


def test_in_place_updates_account_for_the_new_demand() -> None:
    world = world_of()
    carry_out(world, plan(block(0)))
    (alloc,) = world.live()
    world.register(make_job(cpu=300, count=10))
    update = c.UpdateAllocInPlace(alloc_id=alloc.id, job_version=1, eval_id="e2")
    carry_out(world, plan(in_place=(update,)))
    assert world.store.grown_nodes() == [0]
    (alloc,) = world.live()
    assert alloc.job is not None
    assert (alloc.job.version, alloc.eval_id) == (1, "e2")
    carry_out(world, plan(in_place=(update,)))
    assert world.store.grown_nodes() == []
    assert len(world.store.allocs.shapes) == 1


def test_an_allocation_that_was_lost_takes_its_place_again_when_it_reports() -> None:
    world = world_of()
    carry_out(world, plan(block(0, details={0: ports(80)})))
    (alloc,) = world.live()
    world.apply(
        c.ApplyPlans(plans=(c.PlanResult(job_id="job", stops=(c.StopAlloc(alloc_id=alloc.id, client_status="lost"),)),))
    )
    assert int(world.store.columns.cpu_used[0]) == 0
    check_store(world.store)
    world.report(alloc, "running")
    assert int(world.store.columns.cpu_used[0]) == 400
    check_store(world.store)


def test_the_evaluation_of_a_plan_that_lost_placements_stays_open() -> None:
    world = world_of(1)
    first, second = world.evaluation(), world.evaluation()
    world.apply(c.UpdateEvals(evals=(first, second)))
    plans = tuple(c.PlanResult(eval_id=e.id, job_id="job", places=(block(0, 0),)) for e in (first, second))
    done = tuple(e.replace(status="complete") for e in (first, second))
    assert world.apply(c.ApplyPlans(plans=plans, evals=done)) == [0, 2]
    assert [world.store.evals[e.id].status for e in (first, second)] == ["complete", "pending"]


numbers = st.integers(0, 5)
odd_detail = st.builds(
    lambda value, core, previous: c.PlacedAlloc(
        ports=(AllocatedPort(label="p", value=value, host_ip="10.0.0.1"),) if value is not None else (),
        reserved_cores={"web": (core,)} if core else {},
        previous_alloc_id=previous,
    ),
    st.one_of(st.none(), st.integers(-2, 3), st.just(70_000)),
    numbers,
    st.sampled_from(["", "nonsense", node_id(1)]),
)
odd_block = st.builds(
    lambda nodes, names, details, version, cut: c.PlaceBlock(
        job_id="job",
        group="app",
        job_version=version,
        nodes=struct.pack(f"<{len(nodes)}I", *nodes)[: len(nodes) * 4 - cut],
        name_indexes=struct.pack(f"<{len(names)}I", *names)[: len(names) * 4 - cut],
        details=details,
    ),
    st.lists(st.one_of(numbers, st.just(2**32 - 1)), max_size=4),
    st.lists(numbers, max_size=4),
    st.dictionaries(st.integers(-2, 6), odd_detail, max_size=3),
    st.integers(0, 1),
    st.sampled_from([0, 0, 0, 1]),
)


@given(st.lists(odd_block, max_size=4), st.booleans(), st.integers(0, 2))
@settings(max_examples=200, deadline=None)
def test_no_plan_however_odd_breaks_the_state(blocks: list[c.PlaceBlock], all_at_once: bool, n_nodes: int) -> None:
    world = world_of(n_nodes)
    (refused,) = carry_out(world, plan(*blocks, all_at_once=all_at_once, stop=("nonsense",)))
    assert 0 <= refused <= sum(-(-len(each.nodes) // 4) for each in blocks)
    check_store(world.store)
    assert all(int(used) <= 1000 for used in world.store.columns.cpu_used)
    assert fingerprint(world.replayed()) == fingerprint(world.store)


def test_nodes_beyond_the_first_columns() -> None:
    world = World()
    for number in range(130):
        world.apply(c.RegisterNode(node=make_node(number)))
    world.set_node(129, "ready")
    world.register(make_job(count=2))
    world.run()
    assert {alloc.node_id for alloc in world.live()} == {node_id(129)}
    check_store(world.store)
