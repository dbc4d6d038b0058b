"""Whatever happens in whatever order: what is counted agrees with the records, and a replay makes the same state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster_builders import make_job, node_id
from hypothesis import given, settings
from hypothesis import strategies as st
from state_checker import check_store, fingerprint
from state_world import World

from nomadpy.model.alloc import DesiredTransition
from nomadpy.model.job import PeriodicConfig
from nomadpy.model.node import DrainStrategy
from nomadpy.state import commands as c

NODES, JOBS = 3, ("a", "b", "b/child")


def register(world: World, job: str, number: int) -> None:
    changes: dict[str, Any] = {"parent_id": "b"} if job == "b/child" else {}
    if job == "b" and number % 4 == 3:
        changes["periodic"] = PeriodicConfig(spec="@daily")
    type = "batch" if job == "a" else "service"
    made = make_job(
        job, type=type, count=number, cpu=300 + 100 * (number % 3), port="http" if number & 1 else "", **changes
    )
    world.tell(c.RegisterJob(job=made, evals=(world.evaluation(job),) if number & 2 else ()))


def schedule(world: World, job: str, number: int) -> None:
    waiting = [e for e in world.store.job_evals("default", job) if not e.terminal()]
    world.run(job, waiting[number % len(waiting)] if waiting else None)


def report(status: str) -> Callable[[World, str, int], None]:
    def act(world: World, job: str, number: int) -> None:
        allocs = world.allocs(job)
        if allocs:
            world.report(allocs[number % len(allocs)], status)

    return act


def lose(world: World, job: str, number: int) -> None:
    allocs = world.allocs(job)
    if allocs:
        stop = c.StopAlloc(alloc_id=allocs[number % len(allocs)].id, client_status="lost", description="gone")
        world.apply(c.ApplyPlans(plans=(c.PlanResult(job_id=job, stops=(stop, stop)),)))


def set_node(status: str) -> Callable[[World, str, int], None]:
    def act(world: World, job: str, number: int) -> None:
        world.tell(c.UpdateNodeStatus(node_id=node_id(number % NODES), status=status))

    return act


def stop(purge: bool) -> Callable[[World, str, int], None]:
    def act(world: World, job: str, number: int) -> None:
        evals = (world.evaluation(job),) if number & 1 else ()
        world.tell(c.DeregisterJob(job_id=job, purge=purge, evals=evals, no_shutdown_delay=bool(number & 2)))

    return act


def drain(world: World, job: str, number: int) -> None:
    strategy = DrainStrategy() if number & 4 else None
    world.tell(c.UpdateNodeDrain(node_id=node_id(number % NODES), drain=strategy, mark_eligible=bool(number & 2)))


def purge_node(world: World, job: str, number: int) -> None:
    world.tell(c.DeregisterNodes(node_ids=(node_id(number % NODES),)))


def add_node(world: World, job: str, number: int) -> None:
    world.add_node(number % NODES, cpu=1500 + 500 * (number % 2))


def migrate(world: World, job: str, number: int) -> None:
    for alloc in world.allocs(job)[:number]:
        world.apply(c.UpdateAllocTransitions(transitions={alloc.id: DesiredTransition(migrate=True)}))


def collect(world: World, job: str, number: int) -> None:
    """Asks for everything; only what is finished may go."""
    store = world.store
    world.apply(
        c.Collect(
            eval_ids=tuple(store.evals),
            alloc_ids=tuple(alloc.id for alloc in world.allocs(job)),
            jobs=(("default", job),) if number & 1 else (),
        )
    )


ACTIONS: dict[str, Callable[[World, str, int], None]] = {
    "register": register,
    "schedule": schedule,
    "run": report("running"),
    "fail": report("failed"),
    "complete": report("complete"),
    "unknown": report("unknown"),
    "back": report("running"),
    "lose": lose,
    "down": set_node("down"),
    "ready": set_node("ready"),
    "stop": stop(purge=False),
    "purge": stop(purge=True),
    "drain": drain,
    "purge node": purge_node,
    "add node": add_node,
    "migrate": migrate,
    "collect": collect,
    "summaries": lambda world, job, number: world.apply(c.ReconcileSummaries()),
}
steps = st.tuples(
    st.sampled_from([*ACTIONS, "register", "schedule", "schedule", "schedule", "run"]),
    st.sampled_from(JOBS),
    st.integers(0, 7),
)


@given(st.lists(steps, max_size=25))
@settings(max_examples=150, deadline=None)
def test_counts_agree_with_records_and_a_replay_with_the_original(history: list[tuple[str, str, int]]) -> None:
    world = World(NODES, cpu=2000)
    for name, job, number in history:
        ACTIONS[name](world, job, number)
        check_store(world.store)
    assert fingerprint(world.replayed()) == fingerprint(world.store)


def test_a_full_life_leaves_nothing_behind() -> None:
    world = World(NODES, cpu=2000)
    for round in range(3):
        world.register(make_job("a", type="batch", count=4, port="http", env=str(round)))
        world.run("a")
        for alloc in world.live("a"):
            world.report(alloc, "complete")
        world.apply(c.DeregisterJob(job_id="a"))
        evals, allocs = tuple(world.store.evals), tuple(alloc.id for alloc in world.allocs("a"))
        world.apply(c.Collect(eval_ids=evals, alloc_ids=allocs, jobs=(("default", "a"),)))
        check_store(world.store)
    table = world.store.allocs
    assert (table.live, len(table.shapes), len(table._evals), len(table._metrics)) == (0, 0, 0, 0)
    assert [len(each) for each in (table._extra, table._by_job, table._by_node, table._job_shapes)] == [0, 0, 0, 0]
    assert [len(each) for each in (world.store.open_evals, world.store.evals_by_job)] == [0, 0]
