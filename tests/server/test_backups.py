"""A saved state is restored on a running server: what hangs on the state is rebuilt, and nodes follow."""

from __future__ import annotations

import pytest
import trio
from cluster_builders import SECRET, make_job, node_id
from server_world import World, running

from nomadpy.model.caller import ANYONE
from nomadpy.model.errors import Invalid
from nomadpy.state import commands as c
from nomadpy.state.archive import SnapshotMeta, pack
from nomadpy.state.sections import UnreadableSnapshot


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
