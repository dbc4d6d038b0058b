"""Where leases say that the servers are."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from nomadpy.agent.membership import Places
from nomadpy.gossip.contract import ALIVE, FAILED, Member


def server(number: int, status: str = ALIVE) -> Member:
    tags = {"role": "nomad", "rpc_addr": f"10.0.0.{number}", "port": "4647"}
    return Member(name=f"s{number}.global", address=f"10.0.0.{number}", port=4648, status=status, tags=tags)


async def test_servers_are_looked_up_a_few_times_a_second(autojump_clock: MockClock) -> None:
    members, looks = [server(2), server(1), server(3, FAILED)], 0

    def look() -> list[Member]:
        nonlocal looks
        looks += 1
        return members

    places = Places(look)
    for _ in range(1000):
        assert places.now() == (["10.0.0.1:4647", "10.0.0.2:4647"], ["10.0.0.2:4648", "10.0.0.1:4648"])
    assert looks == 1
    members = [server(1)]
    await trio.sleep(0.3)
    assert places.now() == (["10.0.0.1:4647"], ["10.0.0.1:4648"])
