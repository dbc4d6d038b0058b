"""Processors: how many, how fast, on which memory nodes."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from nomadpy.client.config import ClientConfig
from nomadpy.client.fingerprint.facts import Facts, parse_cores, read_text
from nomadpy.model.resources import NodeCpu, NodeProcessors, Topology, TopologyCore

_GO_ARCH = {
    "x86_64": "amd64",
    "amd64": "amd64",
    "aarch64": "arm64",
    "arm64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i686": "386",
    "i386": "386",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
    "loongarch64": "loong64",
}
# What is assumed of a core whose speed no file tells, as on many virtual machines.
_FALLBACK_MHZ = 1000
_SYS_CPU = "/sys/devices/system/cpu"
_SYS_NODE = "/sys/devices/system/node"


def go_arch(machine: str = "") -> str:
    """The architecture under the name that Go and Docker give it."""
    machine = machine or platform.machine()
    return _GO_ARCH.get(machine.lower(), machine)


def fingerprint(config: ClientConfig) -> Facts:
    """``cpu.*`` and ``numa.*`` attributes, total MHz and the topology."""
    topology = read_topology(config)
    usable = [core for core in topology.cores if not core.disable]
    mhz = max((_speed(core) for core in topology.cores), default=_FALLBACK_MHZ)
    total = config.cpu_total_compute or sum(_speed(core) for core in topology.cores)
    withheld = config.reserved.cpu or sum(_speed(core) for core in topology.cores if core.disable)
    attributes = {
        "cpu.arch": go_arch(),
        "cpu.numcores": str(len(topology.cores)),
        "cpu.reservablecores": str(len(usable)),
        "cpu.frequency": str(mhz),
        "cpu.modelname": _model_name(),
        "cpu.totalcompute": str(total),
        "cpu.usablecompute": str(max(0, total - withheld)),
        "numa.node.count": str(len(topology.nodes)),
    }
    for node in topology.nodes:
        attributes[f"numa.node{node}.cores"] = str(sum(core.node_id == node for core in topology.cores))
    cpu = NodeCpu(
        cpu_shares=total,
        total_cpu_cores=len(topology.cores),
        reservable_cpu_cores=tuple(core.id for core in usable),
    )
    return Facts(
        attributes={k: v for k, v in attributes.items() if v}, cpu=cpu, processors=NodeProcessors(topology=topology)
    )


def read_topology(config: ClientConfig) -> Topology:
    """The cores this process may run on, with their sockets, memory nodes and speeds in MHz."""
    node_of = _node_of_core()
    reserved = set(parse_cores(config.reserved.cores))
    speeds = _cpuinfo_mhz()
    cores = tuple(
        _core(core, node_of.get(core, 0), speeds.get(core, 0), disable=core in reserved)
        for core in sorted(os.sched_getaffinity(0))
    )
    nodes = tuple(sorted({core.node_id for core in cores}))
    return Topology(
        nodes=nodes,
        distances=_distances(nodes),
        cores=cores,
        override_total_compute=config.cpu_total_compute,
        override_withold_compute=config.reserved.cpu,
    )


def _core(core: int, node: int, guess_mhz: int, *, disable: bool) -> TopologyCore:
    base = f"{_SYS_CPU}/cpu{core}"
    return TopologyCore(
        socket_id=_number(f"{base}/topology/physical_package_id"),
        node_id=node,
        id=core,
        disable=disable,
        base_speed=_number(f"{base}/cpufreq/base_frequency") // 1000,
        max_speed=_number(f"{base}/cpufreq/cpuinfo_max_freq") // 1000,
        guess_speed=guess_mhz,
    )


def _speed(core: TopologyCore) -> int:
    return core.base_speed or core.guess_speed or core.max_speed or _FALLBACK_MHZ


def _number(path: str) -> int:
    text = read_text(path)
    return int(text) if text.isdigit() else 0


def _node_of_core() -> dict[int, int]:
    found: dict[int, int] = {}
    for entry in Path(_SYS_NODE).glob("node[0-9]*"):
        for core in parse_cores(read_text(f"{entry}/cpulist")):
            found[core] = int(entry.name.removeprefix("node"))
    return found


def _distances(nodes: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    rows = []
    for node in nodes:
        row = tuple(int(word) for word in read_text(f"{_SYS_NODE}/node{node}/distance").split())
        rows.append(row if len(row) == len(nodes) else tuple(10 if other == node else 20 for other in nodes))
    return tuple(rows)


def _cpuinfo_mhz() -> dict[int, int]:
    speeds: dict[int, int] = {}
    core = 0
    for line in read_text("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "processor":
            core = int(value)
        elif key.strip() == "cpu MHz":
            speeds[core] = round(float(value))
    return speeds


def _model_name() -> str:
    match = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", read_text("/proc/cpuinfo"), re.MULTILINE)
    return match[1].strip() if match else ""
