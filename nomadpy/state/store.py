"""The replicated state and its only door for changes, ``apply``.

``apply(index, command)`` is total and deterministic: it reads no clock, mints no id, draws no chance, calls nobody, and
answers a refusal as an outcome. The same commands in the same order make the same state on every server.

The trio loop owns the store: code that does not await between two reads sees one consistent state.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from nomadpy.model.alloc import Allocation, AllocListStub
from nomadpy.model.autopilot import AutopilotConfig
from nomadpy.model.errors import Refused
from nomadpy.model.evaluation import Deployment, Evaluation
from nomadpy.model.job import Job
from nomadpy.model.node import Namespace, Node, NodePool, SchedulerConfiguration
from nomadpy.state.allocs import AllocTable
from nomadpy.state.commands import Command, Outcome
from nomadpy.state.jobs import JobTable
from nomadpy.state.nodes import NodeTable
from nomadpy.state.view import Claim, NodeColumns, PlainAllocs

REQUESTS_REMEMBERED = 4096
TRACKED_VERSIONS = 6

Handler = Callable[["StateStore", int, Any], Any]


class Staged(msgspec.Struct, frozen=True):
    """The parts of a snapshot that is to be restored, as far as they came."""

    restore_id: str
    parts: tuple[bytes, ...]
    complete: bool = False

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return sum(len(part) for part in self.parts)


class Prepared(msgspec.Struct, frozen=True):
    """The state that was put aside, read already. ``sha256`` (hex) is that of what was read."""

    restore_id: str
    sha256: str
    state: StateStore


class StateStore:
    """All tables at one index. Implements ``view.StateView``."""

    def __init__(self, *, id_key: int = 0, tracked_versions: int = TRACKED_VERSIONS) -> None:
        self._index = 0
        # How far the state's index is ahead of the log's: a restore lifts it above that of what is restored.
        self.index_offset = 0
        self.restored_at = 0  # the index of the last restore
        self.staged: Staged | None = None
        self.prepared: Prepared | None = None  # not replicated
        self.generation = 0  # how often all tables were exchanged at once on this server; not replicated
        self.cluster_id = ""
        self.table_index: dict[str, int] = {}
        self.touched: set[str] = set()
        self.changed_evals: list[str] = []
        self.changed_deployments: list[str] = []  # also those whose allocations reported something
        self.jobs = JobTable(tracked_versions)
        self.allocs = AllocTable(id_key)
        self.nodes = NodeTable()
        self.evals: dict[str, Evaluation] = {}
        self.evals_by_job: dict[tuple[str, str], dict[str, None]] = {}
        self.open_evals: dict[tuple[str, str], int] = {}  # job → evaluations that are not terminal; none is not listed
        self.deployments: dict[str, Deployment] = {}
        self.deployments_by_job: dict[tuple[str, str], dict[str, None]] = {}
        self.namespaces = {"default": Namespace(name="default", description="Default shared namespace")}
        self.node_pools = {
            "all": NodePool(name="all", description="Node pool with all nodes in the cluster."),
            "default": NodePool(name="default", description="Default node pool."),
        }
        self._scheduler_config = SchedulerConfiguration()
        self.autopilot_config = AutopilotConfig()
        self._requests: OrderedDict[str, Outcome] = OrderedDict()

    # --- writing ---------------------------------------------------------------------------------------------------

    def apply(self, index: int, command: Command) -> Outcome:
        """Carries out one command as entry ``index`` of the log and tells what came of it. Never raises for a
        well-formed command: whatever is wrong with it is an outcome, and then nothing was changed. The outcome bears
        the state's index, which is ahead of the log's after a restore."""
        from nomadpy.state.apply import HANDLERS

        index += self.index_offset
        assert index > self._index, "log indexes only rise"
        self._index = index
        self.touched = set()
        self.changed_evals = []
        self.changed_deployments = []
        self.nodes.grown.clear()
        self.allocs.dirty_nodes.clear()
        if command.request_id and command.request_id in self._requests:
            return self._requests[command.request_id]
        try:
            value = HANDLERS[type(command)](self, index, command)
            index = self._index  # a restore lifts it
            outcome = Outcome(index=index, value=value)
        except Refused as refusal:
            outcome = Outcome(index=index, ok=False, code=refusal.code, status=refusal.status, message=refusal.message)
        for table in self.touched:
            self.table_index[table] = index
        if command.request_id:
            self._requests[command.request_id] = outcome
            if len(self._requests) > REQUESTS_REMEMBERED:
                self._requests.popitem(last=False)
        return outcome

    def set_position(self, index: int, log_index: int) -> None:
        """The state counts from ``index`` on at this entry of the log; for a restore only."""
        self._index = self.restored_at = index
        self.index_offset = index - log_index

    def adopt(self, other: StateStore) -> None:
        """Takes over all tables of another store, which must not be used any more. Everything counts as touched; what
        was remembered of the state before says nothing any more."""
        generation = self.generation + 1
        self.__dict__.update(other.__dict__)
        self.generation = generation
        self.touched = {*self.table_index}
        self.changed_evals, self.changed_deployments = list(self.evals), list(self.deployments)
        self.allocs.dirty_nodes.update(range(self.nodes.size))

    def grown_nodes(self) -> list[int]:
        """Numbers of the nodes on which the last entry made room, in order of their numbers."""
        return sorted(self.nodes.grown)

    def touch(self, *tables: str) -> None:
        """Notes that the entry being applied changed these tables."""
        self.touched.update(tables)

    def set_scheduler_config(self, config: SchedulerConfiguration) -> None:
        """Replaces the scheduling switches; for ``apply`` only."""
        self._scheduler_config = config

    # --- reading: what decisions need (view.StateView) -------------------------------------------------------------

    @property
    def index(self) -> int:
        """The index of the last applied entry, as all records and answers give it."""
        return self._index

    @property
    def log_index(self) -> int:
        """The same as the log counts."""
        return self._index - self.index_offset

    @property
    def columns(self) -> NodeColumns:
        """The nodes as columns."""
        return self.nodes

    @property
    def scheduler_config(self) -> SchedulerConfiguration:
        """Cluster-wide scheduling switches."""
        return self._scheduler_config

    def job(self, namespace: str, job_id: str) -> Job | None:
        """The current version of a job."""
        return self.jobs.current.get((namespace, job_id))

    def job_version(self, namespace: str, job_id: str, version: int) -> Job | None:
        """A version of a job while it is tracked."""
        return self.jobs.version((namespace, job_id), version)

    def node(self, node_id: str) -> Node | None:
        """A node by its full id."""
        return self.nodes.get(node_id)

    def node_pool(self, name: str) -> NodePool | None:
        """A node pool by name."""
        return self.node_pools.get(name)

    def node_number(self, node_id: str) -> int:
        """The node's position in the columns; -1 when unknown."""
        return self.nodes.number(node_id)

    def alloc(self, alloc_id: str) -> Allocation | None:
        """An allocation by its full id."""
        row = self.allocs.row(alloc_id)
        return None if row is None else self.alloc_at(row)

    def allocs_by_job(self, namespace: str, job_id: str) -> list[Allocation]:
        """Every stored allocation of the job, oldest first."""
        return [self.alloc_at(row) for row in self.allocs.rows_by_job((namespace, job_id))]

    def split_allocs(self, job: Job, deployment_id: str) -> tuple[dict[str, PlainAllocs], list[Allocation]]:
        """What is plain by group, and the records of the rest."""
        from nomadpy.state.plain import split

        plain, rows = split(self, job, deployment_id)
        return plain, [self.alloc_at(row) for row in rows]

    def allocs_by_node(self, node_id: str) -> list[Allocation]:
        """Every stored allocation of the node, oldest first."""
        return [self.alloc_at(row) for row in self.allocs.rows_by_node(self.nodes.number(node_id))]

    def claims(self, number: int, priority: int) -> list[Claim]:
        """What wanted and unfinished allocations of jobs of at most this priority hold of a node, oldest first."""
        table = self.allocs
        rows = [row for row in table.rows_by_node(number) if table.is_live(row)]
        shapes = [(row, table.shape_of(row)) for row in rows]
        return [shape.claim(table.ids.uuid(row)) for row, shape in shapes if shape.job.priority <= priority]

    def lowest_priority(self) -> int | None:
        """The lowest priority of any job with wanted and unfinished allocations."""
        return min((shape.job.priority for shape in self.allocs.live_shapes()), default=None)

    def latest_deployment(self, namespace: str, job_id: str) -> Deployment | None:
        """The newest deployment of the job."""
        ids = self.deployments_by_job.get((namespace, job_id), {})
        return max((self.deployments[i] for i in ids), key=lambda d: d.create_index, default=None)

    def is_untouched(self, namespace: str, job_id: str) -> bool:
        """Whether there is nothing of a job yet but one evaluation at most: no allocation, no deployment."""
        key = (namespace, job_id)
        return (
            len(self.evals_by_job.get(key, ())) <= 1
            and not self.deployments_by_job.get(key)
            and not self.allocs.rows_by_job(key)
        )

    # --- reading: what the API shows -------------------------------------------------------------------------------

    def node_of(self, row: int) -> tuple[str, str]:
        """(name, id) of the node of an allocation; the id stays known after the node was purged."""
        return self.nodes.identity(int(self.allocs.node[row]))

    def alloc_at(self, row: int) -> Allocation:
        """The allocation in a row."""
        return self.allocs.record(row, *self.node_of(row))

    def alloc_stub_at(self, row: int) -> AllocListStub:
        """The allocation in a row, as lists show it."""
        return self.allocs.stub(row, *self.node_of(row))

    def job_evals(self, namespace: str, job_id: str) -> list[Evaluation]:
        """The stored evaluations of a job, oldest first."""
        return [self.evals[eval_id] for eval_id in self.evals_by_job.get((namespace, job_id), {})]

    def job_deployments(self, namespace: str, job_id: str) -> list[Deployment]:
        """The stored deployments of a job, oldest first."""
        return [self.deployments[i] for i in self.deployments_by_job.get((namespace, job_id), {})]

    def max_index(self, *tables: str) -> int:
        """The newest index at which any of the tables changed; 0 when none ever did."""
        return max((self.table_index.get(table, 0) for table in tables), default=0)

    def live_rows(self, key: tuple[str, str]) -> Iterable[int]:
        """Rows of a job that neither side is done with."""
        table = self.allocs
        return (row for row in table.rows_by_job(key) if table.is_live(row)) if table.n_live(key) else ()
