"""Servers of a new cluster that met in halves go on to look for each other until all are known."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from nomadpy.agent.config import AgentConfig, Join
from nomadpy.agent.network import ServerNetwork
from nomadpy.gossip.contract import ALIVE, FAILED, Member

ADDRESSES = tuple(f"10.0.0.{number}:4648" for number in range(1, 5))


class Sea:
    """Who knows whom, and between whom packets travel."""

    def __init__(self) -> None:
        self.shores: dict[str, Shore] = {}
        self.cut: set[frozenset[str]] = set()
        self.down: set[str] = set()

    def part(self, one: tuple[str, ...], other: tuple[str, ...]) -> None:
        self.cut = {frozenset((a, b)) for a in one for b in other}

    def islands(self) -> set[frozenset[str]]:
        return {frozenset(shore.known) for shore in self.shores.values()}

    def fail(self, address: str) -> None:
        self.down.add(address)
        self.moved()

    def moved(self) -> None:
        for shore in self.shores.values():
            shore.moved()


class Shore:
    """Gossip as far as joining needs it: whoever answers shares all that it knows."""

    def __init__(self, sea: Sea, address: str) -> None:
        self._sea, self.address = sea, address
        self.known = {address}
        self.joins = 0
        self._changes, self._moved = 1, trio.Event()
        host, _, port = address.rpartition(":")
        self.place = (host, int(port))
        sea.shores[address] = self

    def members(self) -> list[Member]:
        return [self._member(address) for address in sorted(self.known)]

    def _member(self, address: str) -> Member:
        host, status = address.partition(":")[0], FAILED if address in self._sea.down else ALIVE
        tags = {"role": "nomad", "region": "global", "id": address, "rpc_addr": host, "port": "4647"}
        return Member(name=f"{host}.global", address=host, port=4648, status=status, tags=tags)

    def moved(self) -> None:
        self._changes += 1
        self._moved.set()
        self._moved = trio.Event()

    async def wait_changes(self, after: int) -> int:
        while self._changes <= after:
            await self._moved.wait()
        return self._changes

    async def join(self, addresses: list[str]) -> tuple[int, list[str]]:
        self.joins += 1
        await trio.sleep(0.1)
        deaf = [one for one in addresses if frozenset((one, self.address)) in self._sea.cut or one in self._sea.down]
        for address in set(addresses) - set(deaf):
            both = self.known | self._sea.shores[address].known
            for one in both:
                self._sea.shores[one].known = set(both)
            self._sea.moved()
        return len(addresses) - len(deaf), [f"{address} does not answer" for address in deaf]


def network_of(sea: Sea, address: str, expect: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ServerNetwork:
    network = ServerNetwork(
        AgentConfig(
            name=address,
            data_dir=str(folder / address),
            bootstrap_expect=expect,
            server_join=Join(retry_join=ADDRESSES),
        ),
        server_id=address,
        listeners=[],
        rpc_addr=address.replace("4648", "4647"),
        serf_bind=("127.0.0.1", 0),
        serf_addr=address,
    )
    monkeypatch.setattr(network, "gossip", Shore(sea, address))
    return network


@pytest.fixture
def sea() -> Sea:
    return Sea()


@pytest.mark.parametrize("expect", [0, 4])
async def test_two_halves_of_a_new_cluster_find_each_other(
    autojump_clock: MockClock, sea: Sea, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expect: int
) -> None:
    sea.part(ADDRESSES[:2], ADDRESSES[2:])
    halves = {frozenset(ADDRESSES[:2]), frozenset(ADDRESSES[2:])}
    async with trio.open_nursery() as nursery:
        for address in ADDRESSES:
            nursery.start_soon(network_of(sea, address, expect, tmp_path, monkeypatch).join)
        await trio.sleep(120)
        assert sea.islands() == halves
        sea.cut.clear()
        await trio.sleep(10)
        # Servers that were not told how many they are take two for all.
        assert sea.islands() == ({frozenset(ADDRESSES)} if expect else halves)
        nursery.cancel_scope.cancel()


async def test_who_knows_all_servers_asks_nobody_until_one_is_missed(
    autojump_clock: MockClock, sea: Sea, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trio.open_nursery() as nursery:
        for address in ADDRESSES:
            nursery.start_soon(network_of(sea, address, 4, tmp_path, monkeypatch).join)
        await trio.sleep(60)
        assert sea.islands() == {frozenset(ADDRESSES)}
        before = {address: shore.joins for address, shore in sea.shores.items()}
        await trio.sleep(600)
        assert {address: shore.joins for address, shore in sea.shores.items()} == before
        sea.fail(ADDRESSES[3])
        await trio.sleep(20)
        assert all(sea.shores[address].joins > before[address] for address in ADDRESSES[:3])
        nursery.cancel_scope.cancel()
