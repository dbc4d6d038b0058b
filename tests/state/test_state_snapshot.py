"""A snapshot brings back everything that can be observed, and what follows after it is the same."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import msgspec
import pytest
from cluster_builders import make_job, node_id
from hypothesis import given, settings
from hypothesis import strategies as st
from state_checker import check_store, fingerprint
from state_world import World
from test_state_histories import ACTIONS, NODES, steps

from nomadpy.model.alloc import DesiredTransition
from nomadpy.model.evaluation import Deployment
from nomadpy.model.job import JobSubmission, ScalingEvent
from nomadpy.state import commands as c
from nomadpy.state import snapshot, snapshot_allocs
from nomadpy.state.allocs import COLUMNS, AllocTable
from nomadpy.state.jobs import JobTable
from nomadpy.state.nodes import NodeTable
from nomadpy.state.sections import MAGIC, SCHEMA, NewerSnapshot, UnreadableSnapshot
from nomadpy.state.snapshot import contents, freeze, restore
from nomadpy.state.store import StateStore

History = list[tuple[str, str, int]]
histories = st.lists(steps, max_size=15)


def act(world: World, history: History) -> None:
    for name, job, number in history:
        ACTIONS[name](world, job, number)


def everything(store: StateStore) -> dict[str, Any]:
    """More than ``fingerprint``: also what only the next commands show."""
    table = store.allocs
    shared = [(s._values, s._counts, s._free, s._next) for s in (table._metrics, table._evals, table._deployments)]
    stored = sorted(table.rows())
    return {
        **fingerprint(store),
        "requests": list(store._requests.items()),
        "log": (store.log_index, store.restored_at, store.staged),
        "shared": shared,
        "shapes": {code: (shape.job, shape.group) for code, shape in table.shapes.items()},
        "shape counts": (table._next_shape, table._shape_rows, table._shape_live, table._shape_codes),
        "rows": {name: getattr(table, name)[: table.size].tolist() for name, _ in COLUMNS},
        "by job": table._by_job,
        "by node": [list(table.rows_by_node(number)) for number in range(store.nodes.size)],
        "by eval": {e.id: table.rows_by_eval(e.id, (e.namespace, e.job_id)) for e in store.evals.values()},
        "extras": [without_epoch(table.extra(row)) for row in stored],
        "everywhere": list(store.jobs.everywhere),
        "order": (list(store.evals), list(store.jobs.versions), list(store.deployments)),
        "numbers": store.nodes._numbers,
        "eras": table.ids.eras,
    }


def without_epoch(extra: Any) -> Any:
    return msgspec.structs.replace(extra, epoch=0)


def restored(data: bytes, index: int = 10**9) -> StateStore:
    store = StateStore()
    restore(store, index, data)
    return store


@given(histories, histories)
@settings(max_examples=80, deadline=None)
def test_a_restored_state_is_equal_and_goes_on_alike(before: History, after: History) -> None:
    world = World(NODES, cpu=2000)
    act(world, before)
    twin = restored(freeze(world.store)())
    assert everything(twin) == everything(world.store)
    check_store(twin)
    seen = len(world.log)
    act(world, after)
    for index, data in enumerate(world.log[seen:], seen + 1):
        twin.apply(index, c.decode(data))
    assert everything(twin) == everything(world.store)
    check_store(twin)


@given(histories, histories)
@settings(max_examples=80, deadline=None)
def test_what_happens_after_the_freeze_is_not_in_the_snapshot(before: History, after: History) -> None:
    world = World(NODES, cpu=2000)
    act(world, before)
    known = deepcopy(everything(world.store))
    encode = freeze(world.store)
    act(world, after[: len(after) // 2])
    halfway, encode_later = deepcopy(everything(world.store)), freeze(world.store)
    act(world, after[len(after) // 2 :])
    assert everything(restored(encode())) == known
    assert everything(restored(encode_later())) == halfway


def test_changed_rows_are_as_they_were_when_the_table_was_frozen() -> None:
    world = World(2)
    world.register(make_job("web", count=6, port="http"))
    world.run("web")
    ids = [alloc.id for alloc in world.allocs("web")]
    for alloc in world.allocs("web")[:4]:
        world.report(alloc, "running")
    world.report(world.allocs("web")[5], "failed")
    known = deepcopy(everything(world.store))
    for number in range(8):
        encode = freeze(world.store)
        CHANGES[number % len(CHANGES)](world, ids)
        assert everything(restored(encode())) == known, number
        known = deepcopy(everything(world.store))


CHANGES: tuple[Callable[[World, list[str]], Any], ...] = (
    lambda world, ids: world.report(world.allocs("web")[0], "failed"),
    lambda world, ids: world.apply(c.UpdateAllocTransitions(transitions={ids[1]: DesiredTransition(migrate=True)})),
    lambda world, ids: world.apply(plan(stops=(c.StopAlloc(alloc_id=ids[2], description="enough"),))),
    lambda world, ids: world.apply(plan(annotate=(c.AnnotateAlloc(alloc_id=ids[3], followup_eval_id="e"),))),
    lambda world, ids: world.apply(plan(in_place=(c.UpdateAllocInPlace(alloc_id=ids[4], eval_id="f" * 36),))),
    lambda world, ids: world.apply(c.Collect(alloc_ids=(ids[5],))),
    lambda world, ids: world.add_node(7),
    lambda world, ids: world.run("web"),
)


def plan(**what: Any) -> c.ApplyPlans:
    return c.ApplyPlans(plans=(c.PlanResult(job_id="web", **what),))


def test_more_nodes_and_rows_than_the_first_columns_hold() -> None:
    world = World(70, disk_mb=10**7)
    world.register(make_job("web", count=1100, cpu=10, memory_mb=10))
    world.run("web")
    assert world.store.allocs.size == 1100
    assert everything(restored(freeze(world.store)())) == everything(world.store)


def full_world() -> World:
    world = World(2)
    job = world.register(make_job("web", count=3, port="http"), with_eval=True)
    submission = JobSubmission(source="job {}", format="hcl2")
    world.apply(c.RegisterJob(job=make_job("sub", count=1), submission=submission, request_id="r-1"))
    world.apply(c.RecordScalingEvent(job_id="web", group="app", event=ScalingEvent(message="grown")))
    world.apply(c.RecordPeriodicLaunch(job_id="web", launch_time_ns=17))
    world.run("web")
    deployment = Deployment(id="d" * 36, namespace="default", job_id="web", job_version=job.version, status="running")
    world.apply(c.ApplyPlans(plans=(c.PlanResult(job_id="web", deployment=deployment),)))
    world.report(world.allocs("web")[0], "running")
    return world


def test_every_kind_of_record_comes_back_and_repeated_requests_are_known() -> None:
    world = full_world()
    twin = restored(freeze(world.store)())
    assert everything(twin) == everything(world.store)
    assert twin.deployments
    assert twin.jobs.submissions
    assert twin.jobs.scaling_events
    again = c.RegisterJob(job=make_job("sub", count=9), request_id="r-1", now_ns=1)
    assert twin.apply(twin.log_index + 1, again) == world.store.apply(world.store.log_index + 1, again)
    assert twin.job("default", "sub") == world.store.job("default", "sub")


def test_more_rows_than_one_section_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_allocs, "_PAGES_TOGETHER", 1)
    world = World(1, cpu=10**7, memory_mb=10**7, disk_mb=10**9)
    world.register(make_job("many", count=3000, type="batch"))
    world.run("many")
    world.report(world.allocs("many")[3], "running")
    assert world.store.allocs.size == 3000
    assert everything(restored(freeze(world.store)())) == everything(world.store)


# --- what cannot be read ----------------------------------------------------------------------------------------------


def test_a_snapshot_that_is_cut_off_or_damaged_anywhere_changes_nothing() -> None:
    data = freeze(full_world().store)()
    store = full_world().store
    known = deepcopy(everything(store))
    for at in range(0, len(data), 7):
        flipped = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
        for bad in (data[:at], flipped):
            with pytest.raises((UnreadableSnapshot, NewerSnapshot)):
                restore(store, 10**9, bad)
    with pytest.raises(UnreadableSnapshot, match="follows the end"):
        restore(store, 10**9, data + b"x")
    assert everything(store) == known
    assert store.generation == 0


def test_a_newer_schema_is_refused_with_its_number() -> None:
    data = freeze(StateStore())()
    newer = MAGIC + struct.pack("<I", SCHEMA + 1) + data[len(MAGIC) + 4 :]
    with pytest.raises(NewerSnapshot, match=f"schema {SCHEMA + 1}.*reads up to schema {SCHEMA}"):
        restore(StateStore(), 1, newer)


def test_an_unknown_table_is_refused_by_name() -> None:
    data = freeze(StateStore())()
    name, payload = b"volumes", zlib.compress(b"\x90")
    frame = struct.pack("<III", len(name), len(payload), zlib.crc32(name + payload)) + name + payload
    at = data.index(b"state", len(MAGIC)) - 12
    with pytest.raises(UnreadableSnapshot, match='"volumes"'):
        restore(StateStore(), 1, data[:at] + frame + data[at:])


def test_a_snapshot_from_ahead_of_the_log_is_refused() -> None:
    world = full_world()
    with pytest.raises(UnreadableSnapshot, match="stored as that of 3"):
        restore(StateStore(), 3, freeze(world.store)())


# --- completeness -----------------------------------------------------------------------------------------------------


def test_no_attribute_of_a_table_is_forgotten() -> None:
    """Whoever adds one has to decide: is it stored, rebuilt from what is stored, or of no matter after a restart? Add
    it to the sets in ``state/snapshot.py`` or ``state/snapshot_allocs.py``, and to what they name."""
    columns = {name for name, _ in COLUMNS}
    for table, known in (
        (StateStore(), snapshot.STORED | snapshot.REBUILT | snapshot.TRANSIENT),
        (JobTable(1), snapshot.JOBS_STORED | snapshot.JOBS_REBUILT | snapshot.JOBS_TRANSIENT),
        (NodeTable(), snapshot.NODES_STORED | snapshot.NODES_REBUILT | snapshot.NODES_TRANSIENT),
        (
            AllocTable(0),
            snapshot_allocs.STORED | snapshot_allocs.REBUILT | snapshot_allocs.TRANSIENT | columns,
        ),
    ):
        assert set(vars(table)) == known, type(table).__name__


def test_contents_count_the_records() -> None:
    world = full_world()
    found = contents(freeze(world.store)())
    counts = {table.name: table.count for table in found.tables}
    assert found.index == world.store.index
    assert counts["nodes"] == 2
    assert counts["allocs.rows"] == world.store.allocs.size
    assert counts["jobs.versions"] == 2
    assert counts["evals"] == len(world.store.evals)
    assert sum(table.bytes for table in found.tables) > 0


# --- restoring through the log ----------------------------------------------------------------------------------------


def tell_restore(world: World, data: bytes, *, part: int = 1000, era: int = 7) -> c.Outcome:
    for at in range(0, len(data), part):
        outcome = tell(world.store, c.StageRestore(restore_id="x", offset=at, data=data[at : at + part]))
        assert outcome.ok, outcome.message
    return tell(world.store, c.RestoreState(restore_id="x", sha256=hashlib.sha256(data).hexdigest(), era=era))


def tell(store: StateStore, command: c.Command) -> c.Outcome:
    return store.apply(store.log_index + 1, c.decode(c.encode(command)))


def test_a_restore_lifts_the_index_above_the_snapshots() -> None:
    old = full_world()
    tell_to_index(old.store, 10_000)
    fresh = World(1)
    outcome = tell_restore(fresh, freeze(old.store)(), part=1 << 20)
    assert outcome.ok, outcome.message
    assert outcome.index == fresh.store.index == 10_001
    assert fresh.store.log_index < 10
    assert fresh.store.cluster_id == old.store.cluster_id
    assert fresh.store.job("default", "web") == old.store.job("default", "web")
    assert {fresh.store.max_index(name) for name in old.store.table_index} == {10_001}
    made = tell(fresh.store, c.RegisterJob(job=make_job("new")))
    assert made.value["job_modify_index"] == 10_002
    check_store(fresh.store)


def tell_to_index(store: StateStore, index: int) -> None:
    store.apply(index, c.UpdateEvals(now_ns=1))


def test_a_restore_of_an_older_state_goes_on_above_the_present_index() -> None:
    world = full_world()
    data = freeze(world.store)()
    before = {alloc.id for alloc in world.allocs("web")}
    world.register(make_job("later", count=2))
    world.run("later")
    lost = {alloc.id for alloc in world.allocs("later")}
    index, log_index = world.store.index, world.store.log_index
    assert tell_restore(world, data, part=1 << 20).index == index + 2
    assert world.store.log_index == log_index + 2
    assert world.store.job("default", "later") is None
    assert {alloc.id for alloc in world.allocs("web")} == before
    orders = [alloc.alloc_modify_index for alloc in world.allocs("web")]
    assert set(orders) == {world.store.index}
    assert world.store.nodes.facts_version > 0
    tell(world.store, c.RegisterJob(job=make_job("later", count=2)))
    decision = world.decide("later")
    tell(world.store, c.ApplyPlans(plans=(decision.plan,)))
    again = world.allocs("later")
    assert len(again) == 2
    assert {alloc.id for alloc in again}.isdisjoint(lost), "a node would take them for those it has ended"
    assert [world.store.alloc(alloc.id) for alloc in again] == again
    check_store(world.store)
    assert everything(restored(freeze(world.store)())) == everything(world.store)


def test_a_restore_that_is_not_whole_changes_nothing() -> None:
    world = full_world()
    data = freeze(world.store)()
    tell(world.store, c.StageRestore(restore_id="x", offset=0, data=data))
    gap = tell(world.store, c.StageRestore(restore_id="x", offset=len(data) + 1, data=b"x"))
    assert (gap.ok, gap.code) == (False, "conflict")
    other = tell(world.store, c.RestoreState(restore_id="y", sha256="", era=1))
    wrong = tell(world.store, c.RestoreState(restore_id="x", sha256="00", era=1))
    assert not other.ok
    assert "did not arrive as it was sent" in wrong.message
    assert everything(restored(freeze(world.store)())) == everything(world.store)
    tell(world.store, c.AbandonRestore(restore_id="x"))
    assert world.store.staged is None
    bad = tell_restore(world, b"nonsense")
    assert "no snapshot of nomadpy" in bad.message
    assert world.store.job("default", "web") is not None


def test_a_plan_from_before_a_restore_is_refused_as_a_whole() -> None:
    world = full_world()
    data = freeze(world.store)()
    tell(world.store, c.RegisterJob(job=make_job("late", count=2)))
    decision, view = world.decide("late"), world.store.index
    tell_restore(world, data, part=1 << 20)
    tell(world.store, c.RegisterJob(job=make_job("late", count=2)))
    outcome = tell(world.store, c.ApplyPlans(plans=(decision.plan,), view_index=view))
    assert outcome.value == [2]
    assert world.allocs("late") == []
    assert tell(world.store, c.ApplyPlans(plans=(decision.plan,), view_index=world.store.index)).value == [0]


def test_nodes_of_the_snapshot_come_back_with_their_secrets() -> None:
    old, fresh = World(2), World()
    tell_restore(fresh, freeze(old.store)(), part=1 << 20)
    assert fresh.store.node(node_id(1)) == old.store.node(node_id(1))


@pytest.mark.parametrize("freezes", range(1, 6))
def test_a_restored_table_does_not_change_what_a_later_snapshot_holds(freezes: int) -> None:
    """Records are told from those that a snapshot holds by a number, which must not come back from a snapshot."""
    world = World(2)
    world.register(make_job("web", count=2))
    world.run("web")
    for _ in range(3):
        freeze(world.store)
    first, second = world.allocs("web")
    world.report(first, "running")
    again = World(2)
    again.store = restored(freeze(world.store)())
    for _ in range(freezes):
        encode = freeze(again.store)
    known = deepcopy(everything(again.store))
    again.report(second, "running")
    again.report(first, "failed")
    assert everything(restored(encode())) == known
