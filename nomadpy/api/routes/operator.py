"""Routes for operators: the scheduler's switches, garbage collection, search."""

from __future__ import annotations

from typing import Any

from nomadpy.api.call import EMPTY, Call, Reply
from nomadpy.api.forward import AGENT
from nomadpy.api.openapi import document
from nomadpy.api.router import READ, WRITE, Operation, Param
from nomadpy.model.node import SchedulerConfiguration
from nomadpy.server.messages import FuzzySearchRequest, FuzzySearchResponse, SearchRequest, SearchResponse


async def get_scheduler_config(call: Call) -> Reply:
    """The scheduling switches."""
    call.caller.require("", "operator:read")
    config = call.server.store.scheduler_config
    value = {
        "SchedulerConfig": config,
        "Index": config.modify_index,
        "LastContact": 0,
        "KnownLeader": True,
        "NextToken": "",
    }
    return Reply(value=value, index=config.modify_index)


async def set_scheduler_config(call: Call) -> Reply:
    """Replaces the scheduling switches."""
    config = await call.body(SchedulerConfiguration)
    cas = call.number("cas", "can not parse cas: it must be a number")
    updated, index = await call.server.fleet.set_scheduler_config(call.caller, config, cas=cas)
    return Reply(value={"Updated": updated, "Index": index}, index=index)


async def system_gc(call: Call) -> Any:
    """Removes everything that is finished."""
    await call.server.fleet.collect_garbage(call.caller)
    return EMPTY


async def reconcile_summaries(call: Call) -> Any:
    """Rebuilds the job summaries."""
    await call.server.fleet.reconcile_summaries(call.caller)
    return EMPTY


async def search(call: Call) -> Any:
    """Ids that begin with a prefix."""
    request = await call.body(SearchRequest)
    return call.server.search.prefix(call.caller, call.namespace, request)


async def fuzzy_search(call: Call) -> Any:
    """Names that hold a text, of jobs and of what is inside them, of nodes and namespaces."""
    request = await call.body(FuzzySearchRequest)
    return call.server.search.fuzzy(call.caller, call.namespace, request)


async def license_(call: Call) -> Any:
    """There is no licence to show: the program is free."""
    return Reply(value=EMPTY.value, status=204)


async def openapi(call: Call) -> Any:
    """This interface, described for machines."""
    from nomadpy.api.routes import OPERATIONS as EVERYTHING

    return document(EVERYTHING, call.context.version)


_CONFIG = "/v1/operator/scheduler/configuration"

OPERATIONS: tuple[Operation, ...] = (
    Operation(methods=READ, path=_CONFIG, endpoint=get_scheduler_config),
    Operation(methods=WRITE, path=_CONFIG, endpoint=set_scheduler_config, body=SchedulerConfiguration,
              query=(Param("cas", "integer"),)),
    Operation(methods=("PUT",), path="/v1/system/gc", endpoint=system_gc),
    Operation(methods=("PUT",), path="/v1/system/reconcile/summaries", endpoint=reconcile_summaries),
    Operation(methods=WRITE, path="/v1/search/fuzzy", endpoint=fuzzy_search, body=FuzzySearchRequest,
              answer=FuzzySearchResponse),
    Operation(methods=WRITE, path="/v1/search", endpoint=search, body=SearchRequest, answer=SearchResponse),
    Operation(at=AGENT, methods=READ, path="/v1/operator/license", endpoint=license_),
    Operation(at=AGENT, methods=READ, path="/v1/openapi.json", endpoint=openapi),
)  # fmt: skip
