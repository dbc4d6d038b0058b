"""The allocations in a snapshot: columns, side records and shapes are stored; what follows from them is rebuilt."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from nomadpy.model.alloc import AllocMetric
from nomadpy.model.job import Job
from nomadpy.state.allocs import COLUMNS, GONE, AllocTable, Extra, roomy
from nomadpy.state.frozen import Page
from nomadpy.state.ids import RowIds
from nomadpy.state.sections import UnreadableSnapshot, Writer
from nomadpy.state.shape import Shape
from nomadpy.state.shared import Interned, Shared
from nomadpy.state.told import Told

# Every attribute of the table, by what becomes of it. The names of the columns stand in ``COLUMNS``.
STORED = frozenset({"ids", "size", "_next_shape", "shapes", "_extra", "_metrics", "_evals", "_deployments"})
REBUILT = frozenset({"live", "_shape_codes", "_shape_rows", "_shape_live", "_job_shapes"}) | frozenset(
    {"_by_job", "_by_node", "_indexed_to", "_capacity"}
)
TRANSIENT = frozenset({"dirty_nodes", "_epoch", "_frozen", "_sayings"})

T = TypeVar("T")
_PAGES_TOGETHER = 64
_RECORDS_TOGETHER = 1024


class StoredShared(msgspec.Struct, Generic[T], frozen=True):
    """Shared values by number, and which numbers are given out next."""

    values: list[tuple[int, T]]
    free: list[int]
    next: int


class AllocFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The small part of the table. ``shapes`` names the job of each by its place among the stored jobs."""

    id_key: str
    eras: tuple[tuple[int, int], ...]
    size: int
    next_shape: int
    shapes: list[tuple[int, int, str]]


class RowBlock(msgspec.Struct, frozen=True):
    """Consecutive rows: the columns that do not hold the same everywhere, as little-endian numbers, and those that do,
    as one number."""

    first: int
    count: int
    columns: dict[str, bytes]
    uniform: dict[str, int]


def freeze_allocs(table: AllocTable, job_number: Callable[[Job], int]) -> Callable[[Writer], None]:
    """Takes the table as it is now; what comes back writes it, in another thread."""
    facts = AllocFacts(
        id_key=f"{table.ids.key:032x}",
        eras=table.ids.eras,
        size=table.size,
        next_shape=table._next_shape,
        shapes=[(code, job_number(shape.job), shape.group.name) for code, shape in table.shapes.items()],
    )
    shared = [
        (name, dict(values._values), list(values._free), values._next)
        for name, values in (
            ("allocs.metrics", table._metrics),
            ("allocs.evals", table._evals),
            ("allocs.deployments", table._deployments),
        )
    ]
    frozen = table.freeze()

    def write(writer: Writer) -> None:
        writer.put("allocs", facts)
        for name, values, free, following in shared:
            held = [(code, _stored(value)) for code, value in values.items() if code]
            writer.put(name, StoredShared(held, free, following))
        pages: list[Page] = []
        first = 0
        for page in frozen.pages():
            if page.extras:
                writer.put("allocs.extra", page.extras)
            pages.append(page)
            if len(pages) == _PAGES_TOGETHER:
                first = _write_rows(writer, first, pages)
                pages = []
        if pages:
            _write_rows(writer, first, pages)

    return write


def _stored(value: Any) -> Any:
    """A shared value as it is stored."""
    return value.record() if isinstance(value, Told) else value


def _write_rows(writer: Writer, first: int, pages: list[Page]) -> int:
    columns: dict[str, bytes] = {}
    uniform: dict[str, int] = {}
    count = 0
    for name, dtype in COLUMNS:
        values = np.concatenate([page.columns[name] for page in pages])
        count = len(values)
        if (values == values[0]).all():
            uniform[name] = int(values[0])
        else:
            columns[name] = values.astype(np.dtype(dtype).newbyteorder("<"), copy=False).tobytes()
    writer.put("allocs.rows", RowBlock(first, count, columns, uniform))
    return first + count


class AllocReader:
    """Makes a table from sections, whatever their order within the allocations."""

    def __init__(self) -> None:
        self.facts: AllocFacts | None = None
        self._table = AllocTable(0)
        self._rows = 0

    def take(self, name: str, data: bytes) -> bool:
        """Takes a section; False for one that is not of the allocations."""
        table = self._table
        match name:
            case "allocs":
                self._take_facts(data)
            case "allocs.metrics":
                _fill(table._metrics, _METRICS.decode(data))
            case "allocs.evals":
                _fill_words(table._evals, _WORDS.decode(data))
            case "allocs.deployments":
                _fill_words(table._deployments, _WORDS.decode(data))
            case "allocs.extra":
                table._extra.update(_EXTRAS.decode(data))
            case "allocs.rows":
                self._take_rows(_ROWS.decode(data))
            case _:
                return False
        return True

    def _take_facts(self, data: bytes) -> None:
        self.facts = facts = _FACTS.decode(data)
        table = self._table
        table.ids = RowIds(int(facts.id_key, 16), facts.eras)
        table._grow(roomy(table._capacity, facts.size))
        table.size = facts.size

    def _take_rows(self, block: RowBlock) -> None:
        if self.facts is None or block.first != self._rows or block.first + block.count > self.facts.size:
            raise UnreadableSnapshot(f"rows {block.first} and on of the allocations are out of place")
        rows = slice(block.first, block.first + block.count)
        for name, dtype in COLUMNS:
            column: npt.NDArray[Any] = getattr(self._table, name)
            if name in block.uniform:
                column[rows] = block.uniform[name]
            elif name in block.columns:
                column[rows] = np.frombuffer(block.columns[name], dtype=np.dtype(dtype).newbyteorder("<"))
        self._rows += block.count

    def finish(self, jobs: list[Job]) -> AllocTable:
        """The table, with everything that follows from what was stored. Raises UnreadableSnapshot."""
        if self.facts is None or self._rows != self.facts.size:
            raise UnreadableSnapshot("the snapshot lacks allocations")
        table = self._table
        # Else a record that a later snapshot holds might bear that one's number, and would be changed in place.
        table._epoch = max((extra.epoch for extra in table._extra.values()), default=0)
        table._next_shape = self.facts.next_shape
        for code, number, name in self.facts.shapes:
            job = jobs[number]
            group = job.group(name)
            if group is None:
                raise UnreadableSnapshot(f'job "{job.id}" has no group "{name}", which allocations were made from')
            table.shapes[code] = Shape(job, group)
            table._shape_codes[*job.key, job.job_modify_index, name] = code
            table._job_shapes.setdefault(job.key, {})[code] = None
        _rebuild(table)
        table.share_words()
        return table


def _fill(shared: Shared[Any], stored: StoredShared[Any]) -> None:
    shared._values.update(stored.values)
    shared._counts.update(dict.fromkeys((code for code, _ in stored.values), 0))
    shared._free, shared._next = stored.free, stored.next


def _fill_words(interned: Interned, stored: StoredShared[str]) -> None:
    _fill(interned, stored)
    interned._codes.update((word, code) for code, word in stored.values)


def _rebuild(table: AllocTable) -> None:
    """Counts and indexes by job and node, from the columns."""
    stored = np.flatnonzero(table.desired[: table.size] != GONE).astype(np.uint32)
    table.live = len(stored)
    shapes = table.shape[stored]
    live = stored[(table.desired[stored] == 0) & ~table.over(stored)]
    counts = _counted(shapes)
    if counts.keys() != table.shapes.keys():
        raise UnreadableSnapshot("allocations and the versions of jobs that they were made from do not match")
    table._shape_rows = counts
    table._shape_live = dict.fromkeys(table.shapes, 0) | _counted(table.shape[live])
    for shared, column in (
        (table._metrics, table.metric),
        (table._evals, table.eval),
        (table._deployments, table.deployment),
    ):
        _count_shared(shared, column[stored])
    table._by_node, table._indexed_to = _grouped(table.node[stored], stored), table.size
    keys = list(table._job_shapes)
    place = {key: number for number, key in enumerate(keys)}
    job_of = np.zeros(table._next_shape + 1, dtype=np.uint32)
    for code, shape in table.shapes.items():
        job_of[code] = place[shape.job.key]
    table._by_job = {keys[number]: rows for number, rows in _grouped(job_of[shapes], stored).items()}


def _counted(codes: npt.NDArray[np.uint32]) -> dict[int, int]:
    found, counts = np.unique(codes, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _count_shared(shared: Shared[Any], codes: npt.NDArray[np.uint32]) -> None:
    counts = _counted(codes)
    counts.pop(0, None)
    if counts.keys() != shared._counts.keys():
        raise UnreadableSnapshot("allocations and the evaluations, deployments or metrics that they name do not match")
    shared._counts = counts


def _grouped(keys: npt.NDArray[np.uint32], rows: npt.NDArray[np.uint32]) -> dict[int, array[int]]:
    """Key → its rows, oldest first."""
    order = np.argsort(keys, kind="stable")
    found, starts = np.unique(keys[order], return_index=True)
    parts: Iterable[npt.NDArray[np.uint32]] = np.split(rows[order], starts[1:]) if len(found) else ()
    return {int(key): array("I", part.tobytes()) for key, part in zip(found, parts, strict=True)}


_FACTS = msgspec.msgpack.Decoder(AllocFacts)
_METRICS = msgspec.msgpack.Decoder(StoredShared[AllocMetric])
_WORDS = msgspec.msgpack.Decoder(StoredShared[str])
_EXTRAS = msgspec.msgpack.Decoder(list[tuple[int, Extra]])
_ROWS = msgspec.msgpack.Decoder(RowBlock)
