"""Memory, disk, operating system, kernel, control groups and signals."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket

import psutil

from nomadpy import __version__
from nomadpy.client.config import ClientConfig
from nomadpy.client.fingerprint.cpu import go_arch
from nomadpy.client.fingerprint.facts import Facts, read_text
from nomadpy.model.resources import NodeDisk, NodeMemory
from nomadpy.model.version import NOMAD_COMPATIBILITY_VERSION

_MB = 1024 * 1024
# Signals without a fixed meaning, or which no process can be sent on purpose.
_NOT_OFFERED = frozenset(("SIG_DFL", "SIG_IGN", "SIGRTMIN", "SIGRTMAX", "SIGCLD", "SIGPOLL"))


def memory(config: ClientConfig) -> Facts:
    """``memory.totalbytes`` and MB."""
    total = config.memory_total_mb * _MB or psutil.virtual_memory().total
    return Facts(attributes={"memory.totalbytes": str(total)}, memory=NodeMemory(memory_mb=total // _MB))


def disk(config: ClientConfig) -> Facts:
    """The file system that holds the allocations: its size, and what is free of it for jobs."""
    usage = shutil.disk_usage(config.alloc_dir)
    total = config.disk_total_mb * _MB or usage.total
    free = config.disk_free_mb * _MB or usage.free
    attributes = {
        "unique.storage.volume": _volume_of(config.alloc_dir),
        "unique.storage.bytestotal": str(total),
        "unique.storage.bytesfree": str(free),
    }
    return Facts(attributes=attributes, disk=NodeDisk(disk_mb=free // _MB))


def _volume_of(path: str) -> str:
    real = os.path.realpath(path)
    best, device = "", ""
    for part in psutil.disk_partitions(all=True):
        inside = real == part.mountpoint or real.startswith(part.mountpoint.rstrip("/") + "/")
        if inside and len(part.mountpoint) > len(best):
            best, device = part.mountpoint, part.device
    return device or best


def signal_names() -> list[str]:
    """The names of the signals that a task can be sent, sorted."""
    return sorted(s.name for s in signal.Signals if s.name not in _NOT_OFFERED)


def system(config: ClientConfig) -> Facts:
    """``os.*``, ``kernel.*``, host name and id."""
    release = _os_release()
    machine_id = "" if config.no_host_uuid else read_text("/etc/machine-id")
    attributes = {
        "os.name": release.get("ID", platform.system().lower()),
        "os.version": release.get("VERSION_ID", ""),
        "os.build": release.get("BUILD_ID", ""),
        "os.signals": ",".join(signal_names()),
        "os.cgroups.version": cgroups_version(),
        "kernel.name": platform.system().lower(),
        "kernel.version": platform.release(),
        "kernel.arch": platform.machine(),
        "kernel.landlock": "",
        "arch": go_arch(),
        "unique.hostname": socket.gethostname(),
        "unique.host_id": machine_id,
        "unique.cgroup.mountpoint": "/sys/fs/cgroup" if cgroups_version() == "2" else "",
    }
    return Facts(attributes={k: v for k, v in attributes.items() if v})


def cgroups_version() -> str:
    """ "2" for the unified hierarchy, "1" for the old controllers, "" when control groups are out of reach."""
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        return "2"
    return "1" if os.path.isdir("/sys/fs/cgroup/memory") or os.path.isdir("/sys/fs/cgroup/cpu") else ""


def _os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def program(config: ClientConfig) -> Facts:
    """Which orchestrator runs here. ``nomad.version`` is the Nomad version that is answered to."""
    return Facts(
        attributes={
            "nomad.version": NOMAD_COMPATIBILITY_VERSION,
            "nomad.revision": __version__,
            "nomadpy.version": __version__,
            "nomad.service_discovery": "true",
            "nomad.advertise.address": config.http_addr,
            "unique.advertise.address": config.http_addr,
        }
        if config.http_addr
        else {
            "nomad.version": NOMAD_COMPATIBILITY_VERSION,
            "nomad.revision": __version__,
            "nomadpy.version": __version__,
            "nomad.service_discovery": "true",
        }
    )
