"""Finding objects by the beginning of their id."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from nomadpy.model.caller import Caller
from nomadpy.model.errors import Invalid
from nomadpy.model.ids import even_prefix, matching
from nomadpy.model.job import Job
from nomadpy.model.scaling import policies
from nomadpy.server.messages import FuzzyMatch, FuzzySearchRequest, FuzzySearchResponse, SearchRequest, SearchResponse

if TYPE_CHECKING:
    from nomadpy.server.server import Server

LIMIT = 20
UUID_CONTEXTS = ("allocs", "deployment", "evals", "nodes", "scaling_policy")
EMPTY_CONTEXTS = ("plugins", "vars", "volumes", "host_volumes")
CONTEXTS = (
    "allocs",
    "deployment",
    "evals",
    "jobs",
    "nodes",
    "node_pools",
    "namespaces",
    "scaling_policy",
    *EMPTY_CONTEXTS,
)


FUZZY_TEXT_MIN = 2
FUZZY_ONLY_INSIDE = ("namespaces", "node_pools", "nodes", "jobs")
"""What fuzzy search looks for by name; everything else has ids, of which the text may be the beginning."""
Scope = tuple[str, ...]


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

    def fuzzy(self, caller: Caller, namespace: str, request: FuzzySearchRequest) -> FuzzySearchResponse:
        """Up to twenty names per kind that hold the text, in any case: those where it stands first come first, then
        the shorter ones. Raises Invalid (500) for a text of one character."""
        context, text = request.context or "all", request.text.lower()
        if context not in ("all", *CONTEXTS):
            names = " ".join(CONTEXTS)
            raise Invalid(f"context must be one of [{names}] or 'all' for all contexts; got \"{context}\"", status=500)
        if len(text) < FUZZY_TEXT_MIN:
            problem = f"fuzzy search query must be at least {FUZZY_TEXT_MIN} characters, got {len(text)}"
            raise Invalid(problem, status=500)
        found = self._names(caller, namespace, context)
        matches, truncations = {}, {}
        for kind, entries in found.items():
            hits = sorted(
                {(name.lower().find(text), len(name), name, scope) for name, scope in entries if text in name.lower()}
            )
            if hits or kind == context:
                matches[kind] = tuple(FuzzyMatch(id=name, scope=scope) for _, _, name, scope in hits[:LIMIT])
                truncations[kind] = len(hits) > LIMIT
        for kind in CONTEXTS if context == "all" else (context,):
            if kind not in found and kind not in FUZZY_ONLY_INSIDE:
                ids = self._find(caller, namespace, kind, request.text)
                if ids or kind == context:
                    matches[kind] = tuple(FuzzyMatch(id=ident) for ident in ids[:LIMIT])
                    truncations[kind] = len(ids) > LIMIT
        return FuzzySearchResponse(matches=matches, truncations=truncations, index=self._server.store.index)

    def _names(self, caller: Caller, namespace: str, context: str) -> dict[str, list[tuple[str, Scope]]]:
        """Kind → names with where they belong."""
        store = self._server.store
        found: dict[str, list[tuple[str, Scope]]] = {}

        def add(kind: str, name: str, *scope: str) -> None:
            if name:
                found.setdefault(kind, []).append((name, scope))

        if context in ("all", "namespaces"):
            for name in store.namespaces:
                add("namespaces", name)
        if context in ("all", "node_pools"):
            for name in store.node_pools:
                add("node_pools", name)
        if context in ("all", "nodes"):
            for node in store.nodes:
                add("nodes", node.name, node.id)
                add("classes", node.node_class, node.id)
        if context in ("all", "jobs"):
            for (ns, job_id), job in store.jobs.current.items():
                if namespace in ("*", ns) and caller.allows(ns, "read-job"):
                    add("jobs", job.name or job_id, ns, job_id)
                    _inside(job, add)
        return found

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
            "scaling_policy": lambda: matching(
                prefix,
                (policy.id for (ns, _), job in store.jobs.current.items() if mine(ns) for policy in policies(job, ())),
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


def _inside(job: Job, add: Callable[..., None]) -> None:
    """The names inside a job: groups, tasks, services, and what tasks run."""
    ns, job_id = job.namespace, job.id
    for group in job.task_groups:
        add("groups", group.name, ns, job_id)
        for service in group.services:
            add("services", service.name, ns, job_id, group.name)
        for task in group.tasks:
            add("tasks", task.name, ns, job_id, group.name)
            for service in task.services:
                add("services", service.name, ns, job_id, group.name, task.name)
            config = task.config or {}
            for kind, key in (("images", "image"), ("commands", "command"), ("classes", "class")):
                if isinstance(config.get(key), str):
                    add(kind, config[key], ns, job_id, group.name, task.name)
