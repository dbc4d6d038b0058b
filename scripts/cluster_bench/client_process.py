"""Many clients in one process: each has a real connection to a server, a lease that it renews, and allocations that it
only says it runs.

    client_process.py FIRST COUNT SERVERS   (the number of the first node; addresses joined by commas)

Words on standard input, a JSON line back: ``look`` (how many have a lease, how many allocations run), ``renew``
(everybody beats now; answers after how many seconds the last lease was renewed).
"""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import time
from typing import Any

import trio
from cluster_builders import SECRET, make_node, node_id

from nomadpy.agent.collector import collect_seldom
from nomadpy.model.alloc import AllocUpdate, TaskState
from nomadpy.model.errors import NomadError
from nomadpy.model.node import DriverInfo
from nomadpy.rpc.connection import Connection
from nomadpy.rpc.dial import Dialer
from nomadpy.rpc.frames import CLIENT, Hello
from nomadpy.rpc.handlers import Handlers
from nomadpy.rpc.remote import RemoteServers


class PretendClient:
    """One node."""

    def __init__(self, number: int, servers: list[str]) -> None:
        self.number, self.id = number, node_id(number)
        self.remote = RemoteServers(
            servers,
            dial=Dialer().rpc,
            hello=Hello(role=CLIENT, name=f"node-{number}", id=self.id, region="global", build="0"),
            handlers=Handlers(),
            rng=random.Random(number),
            on_change=self._note_connection,
        )
        self.leased_at = 0.0
        self.running: dict[str, int] = {}
        self.n_failed = 0
        self.n_connections = 0

    def _note_connection(self, connection: Connection | None) -> None:
        self.n_connections += connection is not None

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.remote.run)
            # A fleet that starts at once is spread a little, as machines are.
            await trio.sleep(random.uniform(0, 8))
            driver = {"raw_exec": DriverInfo(detected=True, healthy=True)}
            await self._insist(self.remote.register_node, make_node(self.number, drivers=driver))
            nursery.start_soon(self._beat)
            nursery.start_soon(self._obey)

    async def _insist(self, call: Any, *args: Any) -> Any:
        while True:
            try:
                return await call(*args)
            except NomadError:
                self.n_failed += 1
                await trio.sleep(random.uniform(0.5, 1.5))

    async def beat(self) -> float:
        lease = await self._insist(self.remote.heartbeat, self.id, SECRET, "ready")
        self.leased_at = time.monotonic()
        return float(lease.heartbeat_ttl_s)

    async def _beat(self) -> None:
        while True:
            await trio.sleep(await self.beat() * random.uniform(0.5, 0.9))

    async def _obey(self) -> None:
        after = 0
        while True:
            orders = await self._insist(self.remote.wait_assignments, self.id, SECRET, after, 300.0)
            after = orders.index
            news = [one for one, index in orders.allocs.items() if self.running.get(one) != index]
            self.running = dict(orders.allocs)
            if not news:
                continue
            allocs = await self._insist(self.remote.get_allocs, self.id, SECRET, news)
            updates = [self._update(a) for a in allocs if not a.client_terminal() and a.client_status != "running"]
            if updates:
                await self._insist(self.remote.update_allocs, self.id, SECRET, updates)

    def _update(self, alloc: Any) -> AllocUpdate:
        stops = alloc.server_terminal()
        status, state = ("complete", "dead") if stops else ("running", "running")
        return AllocUpdate(id=alloc.id, client_status=status, task_states={"t": TaskState(state=state)})


class Process:
    def __init__(self, clients: list[PretendClient]) -> None:
        self.clients = clients

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            # As in an agent: otherwise more than half of the time goes into looking for garbage among a thousand clients.
            nursery.start_soon(collect_seldom, lambda: True)
            for client in self.clients:
                nursery.start_soon(client.run)
            await self._answer()
            nursery.cancel_scope.cancel()

    async def _answer(self) -> None:
        stdin = trio.lowlevel.FdStream(os.dup(0))
        while data := await stdin.receive_some(4096):
            for word in data.decode().split():
                print(json.dumps(await getattr(self, f"do_{word}")()), flush=True)

    async def do_look(self) -> dict[str, Any]:
        return {
            "leased": sum(client.leased_at > 0 for client in self.clients),
            "allocs": sum(len(client.running) for client in self.clients),
            "failed": sum(client.n_failed for client in self.clients),
            "connections": sum(client.n_connections for client in self.clients),
            "cpu_s": time.process_time(),
        }

    async def do_renew(self) -> dict[str, float]:
        began = time.monotonic()
        async with trio.open_nursery() as nursery:
            for client in self.clients:
                nursery.start_soon(client.beat)
        renewed = sorted(client.leased_at - began for client in self.clients)
        return {"last_s": renewed[-1], "median_s": renewed[len(renewed) // 2]}


def main() -> None:
    logging.disable(logging.WARNING)
    first, count, servers = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(",")
    trio.run(Process([PretendClient(number, servers) for number in range(first, first + count)]).run)


if __name__ == "__main__":
    main()
