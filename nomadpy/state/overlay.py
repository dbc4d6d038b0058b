"""The state as it would be with one job registered, for dry runs."""

from __future__ import annotations

from nomadpy.model.alloc import Allocation
from nomadpy.model.evaluation import Deployment
from nomadpy.model.job import Job
from nomadpy.model.node import Node, NodePool, SchedulerConfiguration
from nomadpy.state.store import StateStore
from nomadpy.state.view import Claim, NodeColumns, PlainAllocs


class Overlay:
    """Implements ``view.StateView`` over a store, with ``job`` in the place of the stored version."""

    def __init__(self, store: StateStore, job: Job) -> None:
        self._store = store
        self._job = job

    @property
    def index(self) -> int:
        return self._store.index

    @property
    def columns(self) -> NodeColumns:
        return self._store.columns

    @property
    def scheduler_config(self) -> SchedulerConfiguration:
        return self._store.scheduler_config

    def job(self, namespace: str, job_id: str) -> Job | None:
        return self._job if (namespace, job_id) == self._job.key else self._store.job(namespace, job_id)

    def job_version(self, namespace: str, job_id: str, version: int) -> Job | None:
        if (namespace, job_id) == self._job.key and version == self._job.version:
            return self._job
        return self._store.job_version(namespace, job_id, version)

    def node(self, node_id: str) -> Node | None:
        return self._store.node(node_id)

    def node_pool(self, name: str) -> NodePool | None:
        return self._store.node_pool(name)

    def node_number(self, node_id: str) -> int:
        return self._store.node_number(node_id)

    def alloc(self, alloc_id: str) -> Allocation | None:
        return self._store.alloc(alloc_id)

    def allocs_by_job(self, namespace: str, job_id: str) -> list[Allocation]:
        return self._store.allocs_by_job(namespace, job_id)

    def split_allocs(self, job: Job, deployment_id: str) -> tuple[dict[str, PlainAllocs], list[Allocation]]:
        return self._store.split_allocs(job, deployment_id)

    def allocs_by_node(self, node_id: str) -> list[Allocation]:
        return self._store.allocs_by_node(node_id)

    def claims(self, number: int, priority: int) -> list[Claim]:
        return self._store.claims(number, priority)

    def lowest_priority(self) -> int | None:
        return self._store.lowest_priority()

    def latest_deployment(self, namespace: str, job_id: str) -> Deployment | None:
        return self._store.latest_deployment(namespace, job_id)

    def is_untouched(self, namespace: str, job_id: str) -> bool:
        return self._store.is_untouched(namespace, job_id)
