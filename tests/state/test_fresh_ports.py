"""Plans that add allocations with ports are carried out together; that must lead to what one after another leads to."""

from __future__ import annotations

import struct
from typing import Any
from unittest.mock import patch

from cluster_builders import make_job
from hypothesis import given, settings
from hypothesis import strategies as st
from state_checker import check_store, fingerprint
from state_world import World

from nomadpy.model.resources import NetworkResource, Port
from nomadpy.state import commands as c
from nomadpy.state.apply import plans
from nomadpy.state.port_bits import bit_set
from nomadpy.state.store import StateStore

NETWORKS = (
    NetworkResource(dynamic_ports=(Port(label="http", to=-1), Port(label="admin", to=8080))),
    NetworkResource(reserved_ports=(Port(label="dns", value=53),), dynamic_ports=(Port(label="http"),)),
    NetworkResource(),
)
PORTS = (53, 20_000, 20_001, 20_002, 31_999, 65_535)
Placed = list[tuple[int, tuple[int, int]]]  # node, ports


@st.composite
def batches(draw: st.DrawFn) -> list[tuple[int, Placed, int]]:
    """Plans of (job, nodes with their ports, how many bytes of the ports are missing); few ports, so that many meet."""
    port = st.sampled_from(PORTS)
    placed = st.lists(st.tuples(st.integers(0, 3), st.tuples(port, port)), min_size=1, max_size=5)
    plan = st.tuples(st.integers(0, 2), placed, st.sampled_from([0, 0, 0, 0, 2, 99]))
    return draw(st.lists(plan, min_size=1, max_size=4))


def command(batch: list[tuple[int, Placed, int]]) -> c.ApplyPlans:
    made = []
    for number, (job, placed, missing) in enumerate(batch):
        values = b"".join(struct.pack("<2H", *ports) for _, ports in placed)
        block = c.PlaceBlock(
            job_id=f"job-{job}",
            group="app",
            eval_id=f"e{number}-{job}",
            nodes=struct.pack(f"<{len(placed)}I", *(node for node, _ in placed)),
            name_indexes=struct.pack(f"<{len(placed)}I", *range(len(placed))),
            port_values=values[: max(0, len(values) - missing)],
            port_hosts={node: (f"10.0.0.{node}", f"10.0.{node % 2}.{node}") for node, _ in placed},
        )
        made.append(c.PlanResult(eval_id=f"e{number}-{job}", job_id=f"job-{job}", places=(block,)))
    return c.ApplyPlans(plans=tuple(made))


def carried_out(many: list[list[tuple[int, Placed, int]]]) -> tuple[list[Any], StateStore]:
    world = World(4)
    for number, network in enumerate(NETWORKS):
        job = make_job(f"job-{number}")
        group = job.task_groups[0].replace(name="app", count=50, networks=(network,))
        world.register(job.replace(task_groups=(group,)))
    answers = [world.apply(command(batch)) for batch in many]
    check_store(world.store)
    return answers, world.store


@given(st.lists(batches(), min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_together_is_one_after_another(many: list[list[tuple[int, Placed, int]]]) -> None:
    together = carried_out(many)
    with patch.object(plans, "place_fresh", lambda *_: False):
        alone = carried_out(many)
    assert together[0] == alone[0]
    assert fingerprint(together[1]) == fingerprint(alone[1])


def test_free_ports_are_given_together() -> None:
    with patch.object(plans, "_apply_plan", side_effect=AssertionError):
        answers, store = carried_out(
            [[(0, [(0, (20_000, 20_001)), (1, (20_000, 20_002))], 0), (1, [(0, (53, 31_999))], 0)]]
        )
    assert answers == [[0, 0]]
    given_ports = [store.alloc_at(row).allocated_resources for row in store.allocs.rows()]
    assert [[(p.label, p.value, p.to) for p in each.shared.ports] for each in given_ports if each is not None] == [
        [("http", 20_000, 20_000), ("admin", 20_001, 8080)],
        [("http", 20_000, 20_000), ("admin", 20_002, 8080)],
        [("dns", 53, 0), ("http", 31_999, 0)],
    ]
    assert store.nodes.used_ports(0) == {"10.0.0.0": 1 << 20_000 | 1 << 20_001 | 1 << 53 | 1 << 31_999}


@given(st.lists(st.integers(0, 65_535), max_size=40))
def test_a_set_of_ports_has_their_bits(ports: list[int]) -> None:
    assert bit_set(ports) == sum(1 << port for port in set(ports))
