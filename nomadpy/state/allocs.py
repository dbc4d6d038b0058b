"""The allocations, as columns.

A row costs 66 bytes in the columns and some in the indexes; what only some allocations have (task states, ports,
chains, descriptions) lies in a side map keyed by row. An ``Allocation`` record is made when somebody reads one. Rows
are appended and never renumbered, because ids follow from them (``ids.py``); a row that was collected keeps its bytes.

What an allocation was given follows from its job version and group, so it is kept once per (version, group) in a
``Shape`` and shared by all rows; ports, cores and devices are the exception and lie in the side map. How many rows of a
shape are live is counted as they change, so a job's status needs no look at its allocations.

Snapshots are encoded in another thread while the table goes on changing (``frozen.py``). So whatever changes a row
calls ``_keep(row)`` first, for a column as for the side record. A new column or side field needs nothing else: columns
are stored by ``COLUMNS``, side fields as they are declared, and what a table holds besides has to be stored or rebuilt
in ``snapshot_allocs.py``, where a list names every attribute (a test compares).
"""

from __future__ import annotations

import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np
import numpy.typing as npt

from nomadpy.model import alloc as a
from nomadpy.model.alloc import (
    Allocation,
    AllocDeploymentStatus,
    AllocListStub,
    AllocMetric,
    AllocNetworkStatus,
    AllocState,
    DesiredTransition,
    RescheduleTracker,
    TaskState,
)
from nomadpy.model.job import Job, TaskGroup
from nomadpy.model.resources import AllocatedDevice, AllocatedPort
from nomadpy.state.frozen import FrozenAllocs
from nomadpy.state.ids import RowIds
from nomadpy.state.reported import Reported, Sayings
from nomadpy.state.row_index import Rows, add_range, add_scattered, drop
from nomadpy.state.shape import Shape, given_resources
from nomadpy.state.shared import Interned, Shared
from nomadpy.state.told import Metric, metric_record

DESIRED = (a.RUN, a.STOP, a.EVICT)
CLIENT = (a.PENDING, a.RUNNING, a.COMPLETE, a.FAILED, a.LOST, a.UNKNOWN)
DESIRED_CODE = {word: code for code, word in enumerate(DESIRED)}
CLIENT_CODE = {word: code for code, word in enumerate(CLIENT)}
_CLIENT_OVER = np.array([word in a.CLIENT_TERMINAL for word in CLIENT], dtype=np.bool_)
_HEX_DIGITS = frozenset("0123456789abcdef")
GONE = 255  # desired code of a row that garbage collection removed

COLUMNS: tuple[tuple[str, Any], ...] = (
    ("shape", np.uint32),
    ("node", np.uint32),
    ("name_index", np.uint32),
    ("eval", np.uint32),
    ("deployment", np.uint32),
    ("metric", np.uint32),
    ("desired", np.uint8),
    ("client", np.uint8),
    ("create_index", np.uint64),
    ("modify_index", np.uint64),
    ("alloc_modify_index", np.uint64),
    ("create_time", np.int64),
    ("modify_time", np.int64),
)


class Extra(msgspec.Struct, omit_defaults=True, gc=False):
    """What only some allocations have."""

    previous: int = -1
    next: int = -1
    ports: tuple[AllocatedPort, ...] = ()
    devices: dict[str, tuple[AllocatedDevice, ...]] | None = None
    reserved_cores: dict[str, tuple[int, ...]] | None = None
    reported: Reported | None = None
    alloc_states: tuple[AllocState, ...] = ()
    metrics: AllocMetric | None = None
    desired_description: str = ""
    client_description: str = ""
    transition: DesiredTransition | None = None
    deployment_status: AllocDeploymentStatus | None = None
    tracker: RescheduleTracker | None = None
    network_status: AllocNetworkStatus | None = None
    followup_eval_id: str = ""
    preempted: tuple[str, ...] = ()
    preempted_by: str = ""
    epoch: int = 0  # how often the table had been frozen when this record came into being


class NewRows(NamedTuple):
    """New allocations of one group from one evaluation: on which nodes, under which numbers."""

    job: Job
    group: TaskGroup
    nodes: Rows
    name_indexes: Rows
    eval_id: str = ""
    deployment_id: str = ""
    metrics: Metric | None = None


_INDEX_AT, _MANY = 1 << 15, 256
_SOME_ROWS, _MANY_ROWS = 1 << 15, 1 << 22
_NO_EXTRA = Extra()
_NO_TRANSITION = DesiredTransition()


def roomy(capacity: int, size: int) -> int:
    """The next capacity of the columns for so many rows. To copy half a million rows would hold up the loop for 100 ms
    and more, so that many are asked for well before: what is not touched takes no memory."""
    while capacity < size:
        capacity = max(capacity * 2, _MANY_ROWS) if capacity >= _SOME_ROWS else capacity * 2
    return capacity


class AllocTable:
    """Every allocation, by row. Only ``apply`` writes."""

    def __init__(self, id_key: int) -> None:
        self.ids = RowIds(id_key)
        self.size = 0
        self.live = 0
        self.dirty_nodes: set[int] = set()  # nodes whose orders the entry being applied changed
        self.shapes: dict[int, Shape] = {}
        self._next_shape = 0
        self._shape_codes: dict[tuple[str, str, int, str], int] = {}
        self._shape_rows: dict[int, int] = {}  # shape → stored rows
        self._shape_live: dict[int, int] = {}  # shape → rows that neither side is done with
        self._job_shapes: dict[tuple[str, str], dict[int, None]] = {}
        self._extra: dict[int, Extra] = {}
        self._sayings = Sayings()
        self._metrics: Shared[Metric | None] = Shared(None)
        self._evals = Interned()
        self._deployments = Interned()
        self._by_job: dict[tuple[str, str], array[int]] = {}
        self._by_node: dict[int, array[int]] = {}
        self._indexed_to = 0  # later rows are not in ``_by_node`` yet
        self._epoch = 0
        self._frozen: tuple[weakref.ref[FrozenAllocs], ...] = ()
        self._capacity = 0
        self._grow(1024)

    shape: npt.NDArray[np.uint32]
    node: npt.NDArray[np.uint32]
    name_index: npt.NDArray[np.uint32]
    eval: npt.NDArray[np.uint32]
    deployment: npt.NDArray[np.uint32]
    metric: npt.NDArray[np.uint32]
    desired: npt.NDArray[np.uint8]
    client: npt.NDArray[np.uint8]
    create_index: npt.NDArray[np.uint64]
    modify_index: npt.NDArray[np.uint64]
    alloc_modify_index: npt.NDArray[np.uint64]
    create_time: npt.NDArray[np.int64]
    modify_time: npt.NDArray[np.int64]

    def _grow(self, capacity: int) -> None:
        for name, dtype in COLUMNS:
            column = np.zeros(capacity, dtype=dtype)
            if self.size:
                column[: self.size] = getattr(self, name)[: self.size]
            setattr(self, name, column)
        self._capacity = capacity

    # --- writing ---------------------------------------------------------------------------------------------------

    def shape_code(self, job: Job, group: TaskGroup) -> int:
        """The number of the (job version, group) that allocations are made from; rows must follow at once, for it goes
        with its last row. Versions are told apart by their JobModifyIndex, which stays unique when a job is purged and
        registered again."""
        key = (*job.key, job.job_modify_index, group.name)
        code = self._shape_codes.get(key)
        if code is None:
            code = self._shape_codes[key] = self._next_shape
            self._next_shape += 1
            self.shapes[code] = Shape(job, group)
            self._shape_rows[code] = self._shape_live[code] = 0
            self._job_shapes.setdefault(job.key, {})[code] = None
        return code

    def append(self, blocks: Sequence[NewRows], *, index: int, now_ns: int) -> int:
        """Adds pending allocations that should run; returns the first of their consecutive rows, in which the blocks
        follow each other."""
        counts = [len(block.nodes) for block in blocks]
        origins = [self._originate(block, count) for block, count in zip(blocks, counts, strict=True)]
        first = self.fill(
            _joined([block.nodes for block in blocks]),
            _joined([block.name_indexes for block in blocks]),
            list(zip(*origins, strict=True)),
            counts,
            index=index,
            now_ns=now_ns,
        )
        start = first
        for block, count in zip(blocks, counts, strict=True):
            add_range(self._by_job, block.job.key, start, count)
            start += count
        return first

    def fill(
        self,
        nodes: Rows,
        name_indexes: Rows,
        codes: Sequence[Sequence[int]],
        counts: Sequence[int],
        *,
        index: int,
        now_ns: int,
    ) -> int:
        """Fills the columns of new rows and returns the first of them. ``codes``: of the shape, evaluation, deployment
        and metrics of ``counts[i]`` rows each, which the caller counts as held, as it enters the rows under their
        jobs."""
        first = self.size
        rows = slice(first, first + len(nodes))
        if rows.stop > self._capacity:
            self._grow(roomy(self._capacity, rows.stop))
        self.size = rows.stop
        self.live += len(nodes)
        self.node[rows] = nodes
        self.name_index[rows] = name_indexes
        self.dirty_nodes.update(_distinct(nodes))
        shared = (self.shape, self.eval, self.deployment, self.metric)
        for column, values in zip(shared, codes, strict=True):
            column[rows] = values[0] if len(values) == 1 else np.repeat(values, counts)
        self.desired[rows] = 0
        self.client[rows] = 0
        for moved in (self.create_index, self.modify_index, self.alloc_modify_index):
            moved[rows] = index
        self.create_time[rows] = self.modify_time[rows] = now_ns
        if self.size - self._indexed_to > _INDEX_AT:
            self._index_nodes()
        return first

    def _originate(self, block: NewRows, count: int) -> tuple[int, int, int, int]:
        """Counts the rows of a block under what they share: its shape, evaluation, deployment and metrics, in codes."""
        shape = self.shape_code(block.job, block.group)
        self._shape_rows[shape] += count
        self._shape_live[shape] += count
        evaluation = self._evals.code(block.eval_id)
        self._evals.hold(evaluation, count)
        deployment = self._deployments.code(block.deployment_id)
        self._deployments.hold(deployment, count)
        metric = 0 if block.metrics is None else self._metrics.add(block.metrics)
        self._metrics.hold(metric, count)
        return shape, evaluation, deployment, metric

    def _index_nodes(self) -> None:
        """Enters what was appended into the index by node; done when somebody asks or it becomes much."""
        if self._indexed_to < self.size:
            add_scattered(self._by_node, self.node[self._indexed_to : self.size], self._indexed_to)
            self._indexed_to = self.size

    def edit(self, row: int) -> Extra:
        """The side record of a row, made when it has none. It may be changed until the entry that is being applied
        is done; a record that a snapshot may hold is copied first."""
        self._keep(row)
        extra = self._extra.get(row)
        if extra is None:
            extra = self._extra[row] = Extra(epoch=self._epoch)
        elif extra.epoch != self._epoch:
            extra = self._extra[row] = msgspec.structs.replace(extra, epoch=self._epoch)
        return extra

    def set_task_states(self, row: int, states: dict[str, TaskState]) -> None:
        """What the row's node says of its tasks."""
        self.edit(row).reported = self._sayings.pack(states)

    def share_words(self) -> None:
        """Lets the rows that say the same of their tasks share the words, after they were read back."""
        for extra in self._extra.values():
            if extra.reported is not None:
                extra.reported = self._sayings.share(extra.reported)

    def freeze(self) -> FrozenAllocs:
        """The rows as they are now, for another thread to read while they change."""
        self._epoch += 1
        frozen = FrozenAllocs(self.size, {name: getattr(self, name) for name, _ in COLUMNS}, self._extra)
        self._frozen = (*(known for known in self._frozen if known() is not None), weakref.ref(frozen))
        return frozen

    def _keep(self, row: int) -> None:
        """To be called before anything about a row changes."""
        if self._frozen:
            for known in self._frozen:
                frozen = known()
                if frozen is not None:
                    frozen.keep(row)
                else:
                    self._frozen = tuple(each for each in self._frozen if each() is not None)

    def touch(self, row: int, index: int, now_ns: int, *, by_server: bool) -> None:
        """Moves the row's modify index; ``by_server`` also moves the one that its node watches."""
        self._keep(row)
        self.modify_index[row] = index
        self.modify_time[row] = now_ns
        if by_server:
            self.alloc_modify_index[row] = index
            self.dirty_nodes.add(int(self.node[row]))

    def set_desired(self, row: int, status: str) -> None:
        """What the servers want of the row."""
        self._keep(row)
        was_live = self.is_live(row)
        self.desired[row] = DESIRED_CODE[status]
        self._count_live(row, was_live)

    def set_client(self, row: int, status: str) -> None:
        """What its node says of the row."""
        self._keep(row)
        was_live = self.is_live(row)
        self.client[row] = CLIENT_CODE[status]
        self._count_live(row, was_live)

    def _count_live(self, row: int, was_live: bool) -> None:
        self._shape_live[int(self.shape[row])] += int(self.is_live(row)) - int(was_live)

    def set_shape(self, row: int, shape: int) -> None:
        """The version of its job that the row runs."""
        self._keep(row)
        old, live = int(self.shape[row]), int(self.is_live(row))
        self.shape[row] = shape
        self._shape_rows[shape] += 1
        self._shape_live[shape] += live
        self._shape_live[old] -= live
        self._leave_shape(old)

    def _leave_shape(self, code: int) -> None:
        self._shape_rows[code] -= 1
        if self._shape_rows[code]:
            return
        shape = self.shapes.pop(code)
        key = shape.job.key
        del self._shape_rows[code], self._shape_live[code]
        del self._shape_codes[*key, shape.job.job_modify_index, shape.group.name]
        del self._job_shapes[key][code]
        if not self._job_shapes[key]:
            del self._job_shapes[key]

    def set_eval(self, row: int, eval_id: str) -> None:
        """The evaluation that last decided about the row."""
        old, code = int(self.eval[row]), self._evals.code(eval_id)
        if old == code:
            return
        self._keep(row)
        self.eval[row] = code
        self._evals.hold(code)
        self._evals.drop(old)

    def set_deployment(self, row: int, deployment_id: str) -> None:
        """The deployment that the row belongs to."""
        self._keep(row)
        old, code = int(self.deployment[row]), self._deployments.code(deployment_id)
        self._deployments.hold(code)
        self.deployment[row] = code
        self._deployments.drop(old)

    def remove(self, rows: Iterable[int]) -> None:
        """Forgets rows for good; their ids become unknown. They must be over, or their use of nodes stays counted."""
        self._index_nodes()
        gone = set(rows)
        jobs = {self.shapes[int(self.shape[row])].job.key for row in gone}
        nodes = {int(self.node[row]) for row in gone}
        self.dirty_nodes.update(nodes)
        for key in sorted(jobs):
            drop(self._by_job, key, gone)
        for number in sorted(nodes):
            drop(self._by_node, number, gone)
        for row in sorted(gone):
            self._keep(row)
            self._shape_live[int(self.shape[row])] -= int(self.is_live(row))
            self._leave_shape(int(self.shape[row]))
            self._evals.drop(int(self.eval[row]))
            self._deployments.drop(int(self.deployment[row]))
            self._metrics.drop(int(self.metric[row]))
            self.desired[row] = GONE
            self._extra.pop(row, None)
        self.live -= len(gone)

    # --- reading ---------------------------------------------------------------------------------------------------

    def row(self, alloc_id: str) -> int | None:
        """The row of an id, if it is stored."""
        row = self.ids.row(alloc_id)
        if row is None or row >= self.size or self.desired[row] == GONE:
            return None
        return row

    def extra(self, row: int) -> Extra:
        """The side record of a row, for reading only."""
        return self._extra.get(row, _NO_EXTRA)

    def shape_of(self, row: int) -> Shape:
        """The (job version, group) of a row."""
        return self.shapes[int(self.shape[row])]

    def is_over(self, row: int) -> bool:
        """Whether its client declared it over."""
        return bool(_CLIENT_OVER[self.client[row]])

    def is_live(self, row: int) -> bool:
        """Whether neither side is done with it."""
        return bool(self.desired[row] == 0 and not _CLIENT_OVER[self.client[row]])

    def job_shapes(self, key: tuple[str, str]) -> list[tuple[int, Shape]]:
        """Every (version, group) of a job that rows run, by number."""
        return [(code, self.shapes[code]) for code in self._job_shapes.get(key, ())]

    def deployment_code(self, deployment_id: str) -> int:
        """The number of a deployment in the column; -1 when no row belongs to it, or for ""."""
        return self._deployments.find(deployment_id) if deployment_id else -1

    def n_live(self, key: tuple[str, str]) -> int:
        """How many allocations of a job neither side is done with."""
        return sum(self._shape_live[code] for code in self._job_shapes.get(key, ()))

    def have_none_of(self, jobs: Set[tuple[str, str]]) -> bool:
        """Whether no row belongs to any of the jobs."""
        return self._job_shapes.keys().isdisjoint(jobs)

    def live_shapes(self) -> Iterator[Shape]:
        """The shapes of which neither side is done with some row."""
        return (shape for code, shape in self.shapes.items() if self._shape_live[code])

    def live_versions(self, key: tuple[str, str]) -> set[int]:
        """The JobModifyIndex of every version that live allocations of the job run."""
        codes = self._job_shapes.get(key, ())
        return {self.shapes[code].job.job_modify_index for code in codes if self._shape_live[code]}

    def over(self, rows: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
        """Which of the rows their clients declared over."""
        return _CLIENT_OVER[self.client[rows]]

    def rows_by_job(self, key: tuple[str, str]) -> Iterable[int]:
        """Rows of a job, oldest first."""
        return self._by_job.get(key, ())

    def rows_by_node(self, number: int) -> Iterable[int]:
        """Rows of a node, oldest first."""
        self._index_nodes()
        return self._by_node.get(number, ())

    def rows_by_eval(self, eval_id: str, job: tuple[str, str]) -> list[int]:
        """Rows that an evaluation of the job last decided about, oldest first. Whatever an evaluation decides about is
        its job's."""
        code = self._evals.find(eval_id)
        if code < 0:
            return []
        held = np.asarray(self.rows_by_job(job), dtype=np.uint32)
        return cast(list[int], held[self.eval[held] == code].tolist())

    def deployment_id(self, row: int) -> str:
        """The deployment that the row belongs to, "" when none."""
        return self._deployments[int(self.deployment[row])]

    def rows_by_deployment(self, deployment_id: str, job: tuple[str, str] | None = None) -> list[int]:
        """Rows of a deployment; who knows its job spares a look at all others."""
        code = self._deployments.find(deployment_id)
        if code <= 0:
            return []
        if job is not None:
            held = np.asarray(self.rows_by_job(job), dtype=np.uint32)
            return [int(row) for row in held[self.deployment[held] == code]]
        mask = (self.deployment[: self.size] == code) & (self.desired[: self.size] != GONE)
        return [int(row) for row in np.flatnonzero(mask)]

    def rows(self) -> Iterator[int]:
        """Every stored row, oldest first."""
        return iter(np.flatnonzero(self.desired[: self.size] != GONE).tolist())

    def rows_by_prefix(self, prefix: str) -> list[int]:
        """Rows whose id begins with the hex digits (hyphens are ignored), in id order."""
        digits = prefix.replace("-", "").lower()
        if not set(digits) <= _HEX_DIGITS:
            return []
        if digits.strip("0123456789abcdef"):
            return []
        halves = self.ids.first_halves(np.arange(self.size, dtype=np.uint64))
        head = digits[:16]
        if head:
            shift = np.uint64(64 - 4 * len(head))
            mask = (halves >> shift) == np.uint64(int(head, 16))
        else:
            mask = np.ones(self.size, dtype=np.bool_)
        mask &= self.desired[: self.size] != GONE
        found = np.flatnonzero(mask)
        found = found[np.argsort(halves[found], kind="stable")]
        rows = [int(row) for row in found]
        if len(digits) > 16:
            rows = [row for row in rows if self.ids.uuid(row).replace("-", "").startswith(digits)]
        return rows

    def name(self, row: int) -> str:
        """``<job>.<group>[<index>]``."""
        shape = self.shape_of(row)
        return f"{shape.job.id}.{shape.group.name}[{self.name_index[row]}]"

    def stub(self, row: int, node_name: str, node_id: str) -> AllocListStub:
        """The row as it stands in lists."""
        shape, extra = self.shape_of(row), self.extra(row)
        job = shape.job
        return AllocListStub(
            id=self.ids.uuid(row),
            eval_id=self._evals[int(self.eval[row])],
            name=self.name(row),
            namespace=job.namespace,
            node_id=node_id,
            node_name=node_name,
            job_id=job.id,
            job_type=job.type,
            job_version=job.version,
            task_group=shape.group.name,
            desired_status=DESIRED[self.desired[row]],
            desired_description=extra.desired_description,
            client_status=CLIENT[self.client[row]],
            client_description=extra.client_description,
            desired_transition=extra.transition or _NO_TRANSITION,
            task_states=extra.reported.states() if extra.reported is not None else {},
            deployment_status=extra.deployment_status,
            followup_eval_id=extra.followup_eval_id,
            next_allocation=self._uuid_or_empty(extra.next),
            reschedule_tracker=extra.tracker,
            preempted_allocations=extra.preempted,
            preempted_by_allocation=extra.preempted_by,
            create_index=int(self.create_index[row]),
            modify_index=int(self.modify_index[row]),
            create_time_ns=int(self.create_time[row]),
            modify_time_ns=int(self.modify_time[row]),
        )

    def record(self, row: int, node_name: str, node_id: str) -> Allocation:
        """The row as a full allocation, with its job."""
        shape, extra = self.shape_of(row), self.extra(row)
        job = shape.job
        return Allocation(
            id=self.ids.uuid(row),
            namespace=job.namespace,
            eval_id=self._evals[int(self.eval[row])],
            name=self.name(row),
            node_id=node_id,
            node_name=node_name,
            job_id=job.id,
            job=job,
            task_group=shape.group.name,
            resources=shape.resources,
            shared_resources=shape.shared_resources,
            task_resources=shape.task_resources,
            allocated_resources=given_resources(shape, extra.ports, extra.reserved_cores or {}, extra.devices or {}),
            metrics=extra.metrics or metric_record(self._metrics[int(self.metric[row])]),
            desired_status=DESIRED[self.desired[row]],
            desired_description=extra.desired_description,
            desired_transition=extra.transition or _NO_TRANSITION,
            client_status=CLIENT[self.client[row]],
            client_description=extra.client_description,
            task_states=extra.reported.states() if extra.reported is not None else {},
            alloc_states=extra.alloc_states,
            previous_allocation=self._uuid_or_empty(extra.previous),
            next_allocation=self._uuid_or_empty(extra.next),
            deployment_id=self.deployment_id(row),
            deployment_status=extra.deployment_status,
            reschedule_tracker=extra.tracker,
            network_status=extra.network_status,
            followup_eval_id=extra.followup_eval_id,
            preempted_allocations=extra.preempted,
            preempted_by_allocation=extra.preempted_by,
            create_index=int(self.create_index[row]),
            modify_index=int(self.modify_index[row]),
            alloc_modify_index=int(self.alloc_modify_index[row]),
            create_time_ns=int(self.create_time[row]),
            modify_time_ns=int(self.modify_time[row]),
        )

    def _uuid_or_empty(self, row: int) -> str:
        return self.ids.uuid(row) if row >= 0 else ""


def _joined(parts: list[Rows]) -> Rows:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _distinct(numbers: Rows) -> list[int]:
    """The numbers, hardly any of them more than once."""
    found = numbers if len(numbers) < _MANY else np.flatnonzero(np.bincount(numbers))
    return cast(list[int], found.tolist())
