"""The state as bytes, and back.

``freeze`` runs between two entries and takes next to no time: records are frozen, so shallow copies of the dicts that
hold them are enough; allocations are copied page by page as they change (``frozen.py``). What it returns encodes, in
another thread. It works in small portions, because a thread that encodes one large thing lets no other thread run.

``restore`` reads everything into fresh tables first and then swaps them into the same ``StateStore``. What follows from
what is stored is rebuilt; ``STORED``, ``REBUILT`` and ``TRANSIENT`` say of each attribute what becomes of it.
"""

from __future__ import annotations

import gc
import types
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import msgspec
import numpy as np

from nomadpy import __version__
from nomadpy.model.autopilot import AutopilotConfig
from nomadpy.model.evaluation import Deployment, Evaluation
from nomadpy.model.job import Job, JobSubmission, JobSummary, ScalingEvent
from nomadpy.model.node import Namespace, Node, NodePool, SchedulerConfiguration
from nomadpy.state.commands import Outcome
from nomadpy.state.jobs import Key
from nomadpy.state.nodes import NodeTable
from nomadpy.state.sections import Head, UnreadableSnapshot, Writer, read, read_head
from nomadpy.state.snapshot_allocs import AllocReader, freeze_allocs
from nomadpy.state.store import Staged, StateStore

STORED = frozenset(
    {"_index", "index_offset", "restored_at", "cluster_id", "table_index", "jobs", "allocs", "nodes", "evals"}
    | {"deployments", "namespaces", "node_pools", "_scheduler_config", "_requests", "staged"}
    | {"autopilot_config"}
)
REBUILT = frozenset({"evals_by_job", "open_evals", "deployments_by_job"})
TRANSIENT = frozenset({"touched", "changed_evals", "changed_deployments", "generation", "prepared"})
JOBS_STORED = frozenset(
    {"versions", "submissions", "summaries", "scaling_events", "periodic_launches", "children", "everywhere"}
)
JOBS_REBUILT, JOBS_TRANSIENT = frozenset({"current", "periodic"}), frozenset({"tracked_versions"})
NODE_COLUMNS = (
    *("_cpu", "_memory", "_disk", "_core_mhz", "_cpu_used", "_memory_used", "_disk_used", "_cores_used"),
    *("_alloc_count", "_ready"),
)
NODES_STORED = frozenset({"size", "nodes", "facts_version", "_identities", *NODE_COLUMNS})
NODES_REBUILT, NODES_TRANSIENT = frozenset({"_numbers", "_ports", "_capacity"}), frozenset({"grown"})

_TOGETHER = 512


class _Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The small things of the state."""

    index: int
    index_offset: int
    restored_at: int
    cluster_id: str
    table_index: dict[str, int]
    scheduler_config: SchedulerConfiguration
    facts_version: int
    node_columns: dict[str, bytes]
    staged_id: str | None
    autopilot_config: AutopilotConfig = AutopilotConfig()


# Section → what its records are.
_KINDS: dict[str, Any] = {
    "jobs": Job,
    "jobs.versions": tuple[Key, list[int]],
    "jobs.submissions": tuple[Key, dict[int, JobSubmission]],
    "jobs.summaries": tuple[Key, JobSummary],
    "jobs.scaling_events": tuple[Key, dict[str, tuple[ScalingEvent, ...]]],
    "jobs.periodic_launches": tuple[Key, int],
    "jobs.children": tuple[Key, list[str]],
    "jobs.everywhere": Key,
    "nodes": tuple[str, str, Node | None],
    "evals": Evaluation,
    "deployments": Deployment,
    "namespaces": Namespace,
    "node_pools": NodePool,
    "requests": tuple[str, Outcome],
}
_DECODERS: dict[str, Any] = {
    name: msgspec.msgpack.Decoder(types.GenericAlias(list, (kind,))) for name, kind in _KINDS.items()
}
_FACTS = msgspec.msgpack.Decoder(_Facts)


class SectionSize(msgspec.Struct, frozen=True, kw_only=True):
    """A table in a snapshot: how many records (0 for what has no records), how many bytes as they are stored."""

    name: str
    count: int
    bytes: int


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a snapshot."""

    version: str
    index: int
    tables: tuple[SectionSize, ...]


# --- taking -----------------------------------------------------------------------------------------------------------


def freeze(store: StateStore) -> Callable[[], bytes]:
    """Takes the state as it is now; what comes back encodes it, once, and may be called in another thread."""
    pool: dict[int, int] = {}
    jobs: list[Job] = []

    def number_of(job: Job) -> int:
        number = pool.setdefault(id(job), len(jobs))
        if number == len(jobs):
            jobs.append(job)
        return number

    tables = dict(_take_tables(store, number_of))
    write_allocs = freeze_allocs(store.allocs, number_of)
    facts = _take_facts(store)
    head = Head(version=__version__, index=store.index)
    parts = store.staged.parts if store.staged is not None else ()

    def encode() -> bytes:
        writer = Writer(head)
        writer.put("state", facts)
        for name, records in (("jobs", jobs), *tables.items()):
            _write_table(writer, name, records)
        write_allocs(writer)
        for part in parts:
            writer.put_bytes("staged", part)
        return writer.finish()

    return encode


def _write_table(writer: Writer, name: str, records: Iterable[Any]) -> None:
    remaining = iter(records)
    while some := list(islice(remaining, _TOGETHER)):
        writer.put(name, some)


def _take_facts(store: StateStore) -> _Facts:
    nodes = store.nodes
    return _Facts(
        index=store.index,
        index_offset=store.index_offset,
        restored_at=store.restored_at,
        cluster_id=store.cluster_id,
        table_index=dict(store.table_index),
        scheduler_config=store.scheduler_config,
        facts_version=nodes.facts_version,
        node_columns={name: _little(getattr(nodes, name)[: nodes.size]) for name in NODE_COLUMNS},
        staged_id=store.staged.restore_id if store.staged is not None else None,
        autopilot_config=store.autopilot_config,
    )


def _little(column: Any) -> bytes:
    data: bytes = column.astype(column.dtype.newbyteorder("<"), copy=False).tobytes()
    return data


def _take_tables(store: StateStore, number_of: Callable[[Job], int]) -> Iterator[tuple[str, Iterable[Any]]]:
    jobs, nodes = store.jobs, store.nodes
    yield "jobs.versions", [(key, [number_of(job) for job in kept]) for key, kept in jobs.versions.items()]
    yield "jobs.submissions", [(key, dict(kept)) for key, kept in jobs.submissions.items()]
    yield "jobs.summaries", list(jobs.summaries.items())
    yield "jobs.scaling_events", [(key, dict(kept)) for key, kept in jobs.scaling_events.items()]
    yield "jobs.periodic_launches", list(jobs.periodic_launches.items())
    yield "jobs.children", [(key, list(kept)) for key, kept in jobs.children.items()]
    yield "jobs.everywhere", list(jobs.everywhere)
    yield "nodes", [(*names, node) for names, node in zip(nodes._identities, nodes.nodes, strict=True)]
    yield "evals", list(store.evals.values())
    yield "deployments", list(store.deployments.values())
    yield "namespaces", list(store.namespaces.values())
    yield "node_pools", list(store.node_pools.values())
    yield "requests", list(store._requests.items())


# --- taking back ------------------------------------------------------------------------------------------------------


def restore(store: StateStore, index: int, data: bytes) -> None:
    """Replaces the whole state by that of a snapshot that the log keeps for its entry ``index``. Raises
    UnreadableSnapshot and NewerSnapshot, and then the state is as it was."""
    store.adopt(read_at(index, data, tracked_versions=store.jobs.tracked_versions))


def read_at(index: int, data: bytes, *, tracked_versions: int) -> StateStore:
    """A fresh store with the state that the log keeps for its entry ``index``. Raises UnreadableSnapshot and
    NewerSnapshot."""
    fresh = decode(data, tracked_versions=tracked_versions)
    if fresh.log_index > index:
        text = f"a snapshot of the state after entry {fresh.log_index} of the log is stored as that of {index}"
        raise UnreadableSnapshot(text)
    return fresh


def decode(data: bytes, *, tracked_versions: int) -> StateStore:
    """A fresh store with the state in a snapshot. Raises UnreadableSnapshot, NewerSnapshot."""
    # Millions of objects come into being and none goes; looking for garbage meanwhile took three quarters of the time.
    collects = gc.isenabled()
    gc.disable()
    try:
        return _Reader(tracked_versions).read(data)
    except (msgspec.DecodeError, ValueError, KeyError, IndexError) as error:
        raise UnreadableSnapshot(f"the snapshot holds something that this version cannot read: {error}") from error
    finally:
        if collects:
            gc.enable()


class _Reader:
    def __init__(self, tracked_versions: int) -> None:
        self._store = StateStore(tracked_versions=tracked_versions)
        self._tables: dict[str, list[Any]] = {name: [] for name in _KINDS}
        self._allocs = AllocReader()
        self._facts: _Facts | None = None
        self._parts: list[bytes] = []

    def read(self, data: bytes) -> StateStore:
        for name, payload, _ in read(data):
            if name in _DECODERS:
                self._tables[name] += _DECODERS[name].decode(payload)
            elif name == "state":
                self._facts = _FACTS.decode(payload)
            elif name == "staged":
                self._parts.append(payload)
            elif not self._allocs.take(name, payload):
                raise UnreadableSnapshot(f'the snapshot holds a table "{name}" that this version does not know')
        if self._facts is None:
            raise UnreadableSnapshot("the snapshot lacks the facts of the state")
        self._put_facts(self._facts)
        self._put_jobs()
        self._put_evals()
        self._store.allocs = self._allocs.finish(self._tables["jobs"])
        self._put_nodes(self._facts)
        return self._store

    def _put_facts(self, facts: _Facts) -> None:
        store = self._store
        store._index, store.index_offset, store.restored_at = facts.index, facts.index_offset, facts.restored_at
        store.cluster_id, store.table_index = facts.cluster_id, facts.table_index
        store.set_scheduler_config(facts.scheduler_config)
        store.autopilot_config = facts.autopilot_config
        store.namespaces = {namespace.name: namespace for namespace in self._tables["namespaces"]}
        store.node_pools = {pool.name: pool for pool in self._tables["node_pools"]}
        store._requests.update(self._tables["requests"])
        if facts.staged_id is not None:
            store.staged = Staged(facts.staged_id, tuple(self._parts))

    def _put_jobs(self) -> None:
        jobs, pool = self._store.jobs, self._tables["jobs"]
        jobs.versions = {key: tuple(pool[number] for number in kept) for key, kept in self._tables["jobs.versions"]}
        jobs.current = {key: kept[0] for key, kept in jobs.versions.items()}
        jobs.periodic = {key: None for key, job in jobs.current.items() if job.periodic is not None}
        jobs.submissions = dict(self._tables["jobs.submissions"])
        jobs.summaries = dict(self._tables["jobs.summaries"])
        jobs.scaling_events = dict(self._tables["jobs.scaling_events"])
        jobs.periodic_launches = dict(self._tables["jobs.periodic_launches"])
        jobs.children = {key: dict.fromkeys(kept) for key, kept in self._tables["jobs.children"]}
        jobs.everywhere = dict.fromkeys(self._tables["jobs.everywhere"])

    def _put_evals(self) -> None:
        store = self._store
        for evaluation in self._tables["evals"]:
            key = (evaluation.namespace, evaluation.job_id)
            store.evals[evaluation.id] = evaluation
            store.evals_by_job.setdefault(key, {})[evaluation.id] = None
            if not evaluation.terminal():
                store.open_evals[key] = store.open_evals.get(key, 0) + 1
        for deployment in self._tables["deployments"]:
            key = (deployment.namespace, deployment.job_id)
            store.deployments[deployment.id] = deployment
            store.deployments_by_job.setdefault(key, {})[deployment.id] = None

    def _put_nodes(self, facts: _Facts) -> None:
        rows, nodes, allocs = self._tables["nodes"], NodeTable(), self._store.allocs
        nodes._grow(max(64, 1 << len(rows).bit_length()))
        nodes.size = len(rows)
        for name in NODE_COLUMNS:
            column = getattr(nodes, name)
            column[: nodes.size] = np.frombuffer(facts.node_columns[name], column.dtype.newbyteorder("<"))
        nodes.nodes = [node for _, _, node in rows]
        nodes._identities = [(name, node_id) for name, node_id, _ in rows]
        nodes._numbers = {node_id: number for number, (_, node_id, _) in enumerate(rows)}
        nodes.facts_version = facts.facts_version
        for row, extra in allocs._extra.items():
            if extra.ports and not allocs.is_over(row):
                nodes.add_ports(int(allocs.node[row]), extra.ports)
        self._store.nodes = nodes


# --- looking in -------------------------------------------------------------------------------------------------------


def contents(data: bytes) -> Contents:
    """What is in a snapshot, without keeping it. Raises UnreadableSnapshot, NewerSnapshot."""
    head = read_head(data)
    counts: dict[str, int] = {}
    sizes: dict[str, int] = {}
    try:
        for name, payload, stored in read(data):
            sizes[name] = sizes.get(name, 0) + stored
            counts[name] = counts.get(name, 0) + _count(name, payload)
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableSnapshot(f"the snapshot holds something that this version cannot read: {error}") from error
    tables = tuple(SectionSize(name=name, count=counts[name], bytes=sizes[name]) for name in sizes)
    return Contents(version=head.version, index=head.index, tables=tables)


def _count(name: str, payload: bytes) -> int:
    """How many records a section holds."""
    if name == "staged":
        return 1
    value = msgspec.msgpack.decode(payload)
    if isinstance(value, list):
        return len(value)
    if name == "allocs.rows":
        return int(value["count"])
    return len(value["values"]) if "values" in value else 0
