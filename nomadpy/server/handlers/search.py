"""Finding objects by the beginning of their id."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from nomadpy.model.caller import Caller
from nomadpy.model.errors import Invalid
from nomadpy.model.ids import even_prefix, matching
from nomadpy.server.messages import SearchRequest, SearchResponse

if TYPE_CHECKING:
    from nomadpy.server.server import Server

LIMIT = 20
UUID_CONTEXTS = ("allocs", "deployment", "evals", "nodes")
EMPTY_CONTEXTS = ("scaling_policy", "plugins", "vars", "volumes", "host_volumes")
CONTEXTS = ("allocs", "deployment", "evals", "jobs", "nodes", "node_pools", "namespaces", *EMPTY_CONTEXTS)


class SearchHandlers:
    """See the module's text."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def prefix(self, caller: Caller, namespace: str, request: SearchRequest) -> SearchResponse:
        """Up to twenty ids per kind of object; ``truncations`` says where there are more."""
        context = request.context or "all"
        if context not in ("all", *CONTEXTS):
            names = " ".join(CONTEXTS)
            raise Invalid(f"context must be one of [{names}] or 'all' for all contexts; got \"{context}\"", status=500)
        matches, truncations = {}, {}
        for name in CONTEXTS if context == "all" else (context,):
            found = self._find(caller, namespace, name, request.prefix)
            matches[name] = tuple(found[:LIMIT])
            truncations[name] = len(found) > LIMIT
        if context == "all":
            matches = {name: ids for name, ids in matches.items() if ids}
        return SearchResponse(matches=matches, truncations=truncations, index=self._server.store.index)

    def _find(self, caller: Caller, namespace: str, context: str, prefix: str) -> list[str]:
        if context in UUID_CONTEXTS and prefix:
            rounded = even_prefix(prefix)
            if not rounded:
                return []
            prefix = rounded
        store = self._server.store

        def mine(other: str) -> bool:
            return namespace in ("*", other) and caller.allows(other, "read-job")

        finders: dict[str, Callable[[], Iterable[str]]] = {
            "allocs": lambda: (
                store.allocs.ids.uuid(row)
                for row in store.allocs.rows_by_prefix(prefix)
                if mine(store.allocs.shape_of(row).job.namespace)
            ),
            "evals": lambda: matching(prefix, (e.id for e in store.evals.values() if mine(e.namespace))),
            "deployment": lambda: matching(prefix, (d.id for d in store.deployments.values() if mine(d.namespace))),
            "nodes": lambda: matching(prefix, (node.id for node in store.nodes)),
            "jobs": lambda: sorted(
                job_id for ns, job_id in store.jobs.current if mine(ns) and job_id.startswith(prefix)
            ),
            "namespaces": lambda: sorted(name for name in store.namespaces if name.startswith(prefix)),
            "node_pools": lambda: sorted(name for name in store.node_pools if name.startswith(prefix)),
        }
        finder = finders.get(context)
        if finder is None:
            return []
        found: list[str] = []
        for one in finder():
            found.append(one)
            if len(found) > LIMIT:
                break
        return found
