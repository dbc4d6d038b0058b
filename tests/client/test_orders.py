"""Orders of servers that do not know the same: which ones a client follows."""

from __future__ import annotations

from pathlib import Path

from client_world import FakeServers, ScriptedDriver, make_alloc, make_config, running_client

from nomadpy.model.alloc import Allocation


class TwoServers(FakeServers):
    """The assignments are the newest; allocations are given out, ``times`` times, by a server that lags behind."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0
        self.behind: dict[str, Allocation] = {}

    async def get_allocs(self, node_id: str, secret_id: str, alloc_ids: list[str]) -> list[Allocation]:
        if self.times:
            self.times -= 1
            return [self.behind[id] for id in alloc_ids if id in self.behind]
        return await super().get_allocs(node_id, secret_id, alloc_ids)


async def test_an_allocation_that_the_answering_server_does_not_know_yet_is_asked_for_again(
    tmp_path: Path, jumping_clock: object
) -> None:
    servers, driver = TwoServers(), ScriptedDriver()
    alloc = make_alloc()
    async with running_client(make_config(tmp_path), servers, driver) as world:
        servers.times = 2
        servers.put(alloc)
        await world.until_status(alloc, "running")
    assert driver.starts == ["web"]


async def test_a_stop_that_the_answering_server_does_not_know_yet_is_asked_for_again(
    tmp_path: Path, jumping_clock: object
) -> None:
    servers, driver = TwoServers(), ScriptedDriver()
    alloc = make_alloc()
    async with running_client(make_config(tmp_path), servers, driver) as world:
        servers.put(alloc)
        await world.until_status(alloc, "running")
        servers.behind, servers.times = dict(servers.allocs), 1
        servers.stop(alloc.id)
        await world.until_status(alloc, "complete")
    assert driver.stops == ["web"]
