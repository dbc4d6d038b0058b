"""A server that does not lead, and may be behind, takes neither reports nor beats of nodes for itself."""

from __future__ import annotations

from typing import Any

import pytest
from cluster_builders import SECRET, make_job, node_id
from server_world import World, update_of
from trio.testing import MockClock

from nomadpy.model.errors import NoLeader

STRANGE = "00000000-0000-0000-0000-0000000000ff"


class FollowersLog:
    """The log of a server that took itself for the leader, or was taken for it, and is not."""

    is_leader = False

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def read_index(self) -> int:
        raise NoLeader


async def test_a_report_on_something_unknown_is_told_again_elsewhere(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.add_node(0)
    await world.register(make_job())
    await world.until(lambda: len(world.running()) == 1)
    nodes, (alloc,) = world.server.nodes, world.live()
    failed = update_of(alloc, "failed").replace(id=STRANGE)
    assert await nodes.update_allocs(node_id(0), SECRET, [failed]) == world.server.store.index
    with monkeypatch.context() as patch:
        patch.setattr(world.server, "log", FollowersLog(world.server.log))
        with pytest.raises(NoLeader):
            await nodes.update_allocs(node_id(0), SECRET, [failed])


async def test_a_beat_at_a_follower_renews_no_lease(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.add_node(0)
    nodes = world.server.nodes
    assert (await nodes.heartbeat(node_id(0), SECRET, "ready")).heartbeat_ttl_s > 0
    with monkeypatch.context() as patch:
        patch.setattr(world.server, "log", FollowersLog(world.server.log))
        with pytest.raises(NoLeader):
            await nodes.heartbeat(node_id(0), SECRET, "ready")
