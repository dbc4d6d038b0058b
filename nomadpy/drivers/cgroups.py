"""Control groups of tasks: one per attempt, for accounting, limits and for killing everything a task started.

On a host with the unified hierarchy (v2) a task has one directory; on v1 one per controller. Creating them needs root
or a delegated parent; without it ``create`` says why, and a driver that can do without falls back to /proc.

CPU weights: v1 ``cpu.shares`` is the task's MHz (at least 2); v2 ``cpu.weight`` is 1 + (shares − 2) · 9999 / 262142,
the mapping that container runtimes agreed on (Kubernetes enhancement 2254).
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from nomadpy.drivers.contract import TaskLimits

ROOT = Path("/sys/fs/cgroup")
_V1_CONTROLLERS = ("memory", "cpu", "cpuacct", "pids")
_V2_CONTROLLERS = ("cpu", "memory", "pids", "cpuset")
_SHARES_MIN, _SHARES_MAX = 2, 262_144
PIDS_MAX = 32_768


@dataclass(frozen=True)
class Cgroup:
    """The directories of one task by controller; ``""`` is the single one of v2. Empty when there is none."""

    directories: dict[str, str]

    @property
    def unified(self) -> bool:
        """Whether this is a v2 group."""
        return "" in self.directories

    def paths(self) -> list[str]:
        """Every directory once; controllers mounted together share theirs."""
        return list(dict.fromkeys(self.directories.values()))

    def of(self, controller: str) -> str:
        """The directory in which the files of ``controller`` are, "" when there is none."""
        return self.directories.get("", "") or self.directories.get(controller, "")

    def oom_file(self) -> str:
        """The file with a line ``oom_kill N``, "" when there is none."""
        memory = self.of("memory")
        return f"{memory}/{'memory.events' if self.unified else 'memory.oom_control'}" if memory else ""


NONE = Cgroup({})


def version(root: Path = ROOT) -> int:
    """2 for the unified hierarchy with controllers, 1 for separate ones, 0 when no controller is mounted."""
    try:
        if (root / "cgroup.controllers").read_text().split():
            return 2
    except OSError:
        # No file of that name at the root: not the unified hierarchy.
        pass
    return 1 if (root / "memory" / "cgroup.procs").exists() or (root / "cpu" / "cgroup.procs").exists() else 0


def create(name: str, parent: str, limits: TaskLimits, *, enforce: bool, root: Path = ROOT) -> Cgroup:
    """Makes the group ``name`` below ``parent``. With ``enforce`` memory, swap and processes are limited; without it
    only CPU weight and reserved cores are set. Raises OSError when the host does not let us."""
    relative = Path(parent.strip("/")) / name
    match version(root):
        case 2:
            group = _create_unified(root, relative, limits, enforce)
        case 1:
            group = _create_v1(root, relative, limits, enforce)
        case _:
            raise OSError(errno.ENOENT, f"no cgroup controllers are mounted below {root}")
    return group


def remove(directories: list[str]) -> list[str]:
    """Removes groups that have no processes any more; what could not be removed."""
    left = []
    for directory in directories:
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            continue
        except OSError:
            left.append(directory)
    return left


def v2_weight(shares: int) -> int:
    """``cpu.weight`` (1…10000) of ``cpu.shares`` (2…262144)."""
    bounded = min(max(shares, _SHARES_MIN), _SHARES_MAX)
    return 1 + (bounded - _SHARES_MIN) * 9999 // (_SHARES_MAX - _SHARES_MIN)


def memory_bounds(limits: TaskLimits) -> tuple[int, int]:
    """(soft, hard) bytes: ``memory_max_mb`` is the hard limit where it is set, -1 lifts it; 0 means no bound."""
    soft = limits.memory_mb << 20
    if limits.memory_max_mb < 0:
        return soft, 0
    return soft, max(limits.memory_max_mb, limits.memory_mb) << 20


def _create_unified(root: Path, relative: Path, limits: TaskLimits, enforce: bool) -> Cgroup:
    available = set((root / "cgroup.controllers").read_text().split())
    wanted = " ".join(f"+{controller}" for controller in _V2_CONTROLLERS if controller in available)
    directory = root
    for part in relative.parts:
        # A controller must be handed down by every group on the way.
        _write(directory / "cgroup.subtree_control", wanted)
        directory = directory / part
        directory.mkdir(exist_ok=True)
    soft, hard = memory_bounds(limits)
    _write_where_present(directory / "cpu.weight", str(v2_weight(limits.cpu_shares)))
    if limits.reserved_cores:
        _write(directory / "cpuset.cpus", _core_list(limits.reserved_cores))
    if enforce:
        _write(directory / "memory.max", str(hard) if hard else "max")
        _write_where_present(directory / "memory.swap.max", "0")
        _write_where_present(directory / "memory.low", str(soft if soft != hard else 0))
        _write_where_present(directory / "memory.oom.group", "0")
        _write_where_present(directory / "pids.max", str(PIDS_MAX))
    return Cgroup({"": str(directory)})


def _create_v1(root: Path, relative: Path, limits: TaskLimits, enforce: bool) -> Cgroup:
    controllers = [*_V1_CONTROLLERS, *(["cpuset"] if limits.reserved_cores else [])]
    directories = {}
    for controller in controllers:
        mounted = root / controller
        if (mounted / "cgroup.procs").exists():
            directory = mounted.resolve() / relative
            _make_v1(mounted.resolve(), relative, controller)
            directories[controller] = str(directory)
    if not directories:
        raise OSError(errno.ENOENT, f"no cgroup controllers are mounted below {root}")
    if "cpu" in directories:
        _write(Path(directories["cpu"]) / "cpu.shares", str(min(max(limits.cpu_shares, _SHARES_MIN), _SHARES_MAX)))
    if "cpuset" in directories:
        _write(Path(directories["cpuset"]) / "cpuset.cpus", _core_list(limits.reserved_cores))
    if enforce:
        _limit_v1(directories, limits)
    return Cgroup(directories)


def _make_v1(mounted: Path, relative: Path, controller: str) -> None:
    directory = mounted
    for part in relative.parts:
        above, directory = directory, directory / part
        directory.mkdir(exist_ok=True)
        if controller == "cpuset":
            # A new cpuset group is empty and takes no process until both lists are filled.
            for name in ("cpuset.cpus", "cpuset.mems"):
                if not (directory / name).read_text().strip():
                    _write(directory / name, (above / name).read_text().strip())


def _limit_v1(directories: dict[str, str], limits: TaskLimits) -> None:
    soft, hard = memory_bounds(limits)
    memory = Path(directories["memory"]) if "memory" in directories else None
    if memory is not None:
        if hard:
            _write(memory / "memory.limit_in_bytes", str(hard))
            _write_where_present(memory / "memory.memsw.limit_in_bytes", str(hard))
        if soft != hard:
            _write_where_present(memory / "memory.soft_limit_in_bytes", str(soft))
        _write_where_present(memory / "memory.swappiness", "0")
    if "pids" in directories:
        _write(Path(directories["pids"]) / "pids.max", str(PIDS_MAX))


def _core_list(cores: tuple[int, ...]) -> str:
    return ",".join(str(core) for core in sorted(cores))


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _write_where_present(path: Path, text: str) -> None:
    # Files that depend on how the kernel was built: swap accounting, a controller that is not handed down.
    if path.exists():
        _write(path, text)
