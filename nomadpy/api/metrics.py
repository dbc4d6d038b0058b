"""What the agent measures, under Nomad's names, as JSON or for Prometheus.

Every figure is read when it is asked for; nothing is sampled in the background.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from nomadpy.api.context import ApiContext
from nomadpy.gossip.contract import ALIVE, FAILED, LEFT, SUSPECT, Member
from nomadpy.gossip.driver import Statistics as GossipStatistics
from nomadpy.model.node import Node
from nomadpy.rpc.contract import ClientEndpoint
from nomadpy.rpc.listener import ListenerStatistics
from nomadpy.server.cluster import cluster_of
from nomadpy.server.server import Server

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily


class Gauge(msgspec.Struct, frozen=True):
    """One figure: a dotted name, its value and its labels."""

    name: str
    value: float
    labels: dict[str, str] = {}


async def gauges(context: ApiContext) -> list[Gauge]:
    """Everything that this agent measures."""
    lag_ms = context.loop_lag()
    out = [Gauge("nomad.nomadpy.loop_lag", value, {"quantile": quantile}) for quantile, value in lag_ms.items()]
    if context.server is not None:
        out += _server_gauges(context.server)
        out += _raft_gauges(context, context.server)
    if context.listener_statistics is not None:
        out += _port_gauges(context.listener_statistics())
    if context.gossip is not None and context.gossip_statistics is not None:
        out += _gossip_gauges(context.gossip.members(), context.gossip_statistics())
    if context.client is not None:
        node = context.server.store.node(context.client.node_id) if context.server is not None else None
        out += await _client_gauges(context, context.client, node)
    return out


def _server_gauges(server: Server) -> Iterator[Gauge]:
    broker, blocked, log = server.broker.statistics(), server.blocked.statistics(), server.log.statistics()
    for name, value in (
        ("total_ready", broker.ready),
        ("total_unacked", broker.unacked),
        ("total_pending", broker.pending),
        ("total_waiting", broker.waiting),
        ("total_cancelable", broker.cancelable),
    ):
        yield Gauge(f"nomad.nomad.broker.{name}", value)
    yield Gauge("nomad.nomad.blocked_evals.total_blocked", blocked.blocked)
    yield Gauge("nomad.nomad.blocked_evals.total_escaped", blocked.escaped)
    yield Gauge("nomad.nomad.heartbeat.active", server.heartbeats.n_active())
    yield Gauge("nomad.raft.appliedIndex", log.applied_index)
    yield Gauge("nomad.raft.lastIndex", log.last_index)
    yield Gauge("nomad.nomad.state.snapshotIndex", server.store.index)
    statuses = Counter(job.status for job in server.store.jobs.current.values())
    for status in ("pending", "running", "dead"):
        yield Gauge(f"nomad.nomad.job_status.{status}", statuses[status])
    for (namespace, job_id), summary in server.store.jobs.summaries.items():
        for group, line in summary.summary.items():
            labels = {"job": job_id, "task_group": group, "namespace": namespace}
            for state in line.__struct_fields__:
                yield Gauge(f"nomad.nomad.job_summary.{state}", getattr(line, state), labels)


def _raft_gauges(context: ApiContext, server: Server) -> Iterator[Gauge]:
    """The log of this server. Times are in milliseconds."""
    log = server.log.statistics()
    known, silent_ms = context.forwarding.contact() if context.forwarding is not None else (server.log.is_leader, 0)
    yield Gauge("nomad.raft.apply", log.entries_written)
    yield Gauge("nomad.raft.term", log.term)
    yield Gauge("nomad.raft.is_leader", int(server.log.is_leader))
    yield Gauge("nomad.raft.known_leader", int(known))
    # Only who follows can be out of contact, and only with a leader it knows.
    if known and not server.log.is_leader:
        yield Gauge("nomad.raft.leader.lastContact", silent_ms)
    yield Gauge("nomad.raft.commitTime", log.commit_ms_last)
    yield Gauge("nomad.raft.syncs", log.syncs)
    yield Gauge("nomad.raft.fsync_ms", log.fsync_ms_last)
    yield Gauge("nomad.raft.peers", sum(one.voter for one in cluster_of(server).servers()[0]))
    if server.leading:
        yield from _autopilot_gauges(server)


def _autopilot_gauges(server: Server) -> Iterator[Gauge]:
    report = cluster_of(server).health()
    yield Gauge("nomad.autopilot.healthy", int(report.healthy))
    yield Gauge("nomad.autopilot.failure_tolerance", report.failure_tolerance)


_PORT = {
    "n_open": "connections_open",
    "n_accepted": "accept_conn",
    "n_raft": "raft_handoff",
    "n_rpc": "rpc_handoff",
    "n_calls": "request",
    "n_streams": "streaming_request",
    "n_refused": "request_refused",
    "n_handler_faults": "request_error",
    "n_malformed": "malformed",
    "n_silent": "silent",
    "n_strangers": "strangers",
    "n_tls_failed": "tls_failed",
    "n_too_many": "too_many",
    "n_accept_errors": "accept_errors",
}


def _port_gauges(seen: ListenerStatistics) -> Iterator[Gauge]:
    """The port for agents since the start; Nomad's names where Nomad counts the same."""
    for field, name in _PORT.items():
        yield Gauge(f"nomad.nomad.rpc.{name}", getattr(seen, field))


def _gossip_gauges(members: list[Member], seen: GossipStatistics) -> Iterator[Gauge]:
    counts = Counter((member.is_server, member.status) for member in members)
    for role in ("server", "client"):
        for status in (ALIVE, SUSPECT, FAILED, LEFT):
            labels = {"role": role, "status": status}
            yield Gauge("nomad.serf.members", counts[role == "server", status], labels)
    yield Gauge("nomad.memberlist.health.score", seen.awareness)
    yield Gauge("nomad.memberlist.udp.received", seen.packets_in)
    yield Gauge("nomad.memberlist.udp.sent", seen.packets_out)
    yield Gauge("nomad.memberlist.udp.send_errors", seen.send_errors)
    for reason, count in seen.refused.items():
        yield Gauge("nomad.memberlist.refused", count, {"reason": reason})
    yield Gauge("nomad.memberlist.tcp.turned_away", seen.conversations_turned_away)
    yield Gauge("nomad.memberlist.tcp.broken", seen.conversations_broken)
    for name, count in seen.counters.items():
        yield Gauge(f"nomad.memberlist.{name}", count)


async def _client_gauges(context: ApiContext, client: ClientEndpoint, node: Node | None) -> list[Gauge]:
    labels = {"node_id": client.node_id, "host": context.node_name}
    if node is not None:
        labels |= {
            "datacenter": node.datacenter,
            "node_class": node.node_class or "none",
            "node_pool": node.node_pool,
            "node_status": node.status,
            "node_scheduling_eligibility": node.scheduling_eligibility,
        }
    stats = await client.host_stats()
    out = [Gauge(f"nomad.client.host.memory.{name.lower()}", value, labels) for name, value in stats.memory.items()]
    out.append(Gauge("nomad.client.uptime", stats.uptime, labels))
    for cpu in stats.cpu:
        for name in ("User", "System", "Idle", "TotalPercent", "TotalTicks"):
            key = {"TotalPercent": "total_percent", "TotalTicks": "total_ticks"}.get(name, name.lower())
            out.append(Gauge(f"nomad.client.host.cpu.{key}", cpu.get(name, 0), {**labels, "cpu": str(cpu.get("CPU"))}))
    for disk in stats.disk_stats:
        for name, key in (("Size", "size"), ("Used", "used"), ("Available", "available"),
                          ("UsedPercent", "used_percent"), ("InodesUsedPercent", "inodes_percent")):  # fmt: skip
            figure = Gauge(f"nomad.client.host.disk.{key}", disk.get(name, 0), {**labels, "disk": str(disk["Device"])})
            out.append(figure)
    if context.server is not None and node is not None:
        out += _allocated(context.server, node, labels)
    return out


def _allocated(server: Server, node: Node, labels: dict[str, str]) -> Iterator[Gauge]:
    columns, number = server.store.nodes, server.store.node_number(node.id)
    for name, total, used in (
        ("cpu", columns.cpu, columns.cpu_used),
        ("memory", columns.memory, columns.memory_used),
        ("disk", columns.disk, columns.disk_used),
    ):
        yield Gauge(f"nomad.client.allocated.{name}", int(used[number]), labels)
        yield Gauge(f"nomad.client.unallocated.{name}", int(total[number] - used[number]), labels)
    counts = Counter(
        "terminal" if server.store.allocs.is_over(row) else server.store.alloc_stub_at(row).client_status
        for row in server.store.allocs.rows_by_node(number)
    )
    for state in ("running", "pending", "terminal"):
        yield Gauge(f"nomad.client.allocations.{state}", counts[state], labels)


async def json_metrics(context: ApiContext) -> dict[str, Any]:
    """The in-memory form: all figures are gauges."""
    found = await gauges(context)
    stamp = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M:%S +0000 UTC")
    rows = [{"Name": g.name, "Value": g.value, "Labels": g.labels} for g in found]
    return {"Timestamp": stamp, "Gauges": rows, "Points": [], "Counters": [], "Samples": []}


async def prometheus_text(context: ApiContext) -> tuple[bytes, str]:
    """The text exposition and its media type."""
    # Loaded here because most agents are never asked, and it takes a web server of its own along.
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.exposition import CONTENT_TYPE_LATEST

    families: dict[str, GaugeMetricFamily] = {}
    for gauge in await gauges(context):
        name = gauge.name.replace(".", "_").replace("-", "_")
        names = sorted(gauge.labels)
        family = families.get(name)
        if family is None:
            family = families[name] = GaugeMetricFamily(name, gauge.name, labels=names)
        family.add_metric([gauge.labels[label] for label in names], gauge.value)
    registry = CollectorRegistry()
    registry.register(_Families(families))
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Families:
    """The shape in which the exposition library takes figures that were collected already."""

    def __init__(self, families: dict[str, GaugeMetricFamily]) -> None:
        self._families = families

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The figures by name."""
        yield from self._families.values()
