"""What a machine and its allocations use, measured only when somebody asks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import psutil

from nomadpy.model.alloc import (
    AllocResourceUsage,
    ResourceUsage,
    ResourceUsageCpu,
    ResourceUsageMemory,
    TaskResourceUsage,
)
from nomadpy.rpc.contract import HostStats

_MB = 1024 * 1024
# File systems that say nothing about disk space.
_PSEUDO = frozenset(("squashfs", "overlay", "nsfs", "proc", "sysfs", "cgroup2", "cgroup", "devpts", "mqueue"))


class HostMeter:
    """Remembers the processors' times of the last reading; the percentages are those since then. Blocks shortly."""

    def __init__(self, total_mhz: int, alloc_dir: str) -> None:
        self._total_mhz = total_mhz
        self._alloc_dir = alloc_dir
        self._last = psutil.cpu_times(percpu=True)

    def read(self, now_ns: int) -> HostStats:
        """The state of the machine; ``now_ns`` is Unix time."""
        memory = psutil.virtual_memory()
        cpus = self._cpus()
        return HostStats(
            memory={
                "Total": memory.total,
                "Available": memory.available,
                "Used": memory.used,
                "Free": memory.free,
            },
            cpu=cpus,
            disk_stats=tuple(_disk(p.device, p.mountpoint) for p in _disks()),
            alloc_dir_stats=_disk(self._alloc_dir, self._alloc_dir),
            uptime=max(0, now_ns // 1_000_000_000 - int(psutil.boot_time())),
            timestamp_ns=now_ns,
            cpu_ticks_consumed=sum(float(cpu["TotalTicks"]) for cpu in cpus),
        )

    def _cpus(self) -> tuple[dict[str, Any], ...]:
        now, last = psutil.cpu_times(percpu=True), self._last
        self._last = now
        mhz = self._total_mhz / len(now) if now else 0.0
        return tuple(
            _cpu(f"cpu{i}", current, before, mhz) for i, (current, before) in enumerate(zip(now, last, strict=False))
        )


def _cpu(name: str, now: Any, before: Any, mhz: float) -> dict[str, Any]:
    spent = {field: max(0.0, getattr(now, field) - getattr(before, field)) for field in now._fields}
    # Linux counts guest time in user time already.
    total = sum(value for field, value in spent.items() if not field.startswith("guest"))
    share = {field: value * 100 / total if total else 0.0 for field, value in spent.items()}
    busy = 100.0 - share["idle"] - share.get("iowait", 0.0) if total else 0.0
    return {
        "CPU": name,
        "User": share["user"] + share.get("nice", 0.0),
        "System": share["system"],
        "Idle": share["idle"] if total else 100.0,
        "TotalPercent": busy,
        "TotalTicks": busy * mhz / 100,
    }


def _disks() -> list[Any]:
    return [part for part in psutil.disk_partitions(all=False) if part.fstype not in _PSEUDO]


def _disk(device: str, mountpoint: str) -> dict[str, Any]:
    try:
        stat = os.statvfs(mountpoint)
    except OSError:
        # Unmounted or unreadable since it was listed; a line of zeros still names it.
        return {"Device": device, "Mountpoint": mountpoint, "Size": 0, "Used": 0, "Available": 0} | _percents(0, 0)
    size, free = stat.f_blocks * stat.f_frsize, stat.f_bfree * stat.f_frsize
    available = stat.f_bavail * stat.f_frsize
    used = size - free
    inodes = (stat.f_files - stat.f_ffree) * 100 / stat.f_files if stat.f_files else 0.0
    return {"Device": device, "Mountpoint": mountpoint, "Size": size, "Used": used, "Available": available} | _percents(
        used * 100 / (used + available) if used + available else 0.0, inodes
    )


def _percents(used: float, inodes: float) -> dict[str, float]:
    return {"UsedPercent": used, "InodesUsedPercent": inodes}


def sum_usage(tasks: Mapping[str, TaskResourceUsage], now_ns: int) -> AllocResourceUsage:
    """An allocation's use from that of its tasks."""
    usages = [usage.resource_usage for usage in tasks.values()]
    total = ResourceUsage(
        memory_stats=_sum_memory([usage.memory_stats for usage in usages]),
        cpu_stats=_sum_cpu([usage.cpu_stats for usage in usages]),
        device_stats=tuple(device for usage in usages for device in usage.device_stats),
    )
    return AllocResourceUsage(resource_usage=total, tasks=dict(tasks), timestamp_ns=now_ns)


def _measured(stats: Iterable[ResourceUsageMemory | ResourceUsageCpu]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for stat in stats for name in stat.measured))


def _sum_memory(stats: list[ResourceUsageMemory]) -> ResourceUsageMemory:
    fields = [f for f in ResourceUsageMemory.__struct_fields__ if f != "measured"]
    sums: dict[str, Any] = {field: sum(getattr(stat, field) for stat in stats) for field in fields}
    return ResourceUsageMemory(**sums, measured=_measured(stats))


def _sum_cpu(stats: list[ResourceUsageCpu]) -> ResourceUsageCpu:
    fields = [f for f in ResourceUsageCpu.__struct_fields__ if f != "measured"]
    sums: dict[str, Any] = {field: sum(getattr(stat, field) for stat in stats) for field in fields}
    return ResourceUsageCpu(**sums, measured=_measured(stats))
