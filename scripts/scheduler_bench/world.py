"""A running server on a replicated log, nodes that are only records, and jobs as people send them."""

from __future__ import annotations

import cProfile
import gc
import random
import resource
import struct
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

import trio

from nomadpy.agent.collector import collect_seldom
from nomadpy.model.node import DriverInfo, Node
from nomadpy.model.node_class import computed_class
from nomadpy.model.resources import (
    NodeCpu,
    NodeDisk,
    NodeMemory,
    NodeNetwork,
    NodeNetworkAddress,
    NodeResources,
)
from nomadpy.raft.contract import Apply, Log
from nomadpy.raft.raftlog import RaftLog
from nomadpy.server.config import ServerConfig
from nomadpy.server.server import Server
from nomadpy.state import commands as c
from nomadpy.state.store import StateStore

SECRET = "5ec2e700-0000-0000-0000-000000000000"
PAGE = resource.getpagesize()
PROFILES: list[cProfile.Profile] = []  # where the timed part is profiled to, if anywhere
N_ZONES, N_TIERS, N_RACKS = 4, 3, 100


def node(number: int, *, big: bool = True) -> Node:
    """A machine; every eighth has half the resources of the others. ``big`` ones take hundreds of allocations."""
    scale = 1 if number % 8 else 2
    cpu, memory_mb, disk_mb = (51_200, 65_536, 200_000) if big else (16_000, 32_768, 100_000)
    made = Node(
        id=f"00000000-0000-0000-0000-{number:012d}",
        secret_id=SECRET,
        name=f"node-{number}",
        datacenter=f"dc{number % 3 + 1}",
        node_class="small" if scale == 2 else "large",
        attributes={
            "kernel.name": "linux",
            "cpu.arch": "amd64",
            "os.version": "22.04",
            "unique.hostname": f"n{number}",
        },
        meta={"zone": f"z{number % N_ZONES}", "tier": f"t{number // 7 % N_TIERS}", "rack": f"r{number % N_RACKS}"},
        drivers={
            "docker": DriverInfo(detected=True, healthy=True),
            "mock_driver": DriverInfo(detected=True, healthy=True),
        },
        node_resources=NodeResources(
            cpu=NodeCpu(cpu_shares=cpu // scale),
            memory=NodeMemory(memory_mb=memory_mb // scale),
            disk=NodeDisk(disk_mb=disk_mb // scale),
            node_networks=(
                NodeNetwork(
                    addresses=(
                        NodeNetworkAddress(address=f"10.{number // 65536}.{number // 256 % 256}.{number % 256}"),
                    )
                ),
            ),
        ),
    )
    return made.replace(computed_class=computed_class(made))


def constraint(left: str, right: str, operand: str = "=") -> dict[str, str]:
    return {"LTarget": left, "RTarget": right, "Operand": operand}


LINUX = constraint("${attr.kernel.name}", "linux")


def job(
    job_id: str,
    *,
    count: int,
    cpu: int = 100,
    memory_mb: int = 128,
    type: str = "service",
    constraints: Iterable[dict[str, str]] = (LINUX,),
    **changes: Any,
) -> dict[str, Any]:
    """A job as the HTTP API takes it."""
    networks = changes.pop("networks", None)
    group: dict[str, Any] = {
        "Name": "app",
        "Count": count,
        "Tasks": [
            {
                "Name": "web",
                "Driver": "docker",
                "Config": {"image": "registry.example/app:1.2.3", "args": ["-listen", ":8080"]},
                "Env": {"MODE": "production", "REGION": "here"},
                "Resources": {"CPU": cpu, "MemoryMB": memory_mb},
            }
        ],
    }
    if networks:
        group["Networks"] = networks
    made: dict[str, Any] = {
        "ID": job_id,
        "Name": job_id,
        "Type": type,
        "Datacenters": ["dc1", "dc2", "dc3"],
        "Constraints": list(constraints),
        "TaskGroups": [group],
    }
    return made | changes


@asynccontextmanager
async def running(
    directory: Path, n_nodes: int, *, big: bool = True, entries: IO[bytes] | None = None, **config: Any
) -> AsyncIterator[Server]:
    """A server that leads, with ready nodes. What goes through its log is written to ``entries``, too."""

    def make_log(apply: Apply) -> Log:
        def write_and_apply(index: int, data: bytes) -> Any:
            if entries is not None:
                entries.write(struct.pack("<QQ", index, len(data)) + data)
            return apply(index, data)

        return RaftLog(directory, write_and_apply, name="bench")

    server = Server(ServerConfig(job_max_count=10_000_000, **config), make_log)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        await add_nodes(server, [node(number, big=big) for number in range(n_nodes)])
        # As in an agent.
        nursery.start_soon(collect_seldom, lambda: True)
        await trio.lowlevel.checkpoint()
        yield server
        nursery.cancel_scope.cancel()


async def add_nodes(server: Server, nodes: list[Node]) -> None:
    """Registers nodes in their order and makes them ready."""

    async def ready(each: Node) -> None:
        await server.propose(c.UpdateNodeStatus(node_id=each.id, status="ready"), timeout_s=300)

    for start in range(0, len(nodes), 500):
        for made in nodes[start : start + 500]:
            async with trio.open_nursery() as nursery:
                # In order, so that numbers are the same in every run.
                nursery.start_soon(server.propose, c.RegisterNode(node=made))
        async with trio.open_nursery() as nursery:
            for made in nodes[start : start + 500]:
                nursery.start_soon(ready, made)


async def placed(server: Server, n_live: int) -> None:
    """Waits until so many allocations live and no evaluation waits for a worker."""
    store = server.store
    while store.allocs.live < n_live or store.open_evals:
        await server.watch.changed("allocs", "evals")


async def replay(directory: Path) -> StateStore:
    """The state that the log alone leads to."""
    store = StateStore()

    def apply(index: int, data: bytes) -> c.Outcome:
        return store.apply(index, c.decode(data))

    async with trio.open_nursery() as nursery:
        await nursery.start(RaftLog(directory, apply, name="bench").run)
        nursery.cancel_scope.cancel()
    return store


def rss_bytes() -> int:
    """Memory of this process now."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE


def rng() -> random.Random:
    """The same chance in every run."""
    return random.Random(20)


class Timed:
    """The wall time of what is done within, and the processor's time, which says more on a busy machine; profiled when
    ``PROFILES`` says so."""

    seconds = cpu_seconds = 0.0

    def __enter__(self) -> Timed:
        gc.collect()
        for profile in PROFILES:
            profile.enable()
        self._began, self._cpu_began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds, self.cpu_seconds = time.perf_counter() - self._began, time.process_time() - self._cpu_began
        for profile in PROFILES:
            profile.disable()
