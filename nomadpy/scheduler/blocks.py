"""What was placed of a group, put together for the plan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nomadpy.model.alloc import AllocMetric
from nomadpy.model.job import Job, TaskGroup
from nomadpy.scheduler.port_sets import PortColumns
from nomadpy.state.commands import PlaceBlock, PlacedAlloc
from nomadpy.state.view import IntColumn

_NO_DETAIL = PlacedAlloc()


class _Part:
    """Placements whose ports, if any, are told in the same way."""

    def __init__(self) -> None:
        self.nodes: list[bytes] = []
        self.names: list[bytes] = []
        self.details: dict[int, PlacedAlloc] = {}
        self.ports: PortColumns | None = None
        self.count = 0

    def add(self, nodes: IntColumn | Sequence[int], names: IntColumn | Sequence[int]) -> None:
        self.nodes.append(np.asarray(nodes, dtype="<u4").tobytes())
        self.names.append(np.asarray(names, dtype="<u4").tobytes())
        self.count += len(nodes)


class Blocks:
    """Collects the placements of one group."""

    def __init__(self) -> None:
        self._main = _Part()
        self._with_ports: list[_Part] = []

    def add(
        self, nodes: IntColumn | Sequence[int], names: IntColumn | Sequence[int], ports: PortColumns | None = None
    ) -> None:
        """Takes over equal allocations: node and name of each, and their ports if they have any."""
        if ports is None:
            self._main.add(nodes, names)
            return
        part = _Part()
        part.add(nodes, names)
        part.ports = ports
        self._with_ports.append(part)

    def add_one(self, node: int, name: int, detail: PlacedAlloc) -> None:
        """Takes over an allocation that is not just another one."""
        if detail != _NO_DETAIL:
            self._main.details[self._main.count] = detail
        self._main.add((node,), (name,))

    @property
    def nodes(self) -> IntColumn:
        """The number of the node of each placement."""
        return np.frombuffer(b"".join(n for part in self._parts for n in part.nodes), dtype="<u4").astype(np.int64)

    @property
    def _parts(self) -> list[_Part]:
        return [self._main, *self._with_ports]

    def finish(
        self, job: Job, group: TaskGroup, *, eval_id: str, deployment_id: str, metrics: AllocMetric | None
    ) -> tuple[PlaceBlock, ...]:
        """The blocks of the plan."""
        return tuple(
            PlaceBlock(
                namespace=job.namespace,
                job_id=job.id,
                job_version=job.version,
                group=group.name,
                eval_id=eval_id,
                deployment_id=deployment_id,
                nodes=b"".join(part.nodes),
                name_indexes=b"".join(part.names),
                details=part.details,
                metrics=metrics,
                port_values=part.ports.values if part.ports is not None else b"",
                port_hosts=part.ports.hosts if part.ports is not None else {},
            )
            for part in self._parts
            if part.count
        )
