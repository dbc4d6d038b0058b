"""How many bytes an allocation costs: as it waits to be started, and as it runs with what its node reported."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from nomadpy.model.alloc import AllocDeploymentStatus, AllocUpdate, TaskEvent, TaskState
from nomadpy.server.server import Server
from nomadpy.state import commands as c
from scheduler_bench import world

_BATCH = 200


async def memory(directory: Path, scale: float) -> dict[str, Any]:
    from scheduler_bench.workloads import checked, place_all

    n_jobs, count = int(100 * scale) or 1, 10_000
    async with world.running(directory, 5000) as server:
        await place_all(server, [world.job("warm-up", count=1000)])
        before = world.rss_bytes()
        result = await place_all(server, [world.job(f"memory-{n}", count=count) for n in range(n_jobs)])
        pending = (world.rss_bytes() - before) / result["placements"]
        n_running = result["placements"] // 5
        before, began = world.rss_bytes(), time.perf_counter()
        await report_running(server, n_running)
        seconds = time.perf_counter() - began
        running = (world.rss_bytes() - before) / n_running + pending
        result["placements"] += 1000
        result["detail"] = {
            "pending_bytes": round(pending),
            "running_bytes": round(running),
            "reports_per_s": round(n_running / seconds),
        }
        return await checked(server, directory, result, again=False)


async def report_running(server: Server, n_allocs: int) -> None:
    """Has the first allocations reported as running and healthy, as nodes do, some at a time."""
    table, base_ns = server.store.allocs, 1_700_000_000_000_000_000
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
