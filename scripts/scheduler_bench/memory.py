"""How many bytes an allocation costs: as it waits to be started, and as it runs with what its node reported.

The log keeps its newest entries in memory as well. So what went through it is applied once more in a process that has
nothing but the state, and that process is measured.
"""

from __future__ import annotations

import multiprocessing
import struct
import time
from pathlib import Path
from typing import Any

import trio

from nomadpy.model.alloc import AllocDeploymentStatus, AllocUpdate, TaskEvent, TaskState
from nomadpy.server.server import Server
from nomadpy.state import commands as c
from nomadpy.state.store import StateStore
from scheduler_bench import world

_BATCH = 200


async def memory(directory: Path, scale: float) -> dict[str, Any]:
    from scheduler_bench.workloads import checked, place_all

    n_jobs, count = int(100 * scale) or 1, 10_000
    entries = directory.with_name("entries")
    with entries.open("wb") as file:
        async with world.running(directory, 5000, entries=file) as server:
            await place_all(server, [world.job("warm-up", count=1000)])
            marks = [server.store.index]
            result = await place_all(server, [world.job(f"memory-{n}", count=count) for n in range(n_jobs)])
            marks.append(server.store.index)
            n_running = result["placements"] // 5
            with world.Timed() as reports:
                await report_running(server, n_running)
            marks.append(server.store.index)
            n_placed = result["placements"]
            result["placements"] += 1000
            await decided(server)
            await checked(server, directory, result, again=False)
    sizes = await trio.to_thread.run_sync(sizes_at, entries, marks)
    pending = (sizes[1] - sizes[0]) / n_placed
    result["detail"] = result.get("detail", {}) | {
        "pending_bytes": round(pending),
        "running_bytes": round((sizes[2] - sizes[1]) / n_running + pending),
        "reports_per_s": round(n_running / reports.seconds),
    }
    return result


def sizes_at(entries: Path, marks: list[int]) -> list[int]:
    """The memory of a process that applied the entries, at some of their indexes."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_apply_all, args=(entries, marks, theirs))
    process.start()
    sizes: list[int] = ours.recv()
    process.join()
    return sizes


def _apply_all(entries: Path, marks: list[int], pipe: Any) -> None:
    store, sizes = StateStore(), []
    with entries.open("rb") as file:
        while head := file.read(16):
            index, length = struct.unpack("<QQ", head)
            store.apply(index, c.decode(file.read(length)))
            if index in marks:
                sizes.append(world.rss_bytes())
    pipe.send(sizes)


async def decided(server: Server) -> None:
    """Returns once nothing waits to be evaluated: what becomes healthy has the watcher of deployments ask for that."""
    while any(not evaluation.terminal() for evaluation in server.store.evals.values()):
        await server.watch.changed("evals")


async def report_running(server: Server, n_allocs: int) -> None:
    """Has the first allocations reported as running and healthy, as nodes do, some at a time."""
    table, base_ns = server.store.allocs, time.time_ns()
    for first in range(0, n_allocs, _BATCH):
        updates = tuple(
            update(table.ids.uuid(row), base_ns + row * 1_000_003)
            for row in range(first, min(first + _BATCH, n_allocs))
        )
        await server.propose(c.UpdateAllocs(now_ns=base_ns, updates=updates))


def update(alloc_id: str, now_ns: int) -> AllocUpdate:
    """The report of an allocation whose one task was started."""
    events = (
        TaskEvent(type="Received", time_ns=now_ns, display_message="Task received by client"),
        TaskEvent(
            type="Task Setup",
            time_ns=now_ns + 1_234_567,
            message="Building Task Directory",
            display_message="Building Task Directory",
            details={"message": "Building Task Directory"},
        ),
        TaskEvent(type="Started", time_ns=now_ns + 9_876_543, display_message="Task started by client"),
    )
    state = TaskState(state="running", started_at_ns=now_ns + 9_876_543, events=events)
    return AllocUpdate(
        id=alloc_id,
        client_status="running",
        client_description="Tasks are running",
        task_states={"web": state},
        deployment_status=AllocDeploymentStatus(healthy=True, timestamp_ns=now_ns + 10_000_000_000),
        modify_time_ns=now_ns,
    )
