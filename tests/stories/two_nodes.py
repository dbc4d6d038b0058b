"""A server, two clients and the HTTP API in this process, by the real clock, and the command line against them."""

from __future__ import annotations

import functools
import os
import random
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from agent import NOMADPY

from nomadpy.api.context import ApiContext
from nomadpy.api.router import Router
from nomadpy.api.routes import OPERATIONS
from nomadpy.api.serve import serve
from nomadpy.client.client import Client
from nomadpy.client.config import ClientConfig
from nomadpy.drivers.contract import DriverContext
from nomadpy.drivers.mock import MockDriver
from nomadpy.model.alloc import Allocation
from nomadpy.model.caller import ANYONE
from nomadpy.raft.memory import MemoryLog
from nomadpy.server.config import ServerConfig
from nomadpy.server.messages import JobRegisterRequest
from nomadpy.server.server import Server


@dataclass
class TwoNodes:
    server: Server
    clients: list[Client]
    address: str

    def node_id(self, number: int) -> str:
        return self.clients[number].node_id

    async def run(self, spec: dict[str, Any]) -> None:
        """Registers a job."""
        await self.server.jobs.register(ANYONE, JobRegisterRequest(job=spec))

    async def cli(self, *args: str) -> subprocess.CompletedProcess[bytes]:
        """Runs ``nomadpy`` with these words, and gives its exit code and output."""
        env = {**os.environ, "NOMAD_ADDR": self.address}
        command = [str(NOMADPY), *args]
        return await trio.run_process(command, env=env, capture_stdout=True, capture_stderr=True, check=False)

    def running(self, job_id: str, number: int) -> list[Allocation]:
        """The job's allocations that run on a node and are to stay there."""
        found = self.server.store.allocs_by_job("default", job_id)
        here = [alloc for alloc in found if alloc.node_id == self.node_id(number)]
        return [alloc for alloc in here if alloc.client_status == "running" and not alloc.server_terminal()]

    async def until(self, condition: Callable[[], bool], what: str, *, timeout_s: float = 20.0) -> None:
        """Waits until something is true of the state."""
        with trio.move_on_after(timeout_s):
            while not condition():
                await self.server.watch.changed("allocs", "nodes", "evals")
        assert condition(), f"{what} did not happen within {timeout_s} s"


@asynccontextmanager
async def two_nodes(directory: Path) -> AsyncIterator[TwoNodes]:
    """The cluster with both nodes ready."""
    server = Server(ServerConfig(), MemoryLog)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        clients = [await _join(nursery, server, directory / str(number)) for number in range(2)]
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        router = Router(ApiContext(server=server, client=clients[0]), OPERATIONS)
        await nursery.start(functools.partial(serve, router, listeners))
        port = listeners[0].socket.getsockname()[1]
        cluster = TwoNodes(server, clients, f"http://127.0.0.1:{port}")
        await cluster.until(lambda: [node.is_ready() for node in server.store.nodes] == [True, True], "both ready")
        yield cluster
        nursery.cancel_scope.cancel()


async def _join(nursery: trio.Nursery, server: Server, directory: Path) -> Client:
    config = ClientConfig(
        name=f"node-{directory.name}",
        alloc_dir=str(directory / "alloc"),
        state_dir=str(directory / "client"),
        network_interface="lo",
        dev_mode=True,
    )
    driver = MockDriver(DriverContext())
    client = Client(config, server.nodes, {"mock_driver": driver}, rng=random.Random(directory.name))
    await nursery.start(client.run)
    server.clients[client.node_id] = client
    return client
