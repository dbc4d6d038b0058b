"""Facts about processes from /proc, and killing without hitting a stranger that was given a recycled number."""

from __future__ import annotations

import os

SIGKILL = 9


def start_ticks(pid: int) -> int:
    """When the process started, in clock ticks since boot; 0 when there is none. Number and start together name one
    process for as long as the machine is up."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            data = file.read()
    except OSError:
        return 0
    # The command's name may hold blanks and brackets; the fields after the last bracket cannot.
    return int(data[data.rindex(b")") + 2 :].split()[19])


def boot_id() -> str:
    """A text that changes with every boot of the machine."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read().strip().decode()
    except OSError:
        return ""


def cgroup_pids(directory: str) -> list[int]:
    """The processes in a cgroup directory; [] when it is gone."""
    try:
        with open(f"{directory}/cgroup.procs", "rb") as file:
            return [int(line) for line in file.read().split()]
    except OSError:
        return []


def kill(pid: int, signal: int = SIGKILL) -> bool:
    """Sends ``signal``; False when there is no such process."""
    try:
        os.kill(pid, signal)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def kill_group(pgid: int, signal: int = SIGKILL) -> bool:
    """Sends ``signal`` to a process group; False when it has no member."""
    try:
        os.killpg(pgid, signal)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def alive(pid: int) -> bool:
    """Whether the process still runs; one that only waits to be reaped does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            data = file.read()
    except OSError:
        return False
    return data[data.rindex(b")") + 2 : data.rindex(b")") + 3] not in b"ZX"


def kill_cgroup(directory: str) -> int:
    """Kills every process in a cgroup, by one write where the kernel can (v2), else one by one; how many it found."""
    # The dead stay listed until somebody reaps them, which for orphans is up to the machine's process 1.
    pids = [pid for pid in cgroup_pids(directory) if alive(pid)]
    if pids:
        try:
            fd = os.open(f"{directory}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            for pid in pids:
                kill(pid)
        else:
            try:
                os.write(fd, b"1")
            finally:
                os.close(fd)
    return len(pids)
