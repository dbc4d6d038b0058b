"""Cgroups as files: the layout of both versions, on directories that only look like them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomadpy.drivers import cgroups
from nomadpy.drivers.cgroups import Cgroup
from nomadpy.drivers.contract import TaskLimits
from nomadpy.drivers.stats import Sampler

GROUP_FILES = (
    *("cpu.weight", "cpuset.cpus", "memory.max", "memory.low", "memory.swap.max", "memory.oom.group", "pids.max"),
    *("cgroup.subtree_control", "cgroup.procs"),
)
V1_FILES = {
    "cpu": ("cpu.shares",),
    "cpuacct": (),
    "pids": ("pids.max",),
    "cpuset": ("cpuset.cpus", "cpuset.mems"),
    "memory": ("memory.limit_in_bytes", "memory.soft_limit_in_bytes", "memory.memsw.limit_in_bytes"),
}


@pytest.fixture
def unified(tmp_path: Path) -> Path:
    """A v2 hierarchy in which the group ``nomad.slice/task`` has its files."""
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (tmp_path / "cgroup.subtree_control").touch()
    for directory in (tmp_path / "nomad.slice", tmp_path / "nomad.slice" / "task"):
        directory.mkdir()
        for name in GROUP_FILES:
            (directory / name).touch()
    return tmp_path


@pytest.fixture
def separate(tmp_path: Path) -> Path:
    """A v1 host in which the group ``nomad/task`` has its files."""
    for controller, names in V1_FILES.items():
        for directory in (tmp_path / controller, tmp_path / controller / "nomad", tmp_path / controller / "nomad/task"):
            directory.mkdir()
            for name in ("cgroup.procs", *names):
                (directory / name).write_text("0-3\n" if name.startswith("cpuset") else "")
    return tmp_path


def test_versions_are_told_apart(unified: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert cgroups.version(unified) == 2
    assert cgroups.version(tmp_path_factory.mktemp("empty")) == 0


def test_a_v2_group_with_limits(unified: Path) -> None:
    limits = TaskLimits(cpu_shares=1024, memory_mb=100, memory_max_mb=150, reserved_cores=(3, 1))
    group = cgroups.create("task", "nomad.slice", limits, enforce=True, root=unified)
    directory = unified / "nomad.slice" / "task"
    assert group.unified
    assert group.paths() == [str(directory)]
    assert group.oom_file() == f"{directory}/memory.events"
    assert (unified / "nomad.slice" / "cgroup.subtree_control").read_text() == "+cpu +memory +pids +cpuset"
    written = {name: (directory / name).read_text() for name in GROUP_FILES}
    assert written["cpu.weight"] == "39"
    assert written["cpuset.cpus"] == "1,3"
    assert (written["memory.max"], written["memory.low"]) == (str(150 << 20), str(100 << 20))
    assert written["memory.swap.max"] == "0"


def test_a_group_without_limits_only_has_a_weight(unified: Path) -> None:
    cgroups.create("task", "nomad.slice", TaskLimits(cpu_shares=2), enforce=False, root=unified)
    assert (unified / "nomad.slice/task/cpu.weight").read_text() == "1"
    assert (unified / "nomad.slice/task/memory.max").read_text() == ""


def test_memory_without_a_bound(unified: Path) -> None:
    cgroups.create("task", "nomad.slice", TaskLimits(memory_mb=10, memory_max_mb=-1), enforce=True, root=unified)
    assert (unified / "nomad.slice/task/memory.max").read_text() == "max"


def test_a_v1_group_with_limits(separate: Path) -> None:
    limits = TaskLimits(cpu_shares=500, memory_mb=100, memory_max_mb=150, reserved_cores=(2,))
    group = cgroups.create("task", "nomad", limits, enforce=True, root=separate)
    assert cgroups.version(separate) == 1
    assert not group.unified
    assert set(group.directories) == {"cpu", "cpuacct", "memory", "pids", "cpuset"}
    assert group.oom_file() == f"{separate}/memory/nomad/task/memory.oom_control"
    assert (separate / "cpu/nomad/task/cpu.shares").read_text() == "500"
    assert (separate / "cpuset/nomad/task/cpuset.cpus").read_text().startswith("2")
    assert (separate / "memory/nomad/task/memory.limit_in_bytes").read_text() == str(150 << 20)
    assert (separate / "memory/nomad/task/memory.soft_limit_in_bytes").read_text() == str(100 << 20)


def test_no_controllers_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no cgroup controllers are mounted"):
        cgroups.create("task", "nomad", TaskLimits(), enforce=False, root=tmp_path)


@pytest.mark.parametrize(("shares", "weight"), [(0, 1), (2, 1), (1024, 39), (262_144, 10_000), (10**9, 10_000)])
def test_shares_become_weights(shares: int, weight: int) -> None:
    assert cgroups.v2_weight(shares) == weight


def test_usage_from_a_v2_group(tmp_path: Path) -> None:
    texts = {
        "cpu.stat": "usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000\nnr_throttled 4\nthrottled_usec 5\n",
        "memory.stat": "anon 1000\nfile 2000\nfile_mapped 300\nkernel 40\n",
        "memory.current": "3400\n",
        "memory.peak": "5000\n",
        "cgroup.procs": "",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    sampler = Sampler(1, Cgroup({"": str(tmp_path)}), core_mhz=2000, started_ns=10**9)
    usage = sampler.sample(now_ns=11 * 10**9).resource_usage
    memory, cpu = usage.memory_stats, usage.cpu_stats
    assert (memory.rss, memory.cache, memory.usage, memory.max_usage) == (1000, 2000, 3400, 5000)
    assert (cpu.percent, cpu.user_mode, cpu.system_mode) == (30.0, 20.0, 10.0)
    assert (cpu.total_ticks, cpu.throttled_periods, cpu.throttled_time) == (600.0, 4, 5000)
    assert sampler.sample(now_ns=12 * 10**9).resource_usage.cpu_stats.percent == 0.0
