"""Routes about allocations, as the servers know them."""

from __future__ import annotations

from typing import Any

from nomadpy.api.call import Call, Order, Reply, in_order, numbered, whole
from nomadpy.api.router import READ, WRITE, Operation, Param
from nomadpy.model.alloc import Allocation, AllocListStub
from nomadpy.model.errors import NotFound
from nomadpy.model.ids import check_prefix, check_uuid
from nomadpy.model.wire import to_wire
from nomadpy.server.messages import AllocStopResponse
from nomadpy.state.store import StateStore


def _order(store: StateStore, *, by_id: bool) -> Order[int]:
    """By id, or by age. Rows of one log entry have the same age and come in the order in which they were stored, so a
    token of theirs is compared by its row and not by its text."""
    table = store.allocs
    if by_id:
        return Order(table.ids.uuid, whole)

    def key(token: str) -> tuple[int, str, str]:
        index, uuid, _ = numbered(token)
        row = table.ids.row(uuid)
        return index, f"{-1 if row is None else row:012d}", ""

    return Order(
        lambda row: f"{table.create_index[row]}.{table.ids.uuid(row)}",
        key,
        place=lambda row: (int(table.create_index[row]), f"{row:012d}", ""),
    )


async def list_allocations(call: Call) -> Reply:
    """Stubs of all allocations, oldest first; by id when a prefix is asked for."""
    store, namespace, prefix = call.server.store, call.namespace, call.text("prefix")
    resources, task_states = call.flag("resources"), call.flag("task_states", True)
    if prefix:
        prefix = check_prefix(prefix)

    def stub(row: int) -> Any:
        made = store.alloc_stub_at(row)
        made = made if task_states else made.replace(task_states={})
        if not resources:
            return made
        return {**to_wire(made), "AllocatedResources": to_wire(store.alloc_at(row).allocated_resources)}

    def read() -> tuple[Any, int]:
        rows = store.allocs.rows_by_prefix(prefix) if prefix else list(store.allocs.rows())
        rows = [row for row in rows if namespace in ("*", store.allocs.shape_of(row).job.namespace)]
        rows = list(in_order(rows, reverse=call.reverse))
        if call.text("filter"):
            full = {store.allocs.ids.uuid(row): row for row in rows}
            kept = call.filtered((store.alloc_at(row) for row in rows), Allocation)
            rows = [full[alloc.id] for alloc in kept]
        order = _order(store, by_id=bool(prefix))
        return call.page_rows(rows, order, stub), store.max_index("allocs")

    return await call.blocking(read, "allocs")


async def get_allocation(call: Call) -> Reply:
    """One allocation in full."""
    store, alloc_id = call.server.store, check_uuid(call.params["alloc_id"])

    def read() -> tuple[Any, int]:
        found = store.alloc(alloc_id)
        if found is None:
            return NotFound("alloc not found"), store.max_index("allocs")
        call.caller.require(found.namespace, "read-job")
        return found, found.modify_index

    return await call.blocking(read, "allocs")


async def stop(call: Call) -> Reply:
    """Stops an allocation and has it placed anew."""
    response = await call.server.fleet.stop_alloc(
        call.caller, check_uuid(call.params["alloc_id"]), no_shutdown_delay=call.flag("no_shutdown_delay")
    )
    return Reply(value=response, index=response.index)


async def services(call: Call) -> Reply:
    """The allocation's registered services; there are none until services are acted on."""
    if call.server.store.alloc(check_uuid(call.params["alloc_id"])) is None:
        raise NotFound("alloc not found")
    return Reply(value=[], index=call.server.store.max_index("services"))


async def checks(call: Call) -> Any:
    """The results of the allocation's checks; there are none until checks are acted on."""
    if call.server.store.alloc(check_uuid(call.params["alloc_id"])) is None:
        raise NotFound("alloc not found")
    return {}


async def unknown(call: Call) -> Any:
    """Anything else below an allocation."""
    raise NotFound("resource not found")


_A = "/v1/allocation/{alloc_id}"
_LIST = (
    Param("prefix"), Param("filter"), Param("reverse"), Param("resources", "boolean"), Param("task_states", "boolean")
)  # fmt: skip

OPERATIONS: tuple[Operation, ...] = (
    Operation(methods=READ, path="/v1/allocations", endpoint=list_allocations, answer=list[AllocListStub],
              query=_LIST, blocking=True, paged=True),
    Operation(methods=WRITE, path=_A + "/stop", endpoint=stop, answer=AllocStopResponse,
              query=(Param("no_shutdown_delay", "boolean"),)),
    Operation(methods=READ, path=_A + "/services", endpoint=services),
    Operation(methods=READ, path=_A + "/checks", endpoint=checks),
    Operation(methods=(*READ, *WRITE), path=_A + "/{rest}", endpoint=unknown),
    Operation(methods=READ, path=_A, endpoint=get_allocation, answer=Allocation, blocking=True),
)  # fmt: skip
