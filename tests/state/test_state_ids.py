"""Allocation ids follow from rows and lead back to them; the table finds them by their beginnings."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from cluster_builders import make_group, make_job
from hypothesis import given
from hypothesis import strategies as st

from nomadpy.model.alloc import AllocMetric
from nomadpy.model.ids import is_uuid
from nomadpy.state.allocs import COLUMNS, AllocTable, NewRows, roomy
from nomadpy.state.ids import RowIds

keys = st.integers(0, 2**128 - 1)


@given(keys, st.integers(0, 2**40))
def test_an_id_leads_back_to_its_row(key: int, row: int) -> None:
    ids = RowIds(key)
    assert is_uuid(ids.uuid(row))
    assert ids.row(ids.uuid(row)) == row


@given(keys, st.lists(st.integers(0, 2**32), unique=True, max_size=50))
def test_ids_are_unique_and_computed_alike_one_by_one_and_together(key: int, rows: list[int]) -> None:
    ids = RowIds(key)
    assert len({ids.uuid(row) for row in rows}) == len(rows)
    assert ids.first_halves(np.array(rows, dtype=np.uint64)).tolist() == [ids.first_half(row) for row in rows]


@given(st.uuids())
def test_a_strange_id_has_no_row(uuid: object) -> None:
    assert RowIds(7).row(str(uuid)) is None


@pytest.mark.parametrize(
    "change", [str.upper, lambda t: t.replace("-", ""), lambda t: " " + t, lambda t: t + "\n", lambda t: t[:-1]]
)
def test_only_the_exact_text_counts(change: object) -> None:
    ids = RowIds(7)
    uuid = next(ids.uuid(row) for row in range(100) if ids.uuid(row).upper() != ids.uuid(row))
    assert callable(change)
    assert ids.row(change(uuid)) is None


def table_of(n_rows: int, **changes: object) -> AllocTable:
    table = AllocTable(12345)
    job = make_job(group=make_group(**changes))  # type: ignore[arg-type]
    for first in range(0, n_rows, 1000):
        count = min(1000, n_rows - first)
        nodes = np.arange(count, dtype=np.uint32) % 100
        names = np.arange(count, dtype=np.uint32)
        rows = NewRows(job, job.task_groups[0], nodes, names, f"eval-{first}", "", AllocMetric(nodes_evaluated=7))
        table.append([rows], index=1, now_ns=1)
    return table


TABLE = table_of(3000)
TABLE.remove(range(0, 3000, 7))
IDS = sorted(TABLE.ids.uuid(row) for row in TABLE.rows())


@given(st.integers(0, len(IDS) - 1), st.integers(0, 36), st.booleans())
def test_prefixes_find_what_looking_at_all_finds(at: int, length: int, upper: bool) -> None:
    prefix = IDS[at][:length]
    wanted = [uuid for uuid in IDS if uuid.startswith(prefix)]
    found = TABLE.rows_by_prefix(prefix.upper() if upper else prefix)
    assert [TABLE.ids.uuid(row) for row in found] == wanted


@pytest.mark.parametrize("prefix", ["zz", "0x", "é", "+1", "1_"])
def test_a_prefix_that_is_no_hex_finds_nothing(prefix: str) -> None:
    assert TABLE.rows_by_prefix(prefix) == []


def test_a_pending_allocation_costs_little_memory() -> None:
    tracemalloc.start()
    table = table_of(200_000)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert table.live == 200_000
    # 66 bytes of columns and twelve of indexes. Room that is not touched takes address space, but no memory.
    spare = sum(getattr(table, name)[table.size :].nbytes for name, _ in COLUMNS)
    assert (used - spare) / table.live < 100


def test_many_rows_are_copied_seldom() -> None:
    steps = [1024]
    while steps[-1] < 1 << 24:
        steps.append(roomy(steps[-1], steps[-1] + 1))
    assert [step for step in steps if step > 1 << 15] == [1 << 22, 1 << 23, 1 << 24]
    assert roomy(1024, 5_000_000) == 1 << 23
