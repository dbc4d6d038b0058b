"""Settings of a server, with Nomad's names and defaults."""

from __future__ import annotations

from nomadpy.model.naming import Noun
from nomadpy.model.node import SchedulerConfiguration
from nomadpy.model.time import HOUR, MINUTE, SECOND


class ServerConfig(Noun):
    """What the agent's ``server`` block and flags say. ``rpc_addr`` and ``http_addr`` are advertised ``ip:port``."""

    name: str = "nomadpy"
    region: str = "global"
    datacenter: str = "dc1"
    id: str = ""
    alone: bool = True  # whether no other server is expected
    rpc_addr: str = "127.0.0.1:4647"
    serf_addr: str = "127.0.0.1:4648"
    heartbeat_grace_ns: int = 10 * SECOND
    min_heartbeat_ttl_ns: int = 10 * SECOND
    max_heartbeats_per_second: float = 50.0
    failover_heartbeat_ttl_ns: int = 5 * MINUTE
    mass_grace_ns: int = 1 * MINUTE  # so long nobody is lost when many nodes fall silent at once
    job_gc_interval_ns: int = 5 * MINUTE
    job_gc_threshold_ns: int = 4 * HOUR
    eval_gc_threshold_ns: int = 1 * HOUR
    batch_eval_gc_threshold_ns: int = 24 * HOUR
    deployment_gc_threshold_ns: int = 1 * HOUR
    node_gc_threshold_ns: int = 24 * HOUR
    job_default_priority: int = 50
    job_max_priority: int = 100
    job_max_count: int = 50_000
    job_max_source_bytes: int = 1 << 20
    job_tracked_versions: int = 6
    default_scheduler_config: SchedulerConfiguration = SchedulerConfiguration()
    enabled_schedulers: tuple[str, ...] = ("service", "batch", "system", "sysbatch", "_core")
    eval_batch: int = 256  # evaluations decided on one look at the nodes; more is faster, fewer answers the API sooner
    slice_ns: int = 10_000_000  # longest stretch of scheduling before the loop may serve others
