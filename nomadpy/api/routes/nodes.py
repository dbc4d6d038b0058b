"""Routes about nodes, node pools and namespaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nomadpy.api.call import EMPTY, Call, Order, Reply, in_order, whole
from nomadpy.api.gossipview import members_of_nodes, node_health
from nomadpy.api.jobview import job_stub
from nomadpy.api.router import READ, WRITE, Operation, Param
from nomadpy.api.routes.jobs import BY_JOB
from nomadpy.model.alloc import Allocation
from nomadpy.model.errors import Invalid, NotFound
from nomadpy.model.ids import check_prefix, check_uuid
from nomadpy.model.job import Job
from nomadpy.model.node import Namespace, Node, NodePool
from nomadpy.model.wire import to_wire
from nomadpy.server import messages as m

_BAD_FLAG = "Failed to parse node list fields: "
_BY_ID: Order[Node] = Order(lambda node: node.id, whole)
_BY_NAME: Order[NodePool] = Order(lambda pool: pool.name, whole)


def node_view(node: Node) -> dict[str, Any]:
    """The node as the API shows it: its secret blanked, and the legacy ``Drain``."""
    wire: dict[str, Any] = to_wire(node.replace(secret_id=""))
    wire["Drain"] = node.drain_strategy is not None
    return wire


def node_stub(node: Node, *, resources: bool, os: bool) -> dict[str, Any]:
    """The node in a list."""
    stub = {
        "Address": node.http_addr.rpartition(":")[0].strip("[]"),
        "ID": node.id,
        "Datacenter": node.datacenter,
        "Name": node.name,
        "NodePool": node.node_pool,
        "NodeClass": node.node_class,
        "Version": node.attributes.get("nomad.version", ""),
        "Drain": node.drain_strategy is not None,
        "SchedulingEligibility": node.scheduling_eligibility,
        "Status": node.status,
        "StatusDescription": node.status_description,
        "Drivers": to_wire(node.drivers),
        "HostVolumes": to_wire(node.host_volumes) or None,
        "LastDrain": to_wire(node.last_drain),
        "CreateIndex": node.create_index,
        "ModifyIndex": node.modify_index,
    }
    if os:
        stub["Attributes"] = {"os.name": node.attributes.get("os.name", "")}
    if resources:
        stub["NodeResources"] = to_wire(node.node_resources)
        stub["ReservedResources"] = to_wire(node.reserved_resources)
    return stub


async def list_nodes(call: Call) -> Reply:
    """Stubs of all nodes, by id."""
    prefix = call.text("prefix")
    return await _nodes(call, check_prefix(prefix) if prefix else "", pool="all")


async def _nodes(call: Call, prefix: str, *, pool: str) -> Reply:
    call.caller.require("", "node:read")
    resources = call.flag("resources", status=400, prefix=_BAD_FLAG)
    os = call.flag("os", status=400, prefix=_BAD_FLAG)
    health = call.flag("health", status=400, prefix=_BAD_FLAG)
    store = call.server.store

    def read() -> tuple[Any, int]:
        members = members_of_nodes(call.context.gossip) if health else None

        def stub(node: Node) -> dict[str, Any]:
            made = node_stub(node, resources=resources, os=os)
            return made if members is None else {**made, "Health": node_health(members.get(node.id))}

        nodes = sorted(
            (n for n in store.nodes if n.id.startswith(prefix) and pool in ("all", n.node_pool)), key=lambda n: n.id
        )
        page = call.page(in_order(nodes, reverse=call.reverse), Node, _BY_ID, stub)
        return page, store.max_index("nodes")

    return await call.blocking(read, "nodes")


async def get_node(call: Call) -> Reply:
    """One node in full."""
    call.caller.require("", "node:read")
    store, node_id = call.server.store, check_uuid(call.params["node_id"])
    health = call.flag("health", status=400, prefix=_BAD_FLAG)

    def read() -> tuple[Any, int]:
        found = store.node(node_id)
        if found is None:
            return NotFound("node not found"), store.max_index("nodes")
        view = node_view(found)
        if health:
            view["Health"] = node_health(members_of_nodes(call.context.gossip).get(node_id))
        return view, found.modify_index

    return await call.blocking(read, "nodes")


async def node_allocations(call: Call) -> Reply:
    """The node's allocations in full."""
    call.caller.require("", "node:read")
    store, node_id = call.server.store, check_uuid(call.params["node_id"])

    def read() -> tuple[Any, int]:
        found = store.allocs_by_node(node_id)
        newest = max((alloc.modify_index for alloc in found), default=0)
        return list(call.filtered(found, Allocation)), max(1, newest)

    return await call.blocking(read, "allocs")


async def eligibility(call: Call) -> Reply:
    """Lets the scheduler place on the node, or not."""
    request = await call.body(m.NodeEligibilityRequest)
    response = await call.server.fleet.set_eligibility(call.caller, check_uuid(call.params["node_id"]), request)
    return Reply(value=response, index=response.index)


async def drain(call: Call) -> Reply:
    """Starts, changes or ends the node's drain."""
    request = await call.body(m.NodeDrainRequest)
    response = await call.server.fleet.drain_node(call.caller, check_uuid(call.params["node_id"]), request)
    return Reply(value=response, index=response.index)


async def evaluate(call: Call) -> Reply:
    """Has the scheduler look again at everything on the node."""
    response = await call.server.fleet.evaluate_node(call.caller, check_uuid(call.params["node_id"]))
    return Reply(value=response, index=response.index)


async def purge(call: Call) -> Reply:
    """Removes the node."""
    response = await call.server.fleet.purge_node(call.caller, check_uuid(call.params["node_id"]))
    return Reply(value=response, index=response.index)


# --- node pools -------------------------------------------------------------------------------------------------------


async def list_pools(call: Call) -> Reply:
    """All node pools, by name."""
    store, prefix = call.server.store, call.text("prefix")

    def read() -> tuple[Any, int]:
        pools = [pool for name, pool in sorted(store.node_pools.items()) if name.startswith(prefix)]
        page = call.page(in_order(pools, reverse=call.reverse), NodePool, _BY_NAME, lambda p: p)
        return page, store.max_index("node_pools")

    return await call.blocking(read, "node_pools")


def _pool(call: Call) -> NodePool:
    pool = call.server.store.node_pools.get(call.params["pool"])
    if pool is None:
        raise NotFound("node pool not found")
    return pool


async def get_pool(call: Call) -> Reply:
    """One node pool."""
    return await _named(call, "node_pools", call.server.store.node_pools, call.params["pool"], "node pool not found")


async def _named(call: Call, table: str, records: Mapping[str, NodePool | Namespace], name: str, missing: str) -> Reply:
    def read() -> tuple[Any, int]:
        found = records.get(name)
        if found is None:
            return NotFound(missing), call.server.store.max_index(table)
        return found, found.modify_index

    return await call.blocking(read, table)


async def put_pool(call: Call) -> Reply:
    """Creates or changes a node pool."""
    pool = await call.body(NodePool)
    if call.params.get("pool", pool.name) != pool.name:
        raise Invalid("Node pool name does not match request path")
    index = await call.server.fleet.upsert_node_pool(call.caller, pool)
    return Reply(value=EMPTY.value, index=index)


async def delete_pool(call: Call) -> Reply:
    """Removes an empty node pool."""
    index = await call.server.fleet.delete_node_pool(call.caller, call.params["pool"])
    return Reply(value=EMPTY.value, index=index)


async def pool_nodes(call: Call) -> Reply:
    """Stubs of a pool's nodes."""
    pool = _pool(call)
    if call.text("prefix"):
        raise Invalid("prefix argument not allowed")
    return await _nodes(call, "", pool=pool.name)


async def pool_jobs(call: Call) -> Reply:
    """Stubs of the jobs that are bound to a pool."""
    pool, store, namespace = _pool(call), call.server.store, call.namespace
    if call.text("prefix"):
        raise Invalid("prefix argument not allowed")
    meta = call.flag("meta")

    def read() -> tuple[Any, int]:
        jobs = [
            job for key, job in sorted(store.jobs.current.items())
            if job.node_pool == pool.name and namespace in ("*", key[0])
        ]  # fmt: skip
        page = call.page(in_order(jobs, reverse=call.reverse), Job, BY_JOB, lambda j: job_stub(store, j, meta=meta))
        return page, store.max_index("jobs", "job_summary")

    return await call.blocking(read, "jobs", "job_summary")


# --- namespaces -------------------------------------------------------------------------------------------------------


async def list_namespaces(call: Call) -> Reply:
    """All namespaces, by name."""
    store, prefix = call.server.store, call.text("prefix")

    def read() -> tuple[Any, int]:
        found = [ns for name, ns in sorted(store.namespaces.items()) if name.startswith(prefix)]
        return list(call.filtered(found, Namespace)), store.max_index("namespaces")

    return await call.blocking(read, "namespaces")


async def get_namespace(call: Call) -> Reply:
    """One namespace."""
    return await _named(call, "namespaces", call.server.store.namespaces, call.params["name"], "Namespace not found")


async def put_namespace(call: Call) -> Reply:
    """Creates or changes a namespace."""
    namespace = await call.body(Namespace)
    if call.params.get("name", namespace.name) != namespace.name:
        raise Invalid("Namespace name does not match request path")
    index = await call.server.fleet.upsert_namespace(call.caller, namespace)
    return Reply(value=EMPTY.value, index=index)


async def delete_namespace(call: Call) -> Reply:
    """Removes an empty namespace."""
    index = await call.server.fleet.delete_namespace(call.caller, call.params["name"])
    return Reply(value=EMPTY.value, index=index)


async def missing_namespace(call: Call) -> Any:
    """A namespace route without a name."""
    raise Invalid("Missing Namespace Name")


_HEALTH = Param("health", "boolean", "Add what gossip tells of the machine's health.")
_LIST = (Param("prefix"), Param("filter"), Param("resources", "boolean"), Param("os", "boolean"), Param("reverse"),
         _HEALTH)  # fmt: skip
_N, _P, _NS = "/v1/node/{node_id}", "/v1/node/pool/{pool}", "/v1/namespace"

OPERATIONS: tuple[Operation, ...] = (
    Operation(methods=READ, path="/v1/nodes", endpoint=list_nodes, query=_LIST, blocking=True, paged=True),
    Operation(methods=READ, path="/v1/node/pools", endpoint=list_pools, answer=list[NodePool], blocking=True,
              paged=True),
    Operation(methods=WRITE, path="/v1/node/pools", endpoint=put_pool, body=NodePool),
    Operation(methods=READ, path=_P + "/nodes", endpoint=pool_nodes, query=_LIST[1:], blocking=True, paged=True),
    Operation(methods=READ, path=_P + "/jobs", endpoint=pool_jobs, blocking=True, paged=True),
    Operation(methods=READ, path=_P, endpoint=get_pool, answer=NodePool, blocking=True),
    Operation(methods=WRITE, path=_P, endpoint=put_pool, body=NodePool),
    Operation(methods=("DELETE",), path=_P, endpoint=delete_pool),
    Operation(methods=READ, path=_N + "/allocations", endpoint=node_allocations, answer=list[Allocation],
              blocking=True),
    Operation(methods=WRITE, path=_N + "/evaluate", endpoint=evaluate, answer=m.NodeUpdateResponse),
    Operation(methods=WRITE, path=_N + "/eligibility", endpoint=eligibility, body=m.NodeEligibilityRequest,
              answer=m.NodeEligibilityResponse),
    Operation(methods=WRITE, path=_N + "/drain", endpoint=drain, body=m.NodeDrainRequest, answer=m.NodeDrainResponse),
    Operation(methods=WRITE, path=_N + "/purge", endpoint=purge, answer=m.NodeUpdateResponse),
    Operation(methods=READ, path=_N, endpoint=get_node, answer=Node, blocking=True, query=(_HEALTH,)),
    Operation(methods=READ, path="/v1/namespaces", endpoint=list_namespaces, answer=list[Namespace], blocking=True),
    Operation(methods=WRITE, path=_NS, endpoint=put_namespace, body=Namespace),
    Operation(methods=(*READ, *WRITE, "DELETE"), path=_NS + "/", endpoint=missing_namespace),
    Operation(methods=READ, path=_NS + "/{name}", endpoint=get_namespace, answer=Namespace, blocking=True),
    Operation(methods=WRITE, path=_NS + "/{name}", endpoint=put_namespace, body=Namespace),
    Operation(methods=("DELETE",), path=_NS + "/{name}", endpoint=delete_namespace),
)  # fmt: skip
