"""Frees the disk of finished allocations: oldest first, when the disk, its inodes or their number say so."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import trio

from nomadpy.client.config import GcConfig
from nomadpy.model.errors import Unavailable

if TYPE_CHECKING:
    from nomadpy.client.alloc_runner import AllocRunner
    from nomadpy.client.client import Client

log = logging.getLogger(__name__)


class DiskUse(msgspec.Struct, frozen=True):
    """Percent used of the file system that holds the allocations."""

    disk_percent: float = 0.0
    inode_percent: float = 0.0


def disk_use(path: str) -> DiskUse:
    """The use of the file system of ``path``. Blocks shortly."""
    usage = shutil.disk_usage(path)
    inodes = os.statvfs(path)
    used_inodes = (inodes.f_files - inodes.f_ffree) * 100 / inodes.f_files if inodes.f_files else 0.0
    return DiskUse((usage.total - usage.free) * 100 / usage.total if usage.total else 0.0, used_inodes)


def reason_to_collect(config: GcConfig, use: DiskUse, n_allocs: int) -> str:
    """Why one more finished allocation should go, "" when nothing demands it.

    >>> reason_to_collect(GcConfig(), DiskUse(85.0, 10.0), 3)
    'disk usage of 85.0 is over gc threshold of 80.0'
    """
    if use.disk_percent > config.disk_usage_threshold:
        return f"disk usage of {use.disk_percent:.1f} is over gc threshold of {config.disk_usage_threshold:.1f}"
    if use.inode_percent > config.inode_usage_threshold:
        return f"inode usage of {use.inode_percent:.1f} is over gc threshold of {config.inode_usage_threshold:.1f}"
    if n_allocs > config.max_allocs:
        return f"number of allocations ({n_allocs}) is over the limit ({config.max_allocs})"
    return ""


class GarbageCollector:
    """Looks at the disk every ``gc_interval`` and whenever an allocation is added."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._wake = trio.Event()

    def alloc_added(self) -> None:
        """There may be one too many now."""
        self._wake.set()

    async def run(self) -> None:
        """Collects for ever."""
        while True:
            with trio.move_on_after(self._client.config.gc.interval_ns / 1e9):
                await self._wake.wait()
            self._wake = trio.Event()
            await self._collect_needed()

    def _finished(self) -> list[AllocRunner]:
        """Allocations whose end the servers know, oldest end first."""
        finished = [r for r in self._client.runners.values() if r.finished and r.local.acknowledged]
        return sorted(finished, key=_finished_at_ns)

    async def _collect_needed(self) -> None:
        config = self._client.config
        while finished := self._finished():
            use = await trio.to_thread.run_sync(disk_use, config.alloc_dir)
            reason = reason_to_collect(config.gc, use, len(self._client.runners))
            if not reason:
                return
            log.info("gc.collecting", extra={"fields": {"reason": reason, "n_finished": len(finished)}})
            n_before = len(self._client.runners)
            await self._destroy(finished[: max(1, config.gc.parallel_destroys)])
            if len(self._client.runners) >= n_before:
                return  # nothing could be removed; the log says why, and the next round tries again

    async def collect_all(self) -> None:
        """Removes every finished allocation whose end the servers know, asked for by an operator."""
        await self._destroy(self._finished())

    async def collect(self, runner: AllocRunner) -> None:
        """Removes one finished allocation, asked for by an operator. Raises Unavailable while its end is unreported."""
        if not runner.local.acknowledged:
            raise Unavailable(f"the end of allocation {runner.alloc.id} has not reached the servers yet; try again")
        await self._destroy([runner])

    async def _destroy(self, runners: Sequence[AllocRunner]) -> None:
        limit = trio.CapacityLimiter(max(1, self._client.config.gc.parallel_destroys))

        async def one(runner: AllocRunner) -> None:
            async with limit:
                await self._client.destroy_alloc(runner)

        async with trio.open_nursery() as nursery:
            for runner in runners:
                nursery.start_soon(one, runner)


def _finished_at_ns(runner: AllocRunner) -> int:
    return max((state.finished_at_ns for state in runner.task_states().values()), default=0)
