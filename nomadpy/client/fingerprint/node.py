"""Joins what was found into the node that is registered."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from nomadpy.client.config import ClientConfig
from nomadpy.client.fingerprint import cpu, host, network
from nomadpy.client.fingerprint.facts import Facts, parse_cores
from nomadpy.client.identity import NodeIdentity
from nomadpy.drivers.contract import Fingerprint
from nomadpy.model.node import DriverInfo, HostNetwork, HostVolume, Node, NodeEvent
from nomadpy.model.node_class import computed_class
from nomadpy.model.resources import (
    NodeCpu,
    NodeDevice,
    NodeDisk,
    NodeMemory,
    NodeNetwork,
    NodeProcessors,
    NodeReservedResources,
    NodeResources,
    ReservedCpu,
    ReservedNetworks,
)

FINGERPRINTERS: dict[str, Callable[[ClientConfig], Facts]] = {
    "cpu": cpu.fingerprint,
    "memory": host.memory,
    "storage": host.disk,
    "host": host.system,
    "network": network.fingerprint,
    "nomad": host.program,
}
_BUILT_IN_META = {
    "connect.log_level": "info",
    "connect.proxy_concurrency": "1",
}


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything found on the host that does not change while the client runs."""

    attributes: dict[str, str] = {}
    resources: NodeResources = NodeResources()

    def with_devices(self, devices: tuple[NodeDevice, ...]) -> HostFacts:
        """The same with the devices that are there now, which may come and go."""
        return msgspec.structs.replace(self, resources=self.resources.replace(devices=devices))


def allowed(name: str, config: ClientConfig, kind: str) -> bool:
    """Whether the allow and deny lists of the options let a fingerprint or a driver in."""
    allow, deny = config.option_list(f"{kind}.allowlist"), config.option_list(f"{kind}.denylist")
    return (not allow or name in allow) and name not in deny


def fingerprint_host(config: ClientConfig) -> HostFacts:
    """Looks at the whole host once. Blocks for some tens of milliseconds."""
    attributes: dict[str, str] = {}
    cpu_found, processors = NodeCpu(), NodeProcessors()
    memory_found, disk_found = NodeMemory(), NodeDisk()
    networks: tuple[NodeNetwork, ...] = ()
    for name, look in FINGERPRINTERS.items():
        if not allowed(name, config, "fingerprint"):
            continue
        facts = look(config)
        attributes.update(facts.attributes)
        cpu_found, processors = facts.cpu or cpu_found, facts.processors or processors
        memory_found, disk_found = facts.memory or memory_found, facts.disk or disk_found
        networks += facts.networks
    resources = NodeResources(
        cpu=cpu_found,
        processors=processors,
        memory=memory_found,
        disk=disk_found,
        node_networks=networks,
        min_dynamic_port=config.min_dynamic_port,
        max_dynamic_port=config.max_dynamic_port,
    )
    return HostFacts(attributes=attributes, resources=resources)


def build_node(
    config: ClientConfig,
    identity: NodeIdentity,
    facts: HostFacts,
    drivers: Mapping[str, DriverInfo],
    dynamic_meta: Mapping[str, str | None],
) -> Node:
    """The node as it is registered, with its computed class."""
    attributes = dict(facts.attributes)
    for name, info in drivers.items():
        attributes.update(info.attributes)
        if info.detected:
            attributes[f"driver.{name}"] = "1"
    meta = {**_BUILT_IN_META, **config.meta, **dynamic_meta}
    node = Node(
        id=identity.node_id,
        secret_id=identity.secret_id,
        datacenter=config.datacenter,
        name=config.name or attributes.get("unique.hostname", ""),
        http_addr=config.http_addr,
        tls_enabled=config.tls_enabled,
        attributes=attributes,
        node_resources=facts.resources,
        reserved_resources=_reserved(config),
        meta={key: value for key, value in meta.items() if value is not None},
        cgroup_parent=config.cgroup_parent,
        node_class=config.node_class,
        node_pool=config.node_pool,
        drivers=dict(drivers),
        host_volumes={
            name: HostVolume(name=name, path=volume.path, read_only=volume.read_only)
            for name, volume in config.host_volumes.items()
        },
        host_networks={
            name: HostNetwork(name=name, cidr=net.cidr, interface=net.interface, reserved_ports=net.reserved_ports)
            for name, net in config.host_networks.items()
        },
        gc_volumes_on_node_gc=config.gc_volumes_on_node_gc,
        node_max_allocs=config.node_max_allocs,
    )
    return node.replace(computed_class=computed_class(node))


def _reserved(config: ClientConfig) -> NodeReservedResources:
    reserved = config.reserved
    return NodeReservedResources(
        cpu=ReservedCpu(cpu_shares=reserved.cpu, reserved_cpu_cores=parse_cores(reserved.cores)),
        memory=NodeMemory(memory_mb=reserved.memory_mb),
        disk=NodeDisk(disk_mb=reserved.disk_mb),
        networks=ReservedNetworks(reserved_host_ports=reserved.reserved_ports),
    )


def driver_info(found: Fingerprint, now_ns: int) -> DriverInfo:
    """A driver's fingerprint as the node carries it."""
    return DriverInfo(
        attributes=dict(found.attributes),
        detected=found.detected,
        healthy=found.healthy,
        health_description=found.health_description or ("Healthy" if found.healthy else ""),
        update_time_ns=now_ns,
    )


def health_event(name: str, before: DriverInfo, after: DriverInfo, now_ns: int) -> NodeEvent | None:
    """The node event that a change of a driver's health is worth, None when it did not change."""
    if (before.detected, before.healthy) == (after.detected, after.healthy):
        return None
    message = after.health_description or ("Healthy" if after.healthy else "Driver is not healthy")
    return NodeEvent(message=message, subsystem="Driver", details={"driver": name}, timestamp_ns=now_ns)
