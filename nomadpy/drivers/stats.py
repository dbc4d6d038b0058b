"""What a task uses: from its cgroup where it has one, else by adding up its processes in /proc.

``percent`` is of one core over the time since the last sample; ``total_ticks`` is the same in MHz.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from nomadpy.drivers.cgroups import Cgroup
from nomadpy.drivers.executor import procfs
from nomadpy.model.alloc import ResourceUsage, ResourceUsageCpu, ResourceUsageMemory, TaskResourceUsage

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PIDS_SHOWN_MAX = 256

CPU_MEASURED = ("System Mode", "User Mode", "Percent")
CPU_MEASURED_CGROUP = (*CPU_MEASURED, "Throttled Periods", "Throttled Time")
MEMORY_MEASURED_PROC = ("RSS",)
MEMORY_MEASURED_CGROUP = ("RSS", "Cache", "Swap", "Mapped File", "Usage", "Max Usage")


@dataclass(frozen=True)
class CpuTimes:
    """Nanoseconds of CPU since the start."""

    total_ns: int = 0
    user_ns: int = 0
    system_ns: int = 0
    throttled_periods: int = 0
    throttled_ns: int = 0


@dataclass
class Sampler:
    """Remembers the last sample of one task, so that the next one can tell rates. Used by one caller at a time."""

    pid: int
    cgroup: Cgroup
    core_mhz: float
    started_ns: int
    _last_ns: int = 0
    _last: CpuTimes = CpuTimes()
    _last_by_pid: dict[int, CpuTimes] = field(default_factory=dict)

    def sample(self, now_ns: int) -> TaskResourceUsage:
        """The usage at ``now_ns``; all zero once the task is gone. Reads files, so it belongs into a thread."""
        elapsed_ns = max(1, now_ns - (self._last_ns or self.started_ns))
        pids = self._pids()
        times_by_pid = {pid: times for pid in pids if (times := _times_of_process(pid)) is not None}
        memory_by_pid = {pid: _memory_of_process(pid) for pid in times_by_pid}
        by_group = bool(self.cgroup.directories)
        times = _times_of_cgroup(self.cgroup) if by_group else None
        if times is None:
            by_group, times = False, _sum(times_by_pid.values())
        cpu = self._rate(times, self._last, elapsed_ns, by_group)
        memory = _memory_of_cgroup(self.cgroup) or _sum_memory(memory_by_pid.values())
        per_process = {
            str(pid): ResourceUsage(
                cpu_stats=self._rate(own, self._last_by_pid.get(pid, CpuTimes()), elapsed_ns, False),
                memory_stats=memory_by_pid[pid],
            )
            for pid, own in list(times_by_pid.items())[:_PIDS_SHOWN_MAX]
        }
        self._last_ns, self._last, self._last_by_pid = now_ns, times, times_by_pid
        return TaskResourceUsage(
            resource_usage=ResourceUsage(cpu_stats=cpu, memory_stats=memory), timestamp_ns=now_ns, pids=per_process
        )

    def _pids(self) -> list[int]:
        for directory in self.cgroup.paths():
            return procfs.cgroup_pids(directory)
        return descendants(self.pid)

    def _rate(self, now: CpuTimes, last: CpuTimes, elapsed_ns: int, by_group: bool) -> ResourceUsageCpu:
        percent = max(0.0, 100.0 * (now.total_ns - last.total_ns) / elapsed_ns)
        return ResourceUsageCpu(
            user_mode=max(0.0, 100.0 * (now.user_ns - last.user_ns) / elapsed_ns),
            system_mode=max(0.0, 100.0 * (now.system_ns - last.system_ns) / elapsed_ns),
            percent=percent,
            total_ticks=percent / 100.0 * self.core_mhz,
            throttled_periods=now.throttled_periods,
            throttled_time=now.throttled_ns,
            measured=CPU_MEASURED_CGROUP if by_group else CPU_MEASURED,
        )


def descendants(pid: int) -> list[int]:
    """The process and everything below it or in its session, found in /proc."""
    parents: dict[int, tuple[int, int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal() and (fields := _stat_fields(int(name))) is not None:
            parents[int(name)] = (int(fields[1]), int(fields[3]))
    found = {pid} if pid in parents else set()
    found |= {other for other, (_, session) in parents.items() if session == pid}
    grown = True
    while grown:
        more = {other for other, (parent, _) in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return sorted(found)


def _stat_fields(pid: int) -> list[bytes] | None:
    """The fields of /proc/PID/stat from the state on, so that index 1 is the parent and 3 the session."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            data = file.read()
    except OSError:
        return None
    return data[data.rindex(b")") + 2 :].split()


def _times_of_process(pid: int) -> CpuTimes | None:
    fields = _stat_fields(pid)
    if fields is None:
        return None
    user_ns, system_ns = int(fields[11]) * _TICK_NS, int(fields[12]) * _TICK_NS
    return CpuTimes(user_ns + system_ns, user_ns, system_ns)


def _memory_of_process(pid: int) -> ResourceUsageMemory:
    fields = _stat_fields(pid)
    rss = int(fields[21]) * _PAGE_BYTES if fields is not None else 0
    return ResourceUsageMemory(rss=rss, usage=rss, measured=MEMORY_MEASURED_PROC)


def _sum(times: Iterable[CpuTimes]) -> CpuTimes:
    every = list(times)
    return CpuTimes(*(sum(getattr(one, name) for one in every) for name in ("total_ns", "user_ns", "system_ns")))


def _sum_memory(memories: Iterable[ResourceUsageMemory]) -> ResourceUsageMemory:
    rss = sum(memory.rss for memory in memories)
    return ResourceUsageMemory(rss=rss, usage=rss, measured=MEMORY_MEASURED_PROC)


def _times_of_cgroup(cgroup: Cgroup) -> CpuTimes | None:
    if cgroup.unified:
        stat = _table(f"{cgroup.of('cpu')}/cpu.stat")
        if "usage_usec" not in stat:
            return None
        names = ("usage_usec", "user_usec", "system_usec")
        total, user, system = (stat.get(name, 0) * 1000 for name in names)
        return CpuTimes(total, user, system, stat.get("nr_throttled", 0), stat.get("throttled_usec", 0) * 1000)
    total_ns = _number(f"{cgroup.of('cpuacct')}/cpuacct.usage")
    if total_ns is None:
        return None
    modes = _table(f"{cgroup.of('cpuacct')}/cpuacct.stat")
    throttle = _table(f"{cgroup.of('cpu')}/cpu.stat")
    return CpuTimes(
        total_ns,
        modes.get("user", 0) * _TICK_NS,
        modes.get("system", 0) * _TICK_NS,
        throttle.get("nr_throttled", 0),
        throttle.get("throttled_time", 0),
    )


def _memory_of_cgroup(cgroup: Cgroup) -> ResourceUsageMemory | None:
    directory = cgroup.of("memory")
    stat = _table(f"{directory}/memory.stat") if directory else {}
    if not stat:
        return None
    if cgroup.unified:
        return ResourceUsageMemory(
            rss=stat.get("anon", 0),
            cache=stat.get("file", 0),
            swap=_number(f"{directory}/memory.swap.current") or 0,
            mapped_file=stat.get("file_mapped", 0),
            usage=_number(f"{directory}/memory.current") or 0,
            max_usage=_number(f"{directory}/memory.peak") or 0,
            kernel_usage=stat.get("kernel", 0),
            measured=MEMORY_MEASURED_CGROUP,
        )
    return ResourceUsageMemory(
        rss=stat.get("total_rss", stat.get("rss", 0)),
        cache=stat.get("total_cache", stat.get("cache", 0)),
        swap=stat.get("total_swap", stat.get("swap", 0)),
        mapped_file=stat.get("total_mapped_file", stat.get("mapped_file", 0)),
        usage=_number(f"{directory}/memory.usage_in_bytes") or 0,
        max_usage=_number(f"{directory}/memory.max_usage_in_bytes") or 0,
        kernel_usage=_number(f"{directory}/memory.kmem.usage_in_bytes") or 0,
        kernel_max_usage=_number(f"{directory}/memory.kmem.max_usage_in_bytes") or 0,
        measured=MEMORY_MEASURED_CGROUP,
    )


def _table(path: str) -> dict[str, int]:
    try:
        with open(path, encoding="ascii") as file:
            pairs = [line.split() for line in file]
    except OSError:
        return {}
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def _number(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            text = file.read().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
