"""The workloads. Each is a coroutine that gets a directory for its log and answers what it measured."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import quantiles
from typing import Any

import trio

from nomadpy.model.caller import ANYONE
from nomadpy.server.messages import JobRegisterRequest
from nomadpy.server.server import Server
from scheduler_bench import world
from scheduler_bench.checker import Wrong, check, fingerprint
from scheduler_bench.world import LINUX, N_TIERS, N_ZONES, constraint

Measured = dict[str, Any]
Workload = Callable[[Path, float], Awaitable[Measured]]
RawJobs = list[dict[str, Any]]


async def register_each(server: Server, jobs: RawJobs, *, at_once: int = 128) -> None:
    """Registers jobs one by one, some at a time, as many callers would."""
    left = iter(jobs)

    async def work() -> None:
        for raw in left:
            await server.jobs.register(ANYONE, JobRegisterRequest(job=raw))

    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(work)


async def place_all(server: Server, jobs: RawJobs) -> Measured:
    """Seconds from the first registration until everything is placed."""
    n_allocs = sum(group["Count"] for raw in jobs for group in raw["TaskGroups"])
    with world.Timed() as timed:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.placed, server, n_allocs)
            nursery.start_soon(register_each, server, jobs)
    return {"placements": n_allocs, "seconds": timed.seconds, "cpu_seconds": timed.cpu_seconds}


async def checked(server: Server, directory: Path, result: Measured, *, again: bool = True) -> Measured:
    """Adds whether what is stored holds, and whether the log alone leads to the same."""
    result["rss_mb"] = world.rss_bytes() >> 20
    try:
        if check(server.store) != result["placements"]:
            raise Wrong("not everything was placed")
        expected = fingerprint(server.store)
        if again and fingerprint(await replay_copy(directory)) != expected:
            raise Wrong("the log leads to another state")
        result["checked"] = True
    except Wrong as wrong:
        result["checked"], result["detail"] = False, {"wrong": str(wrong)}
    return result


async def replay_copy(directory: Path) -> Any:
    copy = directory.with_name(directory.name + "-copy")
    shutil.copytree(directory, copy)
    try:
        return await world.replay(copy)
    finally:
        shutil.rmtree(copy)


def c1m_jobs(n_jobs: int, count: int) -> RawJobs:
    """Services with two constraints each."""
    return [
        world.job(
            f"c1m-{number}",
            count=count,
            constraints=(LINUX, constraint("${meta.tier}", f"t{number % N_TIERS}", "!=")),
        )
        for number in range(n_jobs)
    ]


async def c1m(directory: Path, scale: float) -> Measured:
    async with world.running(directory, 5000) as server:
        return await checked(server, directory, await place_all(server, c1m_jobs(int(1000 * scale), 1000)))


async def c2m(directory: Path, scale: float) -> Measured:
    async with world.running(directory, 6100) as server:
        return await checked(server, directory, await place_all(server, c1m_jobs(int(2000 * scale), 1000)))


async def one_job(directory: Path, scale: float) -> Measured:
    async with world.running(directory, 5000) as server:
        jobs = [world.job("one", count=int(1_000_000 * scale), type="batch")]
        return await checked(server, directory, await place_all(server, jobs))


def mixed_jobs(n_jobs: int) -> RawJobs:
    """Small jobs of 64 sizes and 200 sets of three constraints, batch and service."""
    rng = world.rng()
    asks = [(rng.randrange(2, 40) * 25, rng.randrange(1, 32) * 32) for _ in range(64)]
    sets = [
        (
            LINUX,
            constraint("${meta.zone}", f"z{rng.randrange(N_ZONES)}", "!="),
            constraint("${meta.rack}", f"r{rng.randrange(100)}", "!="),
        )
        for _ in range(200)
    ]
    jobs = []
    for number in range(n_jobs):
        cpu, memory_mb = rng.choice(asks)
        jobs.append(
            world.job(
                f"mixed-{number}",
                count=rng.randrange(1, 11),
                cpu=cpu,
                memory_mb=memory_mb,
                type="service" if number % 2 else "batch",
                constraints=rng.choice(sets),
            )
        )
    return jobs


async def mixed(directory: Path, scale: float, n_nodes: int) -> Measured:
    async with world.running(directory, n_nodes, big=False, eval_batch=1024) as server:
        return await checked(server, directory, await place_prepared(server, mixed_jobs(int(10_000 * scale))))


async def place_prepared(server: Server, jobs: RawJobs) -> Measured:
    """As ``place_all``, but the time counts from the moment when every job is registered."""
    n_allocs = sum(group["Count"] for raw in jobs for group in raw["TaskGroups"])
    with paused(server):
        await register_each(server, jobs)
    with world.Timed() as timed:
        server.watch.publish(("broker",))
        await world.placed(server, n_allocs)
    return {"placements": n_allocs, "seconds": timed.seconds, "cpu_seconds": timed.cpu_seconds}


class paused:
    """While it lasts the broker gives nothing out."""

    def __init__(self, server: Server) -> None:
        self._store = server.store

    def __enter__(self) -> None:
        self._before = self._store.scheduler_config
        self._store.set_scheduler_config(self._before.replace(pause_eval_broker=True))

    def __exit__(self, *_: object) -> None:
        self._store.set_scheduler_config(self._before)


async def small_jobs(directory: Path, scale: float) -> Measured:
    jobs = [
        world.job(f"small-{number}", count=1, cpu=20 + number % 7, memory_mb=32, type="batch")
        for number in range(int(100_000 * scale))
    ]
    texts = [json.dumps({"Job": raw}).encode() for raw in jobs]
    async with world.running(directory, 5000, eval_batch=1024) as server:
        bodies = [b"\n".join(texts[at : at + 500]) for at in range(0, len(texts), 500)]
        left = iter(bodies)

        async def send() -> None:
            for body in left:
                answer = await server.bulk.register(ANYONE, body)
                if answer.refused:
                    raise Wrong(f"a job was refused: {answer.results[0].error}")

        with world.Timed() as timed:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.placed, server, len(jobs))
                for _ in range(4):
                    nursery.start_soon(send)
        result = {"placements": len(jobs), "seconds": timed.seconds, "cpu_seconds": timed.cpu_seconds}
        return await checked(server, directory, result)


async def lone(directory: Path, scale: float) -> Measured:
    n_before, n_lone = int(1000 * scale), 500
    async with world.running(directory, 5000) as server:
        await place_all(server, c1m_jobs(n_before, 1000))
        times = []
        for number in range(n_lone):
            raw = world.job(f"lone-{number}", count=1, cpu=50 + number % 5, type="batch")
            began = time.perf_counter()
            answer = await server.jobs.register(ANYONE, JobRegisterRequest(job=raw))
            while not server.store.evals[answer.eval_id].terminal():
                await server.watch.changed("evals")
            times.append(time.perf_counter() - began)
            await trio.sleep(0.005)
        cuts = quantiles(times, n=100)
        result = {"placements": n_before * 1000 + n_lone, "seconds": cuts[98], "jobs": n_lone}
        result["per_second"] = n_lone / sum(times)
        result["detail"] = {"p50_ms": round(cuts[49] * 1000, 2), "p99_ms": round(cuts[98] * 1000, 2)}
        return await checked(server, directory, result, again=False)


async def spread(directory: Path, scale: float) -> Measured:
    targets = [{"Value": f"dc{n + 1}", "Percent": percent} for n, percent in enumerate((50, 30, 20))]
    spreads = [{"Attribute": "${node.datacenter}", "Weight": 100, "SpreadTarget": targets}]
    count = int(100_000 * scale)
    async with world.running(directory, 5000) as server:
        jobs = [world.job("spread", count=count, type="batch", Spreads=spreads)]
        result = await checked(server, directory, await place_all(server, jobs))
        table = server.store.allocs
        held = [0, 0, 0]
        for number in table.node[: table.size].tolist():
            held[number % 3] += 1
        wanted = [count * percent // 100 for percent in (50, 30, 20)]
        # Spread is one scorer of several, so that the shares are met roughly.
        if any(abs(have - want) > count // 50 for have, want in zip(held, wanted, strict=True)):
            result["checked"], result["detail"] = False, {"wrong": f"spread {held} instead of {wanted}"}
        return result


async def ports(directory: Path, scale: float) -> Measured:
    networks = [{"DynamicPorts": [{"Label": "http"}, {"Label": "admin"}]}]
    async with world.running(directory, 5000) as server:
        jobs = [
            world.job(f"ports-{number}", count=1000, type="batch", networks=networks)
            for number in range(int(100 * scale))
        ]
        return await checked(server, directory, await place_all(server, jobs))


def workload(name: str) -> Workload:
    from scheduler_bench import memory, over_http

    return {
        "c1m": c1m,
        "c2m": c2m,
        "one-job": one_job,
        "mixed-5k": lambda directory, scale: mixed(directory, scale, 5000),
        "mixed-50k": lambda directory, scale: mixed(directory, scale, 50_000),
        "small-jobs": small_jobs,
        "http": over_http.one_by_one,
        "http-bulk": over_http.in_bulk,
        "lone": lone,
        "spread": spread,
        "ports": ports,
        "memory": memory.memory,
        "api-under-load": over_http.under_load,
    }[name]


WORKLOADS = {
    "c1m": "<= 3 s",
    "c2m": "<= 6 s",
    "one-job": "<= 0.5 s",
    "mixed-5k": ">= 100,000/s",
    "mixed-50k": ">= 100,000/s",
    "small-jobs": ">= 40,000 jobs/s",
    "http": ">= 2,000 jobs/s",
    "http-bulk": ">= 20,000 jobs/s",
    "lone": "p99 <= 5 ms",
    "spread": ">= 400,000/s",
    "ports": ">= 50,000/s",
    "memory": "<= 100 B pending, <= 600 B running",
    "api-under-load": "p99 <= 50 ms",
}


def run(name: str, *, scale: float, directory: Path | None) -> Measured:
    """One workload, in this process."""
    parent = directory or Path("/var/tmp")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=parent) as made:
        result = trio.run(workload(name), Path(made) / "raft", scale)
    result.setdefault("per_second", result["placements"] / result["seconds"])
    return {"workload": name, "target": WORKLOADS[name]} | result
