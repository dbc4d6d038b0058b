"""A saved state is restored on a running server: what hangs on the state is rebuilt, and nodes follow."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from cluster_builders import SECRET, make_job, node_id
from server_world import World, mono_ns, running, wall_ns

from nomadpy.model.caller import ANYONE
from nomadpy.model.errors import Conflict, Invalid
from nomadpy.model.node import Namespace
from nomadpy.raft.contract import Apply
from nomadpy.raft.raftlog import RaftLog, Snapshots
from nomadpy.server.config import ServerConfig
from nomadpy.server.server import Server
from nomadpy.state import commands as c
from nomadpy.state.apply.restore import read_staged
from nomadpy.state.archive import SnapshotMeta, pack, unpack
from nomadpy.state.sections import MAGIC, SCHEMA, NewerSnapshot, UnreadableSnapshot
from nomadpy.state.store import Prepared, Staged


async def save(world: World) -> bytes:
    _, archive = await world.server.backups.save(ANYONE, stale=False)
    return archive


async def test_a_restored_state_is_worked_on_at_once() -> None:
    async with running() as world:
        await world.add_node(0)
        await world.register(make_job("kept", count=2))
        await world.until(lambda: len(world.running("kept")) == 2)
        kept = {alloc.id for alloc in world.running("kept")}
        archive = await save(world)
        await world.register(make_job("later", count=2))
        await world.until(lambda: len(world.running("later")) == 2)
        later = {alloc.id for alloc in world.running("later")}
        seen = world.server.store.index

        assert await world.server.backups.restore(ANYONE, archive) > seen
        store = world.server.store
        assert store.job("default", "later") is None
        assert {alloc.id for alloc in world.live("kept")} == kept
        await world.until(lambda: world.server.leading)
        answer = await world.register(make_job("later", count=2))
        assert answer.job_modify_index > seen
        # The node had followed higher orders than the snapshot knew, and follows the new ones all the same.
        await world.until(lambda: len(world.running("later")) == 2)
        assert {alloc.id for alloc in world.running("later")}.isdisjoint(later)


async def test_a_state_is_read_in_a_thread_before_its_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading it takes seconds when it is large, in which no server could hear the leader."""
    threads: list[int] = []

    def read(staged: Staged, *, tracked_versions: int) -> Prepared:
        threads.append(threading.get_ident())
        return read_staged(staged, tracked_versions=tracked_versions)

    def read_late(staged: Staged, *, tracked_versions: int) -> Prepared:
        raise AssertionError("it is read in the entry that restores it")

    monkeypatch.setattr("nomadpy.server.restoring.read_staged", read)
    monkeypatch.setattr("nomadpy.state.apply.restore.read_staged", read_late)
    async with running() as world:
        await world.add_node(0)
        await world.register(make_job("kept", count=2))
        await world.until(lambda: len(world.running("kept")) == 2)
        archive = await save(world)
        for _ in range(2):
            seen = world.server.store.index
            assert await world.server.backups.restore(ANYONE, archive) > seen
            assert world.server.store.prepared is None
            assert world.server.store.staged is None
            await world.until(lambda: world.server.leading)
        assert len(world.live("kept")) == 2
    assert len(threads) == 2
    assert threading.get_ident() not in threads


async def test_what_was_put_aside_and_cannot_be_read_is_refused_in_its_entry() -> None:
    async with running() as world:
        server = world.server
        await server.propose(c.StageRestore(restore_id="r", data=b"no state", last=True))
        await server.restoring.others_ready()
        digest = hashlib.sha256(b"no state").hexdigest()
        with pytest.raises(Conflict, match="nothing was changed"):
            await server.propose(c.RestoreState(restore_id="r", sha256=digest, era=1))
        assert server.leading
        await server.propose(c.AbandonRestore(restore_id="r"))
        await server.restoring.others_ready()


async def test_a_snapshot_of_another_cluster_brings_its_identity_and_a_higher_index() -> None:
    async with running() as old:
        await old.add_node(0)
        await old.register(make_job("job", count=1))
        await old.until(lambda: len(old.running()) == 1)
        store = old.server.store
        # As after a long life: the index is far ahead.
        store.set_position(10_000, store.log_index)
        store.cluster_id = "the-old-one"
        await old.register(make_job("job", count=2))
        await old.until(lambda: len(old.running()) == 2)
        saved_at, archive = store.index, await save(old)
    async with running() as new:
        assert new.server.store.index < 10
        assert await new.server.backups.restore(ANYONE, archive) == saved_at + 1
        assert new.server.store.cluster_id == "the-old-one"
        await new.until(lambda: new.server.leading)
        # The old cluster's node comes to the new one with what it followed there.
        await new.add_node(0)
        orders = await new.server.nodes.wait_assignments(node_id(0), SECRET, 9000, 1)
        assert orders.index > saved_at
        answer = await new.register(make_job("other", count=1))
        assert answer.job_modify_index > saved_at > 10_000
        await new.until(lambda: len(new.running("other")) == 1)


async def test_whoever_waits_wakes_and_looks_again() -> None:
    async with running() as world:
        archive = await save(world)
        woken = trio.Event()

        async def wait() -> None:
            await world.server.watch.changed("deployments")
            woken.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await world.server.backups.restore(ANYONE, archive)
            with trio.fail_after(10):
                await woken.wait()


@pytest.mark.parametrize("archive", [b"", b"junk", pack(SnapshotMeta(), b"junk")])
async def test_what_is_no_snapshot_proposes_nothing(archive: bytes) -> None:
    async with running() as world:
        index = world.server.store.index
        with pytest.raises((Invalid, UnreadableSnapshot)):
            await world.server.backups.restore(ANYONE, archive)
        assert world.server.store.index == index


async def test_a_snapshot_of_a_newer_version_is_refused_and_changes_nothing() -> None:
    async with running() as world:
        state = unpack(await save(world)).state
        newer = MAGIC + (SCHEMA + 1).to_bytes(4, "little") + state[len(MAGIC) + 4 :]
        index = world.server.store.index
        with pytest.raises(NewerSnapshot, match=f"schema {SCHEMA + 1}.*reads up to schema {SCHEMA}") as refused:
            await world.server.backups.restore(ANYONE, pack(SnapshotMeta(), newer))
        assert refused.value.status == 400
        assert (world.server.store.index, world.server.leading) == (index, True)


async def test_a_restore_that_cannot_be_finished_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as world:
        archive = await save(world)
        propose = world.server.propose

        async def failing(command: c.Command, *, timeout_s: float = 10.0) -> c.Outcome:
            if isinstance(command, c.RestoreState):
                assert world.server.store.staged is not None
                raise Invalid("no")
            return await propose(command, timeout_s=timeout_s)

        monkeypatch.setattr(world.server, "propose", failing)
        with pytest.raises(Invalid, match="no"):
            await world.server.backups.restore(ANYONE, archive)
        assert world.server.store.staged is None


async def test_the_lifted_index_survives_restarts_from_log_and_snapshot(tmp_path: Path) -> None:
    async with running() as old:
        old.server.store.set_position(10_000, old.server.store.log_index)
        await old.register(make_job("job", count=1))
        archive = await save(old)
    seen = 0
    for every_entries in (10_000, 4, 4):
        async with replicated(tmp_path, every_entries) as server:
            store = server.store
            if seen == 0:
                await server.backups.restore(ANYONE, archive)
            else:
                assert store.index == seen
                assert store.job("default", "job") is not None
            for number in range(6):
                outcome = await server.propose(c.UpsertNamespace(namespace=Namespace(name=f"n{number}"), now_ns=1))
                assert outcome.index > max(seen, 10_001)
            seen = store.index
            assert server.log.statistics().last_index < 100
    assert list((tmp_path / "snapshots").iterdir())


@asynccontextmanager
async def replicated(directory: Path, every_entries: int) -> AsyncIterator[Server]:
    """A server alone on a replicated log."""

    def make_log(apply: Apply) -> RaftLog:
        snapshots = Snapshots(lambda: server.freeze_state(), lambda *args: server.restore_state(*args), every_entries)
        return RaftLog(directory, apply, name="one", snapshots=snapshots)

    server = Server(ServerConfig(), make_log, rng=random.Random(1), wall_ns=wall_ns, mono_ns=mono_ns)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        yield server
        # A snapshot that is being written is not waited for.
        await trio.sleep(0.2)
        nursery.cancel_scope.cancel()
