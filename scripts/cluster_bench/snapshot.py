"""A follower that has nothing gets the leader's snapshot; then what reading a real state out of one takes."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import trio

from cluster_bench.figures import Figure
from cluster_bench.raft_world import RaftProcess, free_ports, wait_for
from nomadpy.model.caller import ANYONE
from nomadpy.raft.memory import MemoryLog
from nomadpy.server.config import ServerConfig
from nomadpy.server.messages import JobRegisterRequest
from nomadpy.server.server import Server
from nomadpy.state.snapshot import freeze, read_at


def transfer(directory: Path, megabytes: int) -> Iterator[Figure]:
    """Read from disk, sent, checked, stored with a sync, and taken over. The state is bytes, so that reading them costs
    nothing: ``reading`` measures that by itself."""
    directory.mkdir(parents=True)
    os.environ["BENCH_SNAPSHOT_EVERY"] = str(megabytes)
    ports = free_ports(2)
    leader = RaftProcess(directory, 0, ports, ["s0"], None)
    follower = None
    try:
        wait_for(lambda: leader.ask("look")["leading"], "a leader")
        leader.ask(f"fill {megabytes}")
        wait_for(lambda: leader.ask("look")["snapshot"], "a snapshot", timeout_s=120)
        follower = RaftProcess(directory, 1, ports, [], None)
        before = [one.ask("look")["cpu_s"] for one in (leader, follower)]
        began = time.monotonic()
        leader.ask("learner s1")
        size = megabytes << 20
        wait_for(lambda: follower.ask("look")["size"] >= size, "the state", timeout_s=300, pause_s=0.02)
        took = time.monotonic() - began
        cpu = [one.ask("look")["cpu_s"] - so_far for one, so_far in zip((leader, follower), before, strict=True)]
    finally:
        for one in (leader, follower):
            if one is not None:
                one.end()
    note = f"{took:.1f} s until stored; cpu {cpu[0]:.2f} s to send, {cpu[1]:.2f} s to receive, check and store"
    yield Figure(f"an empty follower gets {megabytes} MB", size / 1e6 / took, "MB/s", at_least=100, note=note)


def reading(n_jobs: int = 20_000) -> Iterator[Figure]:
    """What comes on top where the state is a server's: its jobs, from bytes to records."""
    data, tracked_versions = trio.run(state_of_jobs, n_jobs)
    began, cpu_began = time.perf_counter(), time.process_time()
    store = read_at(1_000_000, data, tracked_versions=tracked_versions)
    took, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    assert len(store.jobs.current) == n_jobs
    note = f"{n_jobs} jobs, {len(data) / 1e6:.0f} MB, in a thread; {took:.2f} s, cpu {cpu:.2f} s"
    yield Figure("and reads a state of jobs in it, on top of that", len(data) / 1e6 / took, "MB/s", note=note)


async def state_of_jobs(n_jobs: int) -> tuple[bytes, int]:
    """The snapshot of a server with so many different jobs."""
    config, rng = ServerConfig(), random.Random(1)
    server = Server(config, MemoryLog)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        while not server.leading:
            await trio.sleep(0.01)
        for number in range(n_jobs):
            env = {f"KEY_{key}": rng.randbytes(20).hex() for key in range(20)}
            task = {"Name": "t", "Driver": "raw_exec", "Config": {"command": "x"}, "Env": env}
            group = {"Name": "g", "Count": 0, "Tasks": [task]}
            job = {"ID": f"job-{number}", "Datacenters": ["dc1"], "TaskGroups": [group]}
            await server.jobs.register(ANYONE, JobRegisterRequest(job=job))
        data = freeze(server.store)()
        nursery.cancel_scope.cancel()
    return data, config.job_tracked_versions
