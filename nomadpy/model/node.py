"""A machine that offers resources.

Who writes what: the node's client reports the facts (everything down to ``drivers``), an operator sets
``drain_strategy`` and ``scheduling_eligibility``, the server sets ``status`` and the events.
"""

from __future__ import annotations

from typing import Any

from msgspec import field

from nomadpy.model.naming import Noun
from nomadpy.model.resources import NodeReservedResources, NodeResources
from nomadpy.model.time import Moment

INITIALIZING, READY, DOWN, DISCONNECTED = "initializing", "ready", "down", "disconnected"
ELIGIBLE, INELIGIBLE = "eligible", "ineligible"


class DriverInfo(Noun):
    """What a node knows of one of its drivers."""

    attributes: dict[str, str] = {}
    detected: bool = False
    healthy: bool = False
    health_description: str = ""
    update_time_ns: Moment = 0


class HostVolume(Noun):
    """A directory that the operator offers to jobs."""

    name: str = ""
    path: str = ""
    read_only: bool = False
    id: str = ""


class HostNetwork(Noun):
    name: str = ""
    cidr: str = ""
    interface: str = ""
    reserved_ports: str = ""


class NodeEvent(Noun):
    message: str = ""
    subsystem: str = ""
    details: dict[str, str] = {}
    timestamp_ns: Moment = 0
    create_index: int = 0


class DrainStrategy(Noun):
    """An order to move everything off a node. A deadline below zero forces it, zero waits for ever."""

    deadline_ns: int = 0
    ignore_system_jobs: bool = False
    force_deadline_ns: Moment = 0
    started_at_ns: Moment = 0


class LastDrain(Noun):
    started_at_ns: Moment = 0
    updated_at_ns: Moment = 0
    status: str = ""
    accessor_id: str = ""
    meta: dict[str, str] = {}


class Node(Noun):
    """A machine as the servers know it."""

    id: str = ""
    secret_id: str = ""
    datacenter: str = ""
    name: str = ""
    http_addr: str = ""
    tls_enabled: bool = False
    attributes: dict[str, str] = {}
    node_resources: NodeResources = NodeResources()
    reserved_resources: NodeReservedResources = NodeReservedResources()
    links: dict[str, str] = {}
    meta: dict[str, str] = {}
    cgroup_parent: str = ""
    node_class: str = ""
    node_pool: str = "default"
    computed_class: str = ""
    drain_strategy: DrainStrategy | None = None
    scheduling_eligibility: str = ELIGIBLE
    status: str = INITIALIZING
    status_description: str = ""
    status_updated_at: int = 0
    events: tuple[NodeEvent, ...] = ()
    drivers: dict[str, DriverInfo] = {}
    csi_controller_plugins: dict[str, Any] = {}
    csi_node_plugins: dict[str, Any] = {}
    host_volumes: dict[str, HostVolume] = {}
    host_networks: dict[str, HostNetwork] = {}
    gc_volumes_on_node_gc: bool = field(default=False, name="GCVolumesOnNodeGC")
    last_drain: LastDrain | None = None
    node_max_allocs: int = 0
    identity_signing_key_id: str = ""
    last_missed_heartbeat_index: int = 0
    last_alloc_update_index: int = 0
    create_index: int = 0
    modify_index: int = 0

    def is_ready(self) -> bool:
        """Whether the scheduler may place allocations here."""
        return self.status == READY and self.drain_strategy is None and self.scheduling_eligibility == ELIGIBLE


class NodePool(Noun):
    name: str = ""
    description: str = ""
    meta: dict[str, str] = {}
    scheduler_configuration: dict[str, Any] | None = None
    node_identity_ttl_ns: int = 0
    hash: bytes = b""
    create_index: int = 0
    modify_index: int = 0


class NamespaceCapabilities(Noun):
    enabled_task_drivers: tuple[str, ...] = ()
    disabled_task_drivers: tuple[str, ...] = ()
    enabled_network_modes: tuple[str, ...] = ()
    disabled_network_modes: tuple[str, ...] = ()


class Namespace(Noun):
    name: str = ""
    description: str = ""
    quota: str = ""
    capabilities: NamespaceCapabilities | None = None
    node_pool_configuration: dict[str, Any] | None = None
    vault_configuration: dict[str, Any] | None = None
    consul_configuration: dict[str, Any] | None = None
    meta: dict[str, str] = {}
    hash: bytes = b""
    required_extra_claims: dict[str, str] = {}
    optional_extra_claims: dict[str, str] = {}
    create_index: int = 0
    modify_index: int = 0


class PreemptionConfig(Noun):
    system_scheduler_enabled: bool = True
    sys_batch_scheduler_enabled: bool = False
    batch_scheduler_enabled: bool = False
    service_scheduler_enabled: bool = False


SCHEDULER_ALGORITHMS = ("binpack", "spread", "balanced")
"""How nodes are scored: the fullest first, the emptiest first (both Nomad's), or the fullest first that keeps cpu and
memory in proportion, which leaves less of one stranded without the other (ours)."""


class SchedulerConfiguration(Noun):
    """Cluster-wide scheduling switches, kept in replicated state."""

    scheduler_algorithm: str = "binpack"
    preemption_config: PreemptionConfig = PreemptionConfig()
    memory_oversubscription_enabled: bool = False
    reject_job_registration: bool = False
    pause_eval_broker: bool = False
    node_limit_for_feasibility_checks: int = 100
    create_index: int = 0
    modify_index: int = 0


def pool_config(cluster: SchedulerConfiguration, pool: NodePool | None) -> SchedulerConfiguration:
    """The switches for the jobs of a node pool: the cluster's, with what the pool sets itself (Nomad's names
    ``SchedulerAlgorithm`` and ``MemoryOversubscriptionEnabled``) in their place."""
    own = pool.scheduler_configuration if pool is not None else None
    if not own:
        return cluster
    algorithm, oversubscription = own.get("SchedulerAlgorithm"), own.get("MemoryOversubscriptionEnabled")
    if algorithm:
        cluster = cluster.replace(scheduler_algorithm=algorithm)
    if oversubscription is not None:
        cluster = cluster.replace(memory_oversubscription_enabled=oversubscription)
    return cluster
