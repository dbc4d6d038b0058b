"""The first allocations of many jobs, entered into the table at once.

Where nothing is known of the jobs, their evaluations and deployments yet, every number that is given out for them is a
new one, so all are given out together. ``AllocTable.append``, job by job, leads to the same (a test compares).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from nomadpy.model.demand import Demand
from nomadpy.model.job import Job, TaskGroup
from nomadpy.state.allocs import AllocTable, NewRows
from nomadpy.state.row_index import Rows
from nomadpy.state.shape import Shape
from nomadpy.state.told import Metric

Key = tuple[str, str]


class FirstRows(NamedTuple):
    """New allocations of one group of each job, as columns: ``counts[i]`` of the nodes, in order, are those of job
    ``i``. ``demands`` are the groups'."""

    keys: Sequence[Key]
    jobs: Sequence[Job]
    groups: Sequence[TaskGroup]
    demands: Sequence[Demand]
    counts: Sequence[int]
    nodes: Rows
    name_indexes: Rows
    eval_ids: Sequence[str]
    deployment_ids: Sequence[str]
    metrics: Sequence[Metric]


def append_first(table: AllocTable, rows: FirstRows, *, index: int, now_ns: int) -> None:
    """Adds pending allocations that should run."""
    if not _are_new(table, rows):
        table.append(list(_blocks(rows)), index=index, now_ns=now_ns)
        return
    counts = rows.counts
    shapes = _add_shapes(table, rows)
    evals = table._evals.add_held(rows.eval_ids, counts)
    opened = [(found, count) for found, count in zip(rows.deployment_ids, counts, strict=True) if found]
    codes = iter(table._deployments.add_held([found for found, _ in opened], [count for _, count in opened]))
    deployments = [next(codes) if found else 0 for found in rows.deployment_ids]
    metrics = table._metrics.add_held(rows.metrics, counts)
    every = (shapes, evals, deployments, metrics)
    first = table.fill(rows.nodes, rows.name_indexes, every, counts, index=index, now_ns=now_ns)
    starts = accumulate(counts, initial=first)
    table._by_job.update(
        (key, array("I", (start,) if count == 1 else range(start, start + count)))
        for key, start, count in zip(rows.keys, starts, counts, strict=False)
    )


def _are_new(table: AllocTable, rows: FirstRows) -> bool:
    keys, evals = set(rows.keys), set(rows.eval_ids)
    deployments = [found for found in rows.deployment_ids if found]
    return (
        len(keys) == len(evals) == len(rows.counts)
        and len(set(deployments)) == len(deployments)
        and table.have_none_of(keys)
        and table._evals.know_none_of(evals)
        and table._deployments.know_none_of(set(deployments))
    )


def _blocks(rows: FirstRows) -> list[NewRows]:
    out, start = [], 0
    for at, count in enumerate(rows.counts):
        part = slice(start, start + count)
        start += count
        out.append(
            NewRows(
                rows.jobs[at],
                rows.groups[at],
                rows.nodes[part],
                rows.name_indexes[part],
                rows.eval_ids[at],
                rows.deployment_ids[at],
                rows.metrics[at],
            )
        )
    return out


def _add_shapes(table: AllocTable, rows: FirstRows) -> list[int]:
    """The numbers of the jobs' shapes."""
    first, counts = table._next_shape, rows.counts
    codes = list(range(first, first + len(counts)))
    table._next_shape += len(counts)
    table.shapes.update(zip(codes, map(Shape, rows.jobs, rows.groups, rows.demands), strict=True))
    table._shape_rows.update(zip(codes, counts, strict=True))
    table._shape_live.update(zip(codes, counts, strict=True))
    table._job_shapes.update((key, {code: None}) for key, code in zip(rows.keys, codes, strict=True))
    table._shape_codes.update(
        ((*key, job.job_modify_index, group.name), code)
        for key, job, group, code in zip(rows.keys, rows.jobs, rows.groups, codes, strict=True)
    )
    return codes
