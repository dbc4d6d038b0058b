"""Plans that only add allocations, many at once.

Where plans stop nothing and give no allocation anything of its own but ports, the order in which they are carried out
does not matter as long as all of them fit together: what fits with all others fits after any of them. So they are
verified by one sum per dimension, and by the sets of ports, and stored as one run of rows. If something does not fit,
nothing is changed, and ``plans`` looks at each plan by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nomadpy.model.demand import Demand, group_demand
from nomadpy.state import commands as c
from nomadpy.state.allocs import NewRows
from nomadpy.state.apply import deployments, ports
from nomadpy.state.store import StateStore

IntColumn = npt.NDArray[np.int64]
_U32 = np.dtype("<u4")
_DENSE = 8  # summing over all nodes costs less than sorting when there are so few per placement


def place_fresh(store: StateStore, index: int, now_ns: int, plans: Sequence[c.PlanResult]) -> bool:
    """Carries the plans out if they only add allocations and all fit; False, with nothing changed, otherwise."""
    if not all(_only_adds(plan) for plan in plans):
        return False
    blocks = [_rows(store, block) for block in _blocks(plans)]
    found = [block for block in blocks if block is not None]
    if len(found) != len(blocks):
        return False
    nodes = np.concatenate([block.nodes for block in found]) if found else np.zeros(0, dtype=np.uint32)
    usage = Usage(nodes, [len(block.nodes) for block in found], [group_demand(block.group) for block in found])
    if not usage.fits(store):
        return False
    with_ports = [(block, rows) for block, rows in zip(_blocks(plans), found, strict=True) if block.port_values]
    claims = ports.Claims(store.nodes)
    if not all(claims.take(block, rows.nodes) for block, rows in with_ports):
        return False
    for plan in plans:
        if plan.deployment is not None:
            deployments.open_groups(store, index, now_ns, plan.deployment)
    if not found:
        return True
    usage.book(store)
    claims.book()
    row = store.allocs.append(found, index=index, now_ns=now_ns)
    for block, rows in zip(_blocks(plans), found, strict=True):
        count = len(rows.nodes)
        if block.port_values:
            ports.note(store, block, rows.group, row, rows.nodes, ports.values_of(block))
        if block.deployment_id:
            deployments.count_placed(store, index, now_ns, row, count=count)
        store.jobs.count(rows.job, rows.group.name, index, starting=count, queued=-count)
        row += count
    store.touch("allocs", "job_summary")
    return True


def _only_adds(plan: c.PlanResult) -> bool:
    return not (plan.stops or plan.annotate or plan.in_place or plan.deployment_updates) and not any(
        block.details for block in plan.places
    )


def _blocks(plans: Sequence[c.PlanResult]) -> Iterator[c.PlaceBlock]:
    return (block for plan in plans for block in plan.places)


def _rows(store: StateStore, block: c.PlaceBlock) -> NewRows | None:
    """What a block adds; None when it cannot be carried out as it is."""
    key = (block.namespace, block.job_id)
    job = store.jobs.current.get(key)
    if job is None or job.version != block.job_version:
        job = store.jobs.version(key, block.job_version)
    group = job.group(block.group) if job is not None else None
    if job is None or group is None or len(block.nodes) != len(block.name_indexes) or len(block.nodes) % 4:
        return None
    if not block.nodes or (block.port_values and not ports.are_sound(block, group)):
        return None
    nodes, names = np.frombuffer(block.nodes, _U32), np.frombuffer(block.name_indexes, _U32)
    return NewRows(job, group, nodes, names, block.eval_id, block.deployment_id, block.metrics)


class Usage:
    """What groups take together, for each node that any of them names: ``lengths[i]`` of the nodes, in order, have one
    allocation of ``demands[i]`` each."""

    def __init__(self, nodes: npt.NDArray[np.uint32], lengths: Sequence[int], demands: Sequence[Demand]) -> None:
        place: npt.NDArray[np.integer[Any]]
        highest = int(nodes.max()) if len(nodes) else 0
        if highest < _DENSE * len(nodes):
            place, found = nodes, np.bincount(nodes)
            self.numbers = np.flatnonzero(found)
            self.counts = found[self.numbers]
        else:
            unique, place, self.counts = np.unique(nodes, return_inverse=True, return_counts=True)
            self.numbers = unique.astype(np.int64)
        asks = np.array([(d.cpu, d.memory, d.disk) for d in demands], dtype=np.int64).reshape(-1, 3)
        self.cpu, self.memory, self.disk = (self._sum(place, lengths, asks[:, at]) for at in range(3))

    def _sum(self, place: npt.NDArray[np.integer[Any]], lengths: Sequence[int], asks: IntColumn) -> IntColumn:
        if not len(asks) or (asks == asks[0]).all():
            return self.counts * (asks[0] if len(asks) else 0)
        # Weights are summed as floats, which are exact up to 2^53.
        sums = np.bincount(place, weights=np.repeat(asks, lengths)).astype(np.int64)
        return sums if len(sums) == len(self.numbers) else sums[self.numbers]

    def fits(self, store: StateStore) -> bool:
        """Whether every node is there, ready, and has room."""
        numbers, nodes = self.numbers, store.nodes
        if not len(numbers):
            return True
        if int(numbers[-1]) >= nodes.size or not nodes.ready[numbers].all():
            return False
        return all(
            not np.any(used[numbers] + more > has[numbers])
            for has, used, more in (
                (nodes.cpu, nodes.cpu_used, self.cpu),
                (nodes.memory, nodes.memory_used, self.memory),
                (nodes.disk, nodes.disk_used, self.disk),
            )
        )

    def book(self, store: StateStore) -> None:
        """Counts it all as used."""
        store.nodes.use_counted(self.numbers, self.counts, self.cpu, self.memory, self.disk)
