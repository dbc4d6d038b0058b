"""What a container uses, computed from the engine's counters.

Source: the fields of ``ContainerStats`` in the Docker Engine API; the percentage is the container's part of the time
that all processors spent, times their number, as in ``docker stats``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nomadpy.model.alloc import ResourceUsage, ResourceUsageCpu, ResourceUsageMemory, TaskResourceUsage

CPU_MEASURED = ("Throttled Periods", "Throttled Time", "Percent", "User Mode", "System Mode")
MEMORY_MEASURED_V1 = ("RSS", "Cache", "Swap", "Mapped File", "Usage", "Max Usage")
MEMORY_MEASURED_V2 = ("RSS", "Cache", "Mapped File", "Usage")


def usage(now: Mapping[str, Any], last: Mapping[str, Any], *, node_cpu_mhz: int, now_ns: int) -> TaskResourceUsage:
    """The usage between two answers of the engine. An empty ``last`` stands for the machine's start, which gives an
    average that is too low rather than none."""
    return TaskResourceUsage(
        resource_usage=ResourceUsage(
            memory_stats=_memory(now.get("memory_stats", {})), cpu_stats=_cpu(now, last, node_cpu_mhz)
        ),
        timestamp_ns=now_ns,
    )


def _cpu(now: Mapping[str, Any], last: Mapping[str, Any], node_cpu_mhz: int) -> ResourceUsageCpu:
    stats, before = now.get("cpu_stats", {}), last.get("cpu_stats", {})
    n_cpus = stats.get("online_cpus") or len(stats.get("cpu_usage", {}).get("percpu_usage") or ()) or 1
    elapsed_ns = stats.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)

    def percent(name: str) -> float:
        spent_ns = stats.get("cpu_usage", {}).get(name, 0) - before.get("cpu_usage", {}).get(name, 0)
        return 100.0 * n_cpus * spent_ns / elapsed_ns if elapsed_ns > 0 and spent_ns > 0 else 0.0

    total = percent("total_usage")
    throttling = stats.get("throttling_data", {})
    return ResourceUsageCpu(
        system_mode=percent("usage_in_kernelmode"),
        user_mode=percent("usage_in_usermode"),
        percent=total,
        total_ticks=total / 100.0 * node_cpu_mhz / n_cpus,
        throttled_periods=throttling.get("throttled_periods", 0),
        throttled_time=throttling.get("throttled_time", 0),
        measured=CPU_MEASURED,
    )


def _memory(stats: Mapping[str, Any]) -> ResourceUsageMemory:
    details = stats.get("stats", {})
    usage_bytes = stats.get("usage", 0)
    if "anon" in details:
        return ResourceUsageMemory(
            rss=details["anon"],
            cache=details.get("file", 0),
            mapped_file=details.get("file_mapped", 0),
            usage=usage_bytes,
            kernel_usage=details.get("kernel_stack", 0) + details.get("slab", 0),
            measured=MEMORY_MEASURED_V2,
        )
    return ResourceUsageMemory(
        rss=details.get("total_rss", details.get("rss", 0)),
        cache=details.get("total_cache", details.get("cache", 0)),
        swap=details.get("total_swap", details.get("swap", 0)),
        mapped_file=details.get("total_mapped_file", details.get("mapped_file", 0)),
        usage=usage_bytes,
        max_usage=stats.get("max_usage", 0),
        measured=MEMORY_MEASURED_V1,
    )
