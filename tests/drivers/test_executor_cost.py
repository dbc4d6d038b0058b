"""What an executor may cost, since there is one for every task of a node."""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from process_bench import ProcessBench

RSS_KIB_MAX = 10_240
PARALLEL = 50
# 200 allocations have 10 s on two shared cores; a machine that runs other tests beside gets three times that.
PARALLEL_S_MAX = 3 * 10 * PARALLEL / 200


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[ProcessBench]:
    place = ProcessBench(tmp_path, "raw_exec")
    yield place
    await place.clean()


async def test_an_executor_is_small(bench: ProcessBench) -> None:
    async with bench.running():
        handle = await bench.start(bench.task({"command": "sleep", "args": ["1000"]}))
        status = await trio.Path(f"/proc/{handle.state['executor_pid']}/status").read_text()
    rss_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert rss_kib <= RSS_KIB_MAX


@pytest.mark.slow
async def test_many_start_at_once(bench: ProcessBench) -> None:
    latencies = []

    async def start() -> None:
        began = trio.current_time()
        await bench.start(bench.task({"command": "sleep", "args": ["1000"]}))
        latencies.append(trio.current_time() - began)

    async with bench.running() as driver:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(PARALLEL):
                nursery.start_soon(start)
        assert trio.current_time() - began < PARALLEL_S_MAX, statistics.quantiles(latencies)
        async with trio.open_nursery() as nursery:
            for handle in bench.handles:
                nursery.start_soon(lambda task_id=handle.task_id: driver.destroy_task(task_id, force=True))
