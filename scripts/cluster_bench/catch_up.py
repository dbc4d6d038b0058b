"""A follower that has nothing, and a server that starts again with a long log."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import trio
from cluster_agents import NOMADPY, Api, Failed, Loopback, NoAnswer

from cluster_bench import snapshot
from cluster_bench.figures import Figure
from cluster_bench.raft_world import make_cold, wait_for
from nomadpy.model.caller import ANYONE
from nomadpy.raft.raftlog import RaftLog
from nomadpy.server.config import ServerConfig
from nomadpy.server.messages import JobRegisterRequest
from nomadpy.server.server import Server

JOB_BYTES = 64_000
SERVER_ID = "11111111-2222-3333-4444-555555555555"


def run(directory: Path, full: bool) -> Iterator[Figure]:
    """The snapshot over the wire; then the long log."""
    megabytes = 1000 if full else 300
    yield from snapshot.transfer(directory / "transfer", megabytes)
    yield from snapshot.reading()
    yield from restart(directory / "restart", 1000 if full else 128)


def restart(directory: Path, megabytes: int) -> Iterator[Figure]:
    """A log of large jobs, which no snapshot shortened."""
    empty_s, _, _, _ = start(directory / "empty", 0)
    n_jobs = megabytes * 1_000_000 // JOB_BYTES
    took, cpu_s, size, known = start(directory / "long", n_jobs)
    assert known == n_jobs, f"{known} jobs of {n_jobs} are there again"
    per_gb = empty_s + (took - empty_s) / (size / 1e9)
    note = f"cpu {cpu_s:.1f} s; {n_jobs} entries; {empty_s:.1f} s with an empty log, so {per_gb:.1f} s with a GB"
    whole = size >= 1e9
    yield Figure(
        f"a server starts with a log of {size / 1e6:.0f} MB", took, "s", at_most=20 if whole else None, note=note
    )
    if not whole:
        yield Figure("a server starts with a log of a GB (reckoned from that)", per_gb, "s", at_most=20)


def start(directory: Path, n_jobs: int) -> tuple[float, float, int, int]:
    """Fills a log and starts a server on it, which reads it from the disk: seconds until it leads, of the clock and of
    cpu, bytes of the log, how many jobs it knows."""
    data, net = directory / "data", Loopback()
    (data / "server").mkdir(parents=True)
    (data / "server" / "server-id").write_text(SERVER_ID)
    trio.run(fill, data / "server" / "raft", n_jobs)
    size = make_cold(data / "server" / "raft" / "log")
    config = directory / "server.hcl"
    config.write_text("server { raft_snapshot_threshold = 100000000 }\n")
    address = net.address(1)
    flags = ["-server", "-bootstrap-expect", "1", "-bind", address, "-data-dir", str(data), "-config", str(config)]
    began = time.monotonic()
    process = subprocess.Popen([NOMADPY, "agent", *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: leads(address), "a leader", timeout_s=300)
        took, cpu = time.monotonic() - began, psutil.Process(process.pid).cpu_times()
        known = len(Api(address).get("/v1/jobs", timeout_s=60))
    finally:
        process.kill()
        process.wait()
    return took, cpu.user + cpu.system, size, known


def leads(address: str) -> bool:
    """Whether the server answers and leads."""
    try:
        return bool(Api(address).get("/v1/status/leader", timeout_s=5))
    except (NoAnswer, Failed):
        return False


async def fill(directory: Path, n_jobs: int) -> None:
    """Registers jobs with real commands through a real server in this process."""
    server = Server(
        ServerConfig(id=SERVER_ID), lambda apply: RaftLog(directory, apply, name=SERVER_ID, voters=(SERVER_ID,))
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        while not server.leading:
            await trio.sleep(0.05)

        async def register(number: int) -> None:
            task = {"Name": "t", "Driver": "raw_exec", "Config": {"command": "x", "args": ["x" * JOB_BYTES]}}
            group = {"Name": "g", "Count": 0, "Tasks": [task]}
            job = {"ID": f"job-{number}", "Datacenters": ["dc1"], "TaskGroups": [group]}
            await server.jobs.register(ANYONE, JobRegisterRequest(job=job))

        for first in range(0, n_jobs, 16):
            async with trio.open_nursery() as some:
                for number in range(first, min(n_jobs, first + 16)):
                    some.start_soon(register, number)
        nursery.cancel_scope.cancel()
