"""The allocations of a job that nothing is to be decided about, found by columns.

Most allocations of a large job simply run: in the job's current version, on a node that is there, with nothing noted
about them. A decision needs to know how many there are, where, and under which numbers, but no record of each. The
others are few as a rule, and become records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nomadpy.model.alloc import COMPLETE, PENDING, RUN, RUNNING
from nomadpy.model.job import Job
from nomadpy.model.node import DISCONNECTED, DOWN
from nomadpy.state.allocs import CLIENT_CODE, DESIRED_CODE, Extra
from nomadpy.state.view import BoolColumn, PlainAllocs

if TYPE_CHECKING:
    from nomadpy.state.store import StateStore

FEW = 32  # so many records cost less than the columns


def split(store: StateStore, job: Job, deployment_id: str) -> tuple[dict[str, PlainAllocs], list[int]]:
    """Per group of the job's current version what is plain, and the rows of everything else, oldest first.
    ``deployment_id`` is the deployment whose undecided allocations are counted."""
    table = store.allocs
    held = table.rows_by_job(job.key)
    rows = np.array(held, dtype=np.uint32)
    if len(rows) < FEW:
        return {}, rows.tolist()
    kinds = _Kinds(store, job, rows)
    plain, undecided = _without_notes(store, rows, kinds.live | kinds.done | kinds.over)
    undecided &= table.deployment[rows] == table.deployment_code(deployment_id)
    groups = {}
    for code, name in kinds.current.items():
        mine = plain & (kinds.shape == code)
        if mine.any():
            counted = mine & (kinds.live | kinds.done)
            numbers, counts = np.unique(table.node[rows[mine & kinds.live]], return_counts=True)
            groups[name] = PlainAllocs(
                numbers=numbers.astype(np.int64),
                counts=counts,
                names=table.name_index[rows[counted]].astype(np.int64),
                undecided=int(np.count_nonzero(mine & kinds.live & undecided)),
            )
    return groups, rows[~plain].tolist()


class _Kinds:
    """What the columns say of each row. ``live``: wanted, not over, of the current version, its node there. ``done``:
    finished batch work of the current version, which keeps its place. ``over``: finished and forgotten."""

    def __init__(self, store: StateStore, job: Job, rows: npt.NDArray[np.uint32]) -> None:
        table = store.allocs
        version = (job.job_modify_index, job.create_index)
        self.current = {
            code: shape.group.name
            for code, shape in table.job_shapes(job.key)
            if (shape.job.job_modify_index, shape.job.create_index) == version and shape.group.count > 0
        }
        self.shape = table.shape[rows]
        of_current = np.isin(self.shape, np.fromiter(self.current, dtype=np.uint32))
        wanted, client = table.desired[rows] == DESIRED_CODE[RUN], table.client[rows]
        complete = client == CLIENT_CODE[COMPLETE]
        runs = (client == CLIENT_CODE[PENDING]) | (client == CLIENT_CODE[RUNNING])
        self.live: BoolColumn = of_current & wanted & runs & _on_present_nodes(store, table.node[rows])
        none = np.zeros(len(rows), dtype=np.bool_)
        self.done: BoolColumn = complete & wanted & of_current if job.type == "batch" else none
        self.over: BoolColumn = complete if job.type == "service" else none


def _on_present_nodes(store: StateStore, numbers: npt.NDArray[np.uint32]) -> BoolColumn:
    present = np.array(
        [node is not None and node.status not in (DOWN, DISCONNECTED) for node in store.nodes.nodes], dtype=np.bool_
    )
    found: BoolColumn = present[numbers]
    return found


def _without_notes(
    store: StateStore, rows: npt.NDArray[np.uint32], candidates: BoolColumn
) -> tuple[BoolColumn, npt.NDArray[Any]]:
    """Which of the candidates have nothing noted that matters, and which have no verdict on their health."""
    extra = store.allocs.extra
    plain, undecided = candidates.copy(), np.ones(len(rows), dtype=np.bool_)
    for at, row in zip(np.flatnonzero(candidates).tolist(), rows[candidates].tolist(), strict=True):
        note = extra(row)
        if not _is_plain(note):
            plain[at] = False
        elif note.deployment_status is not None and note.deployment_status.healthy is not None:
            undecided[at] = False
    return plain, undecided


def _is_plain(note: Extra) -> bool:
    health = note.deployment_status
    return (
        note.previous < 0
        and note.next < 0
        and note.transition is None
        and not note.alloc_states
        and (health is None or not (health.canary or health.healthy is False))
    )
