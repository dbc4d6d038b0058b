"""What decisions read: the state at one index.

``StateView`` is implemented by ``StateStore`` itself (the trio loop owns it, so code that does not await sees one
consistent state) and by ``Overlay`` for dry runs with a job that is not registered.
"""

from __future__ import annotations

from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from nomadpy.model.alloc import Allocation
from nomadpy.model.demand import Demand
from nomadpy.model.evaluation import Deployment
from nomadpy.model.job import Job
from nomadpy.model.node import Node, NodePool, SchedulerConfiguration

IntColumn = npt.NDArray[np.int64]
BoolColumn = npt.NDArray[np.bool_]


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What an allocation holds of its node, as far as taking it away goes. ``priority`` is that of its job;
    ``migrate_parallel`` is how many of its group may be moved at a time (0: no limit is said)."""

    alloc_id: str
    namespace: str
    job_id: str
    group: str
    priority: int
    demand: Demand
    migrate_parallel: int = 0


class NodeColumns(Protocol):
    """The nodes as columns, indexed by node number. Numbers are never reused while the process lives; a node that was
    purged leaves a hole (``nodes[i] is None`` and ``ready[i]`` False). Capacity is what the node has minus what its
    operator reserved. Usage counts every allocation that its client has not declared over, and is maintained by
    ``apply``, never re-summed. Readers must not write; they copy what they change."""

    size: int
    nodes: list[Node | None]
    facts_version: int  # changes whenever a node appears, goes, or changes its facts or readiness

    @property
    def cpu(self) -> IntColumn:
        """MHz that a node has for allocations."""

    @property
    def memory(self) -> IntColumn:
        """MB that a node has for allocations."""

    @property
    def disk(self) -> IntColumn:
        """MB that a node has for allocations."""

    @property
    def cpu_used(self) -> IntColumn:
        """MHz in use."""

    @property
    def memory_used(self) -> IntColumn:
        """MB in use."""

    @property
    def disk_used(self) -> IntColumn:
        """MB in use."""

    @property
    def alloc_count(self) -> IntColumn:
        """Allocations that their client has not declared over."""

    @property
    def core_mhz(self) -> IntColumn:
        """MHz of one core, which is what a reserved core takes."""

    @property
    def ready(self) -> BoolColumn:
        """Status ready, not draining, eligible."""

    def used_ports(self, number: int) -> dict[str, int]:
        """Host address → bit set of its used ports (bit n is port n) by live allocations; the node's own reserved
        ports are not included."""


class PlainAllocs(msgspec.Struct, frozen=True):
    """Allocations of one group of a job's current version about which there is nothing to decide. ``counts[i]`` of
    those that are not over are on node ``numbers[i]``; ``names`` are the numbers that they and finished batch work
    hold, one each. ``undecided``: how many of a deployment's nobody has called healthy or unhealthy yet."""

    numbers: IntColumn
    counts: IntColumn
    names: IntColumn
    undecided: int = 0


class StateView(Protocol):
    """The state as decisions read it."""

    @property
    def index(self) -> int:
        """The log index this state is at."""

    @property
    def columns(self) -> NodeColumns:
        """The nodes as columns."""

    @property
    def scheduler_config(self) -> SchedulerConfiguration:
        """Cluster-wide scheduling switches."""

    def job(self, namespace: str, job_id: str) -> Job | None:
        """The current version of a job."""

    def job_version(self, namespace: str, job_id: str, version: int) -> Job | None:
        """One version of a job, while it is tracked or an allocation still runs it."""

    def node(self, node_id: str) -> Node | None:
        """A node by its full id."""

    def node_pool(self, name: str) -> NodePool | None:
        """A node pool by name."""

    def node_number(self, node_id: str) -> int:
        """The node's position in the columns; -1 when unknown."""

    def alloc(self, alloc_id: str) -> Allocation | None:
        """An allocation by its full id, with ``job`` set to the version it was made from."""

    def allocs_by_job(self, namespace: str, job_id: str) -> list[Allocation]:
        """Every stored allocation of the job (all versions, also terminal ones), oldest first."""

    def split_allocs(self, job: Job, deployment_id: str) -> tuple[dict[str, PlainAllocs], list[Allocation]]:
        """The same in two parts: by group what is plain (see there), and the records of everything else but what is
        over and forgotten."""

    def allocs_by_node(self, node_id: str) -> list[Allocation]:
        """Every stored allocation of the node, oldest first."""

    def claims(self, number: int, priority: int) -> list[Claim]:
        """The claims on a node, oldest first, of wanted and unfinished allocations whose job's priority is at most
        ``priority``."""

    def lowest_priority(self) -> int | None:
        """The lowest priority of any job with wanted and unfinished allocations."""

    def latest_deployment(self, namespace: str, job_id: str) -> Deployment | None:
        """The newest deployment of the job."""

    def is_untouched(self, namespace: str, job_id: str) -> bool:
        """Whether there is nothing of a job yet but one evaluation at most: no allocation, no deployment."""
