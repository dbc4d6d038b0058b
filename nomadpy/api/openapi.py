"""The OpenAPI document, made from the table of operations and the records that they take and give."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from nomadpy.api.router import Operation, Param

_COMMON: tuple[tuple[str, str, str], ...] = (
    ("region", "string", "Region to ask; the agent's own by default."),
    ("namespace", "string", "Namespace; `default` by default."),
    ("pretty", "string", "Present and not 0: indented JSON."),
)
_BLOCKING = (("index", "integer", "Wait until the index is passed."), ("wait", "string", "How long, such as 30s."))
_PAGED = (("per_page", "integer", "Rows of a page."), ("next_token", "string", "First row of the page."))


def document(operations: tuple[Operation, ...], version: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document of the operations that do something."""
    kinds = [kind for o in operations for kind in (o.body, o.answer) if kind is not None]
    schemas, components = msgspec.json.schema_components(
        dict.fromkeys(kinds), ref_template="#/components/schemas/{name}"
    )
    by_kind = dict(zip(map(str, dict.fromkeys(kinds)), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    taken: set[str] = set()
    for operation in operations:
        if operation.endpoint.__name__ in ("enterprise", "not_yet", "unknown", "unknown_fs"):
            continue
        for method in operation.methods:
            described = _describe(operation, method, by_kind)
            if described["operationId"] in taken:  # the same endpoint on a path that names more
                described["operationId"] += "_by_" + "_".join(re.findall(r"\{(\w+)\}", operation.path))
            taken.add(described["operationId"])
            paths.setdefault(operation.path, {})[method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {"title": "nomadpy", "version": version, "description": "Nomad's HTTP API, as nomadpy speaks it."},
        "paths": paths,
        "components": {"schemas": components},
    }


def _describe(operation: Operation, method: str, by_kind: dict[str, Any]) -> dict[str, Any]:
    ok: dict[str, Any] = {"description": "done"}
    if operation.answer is not None:
        ok["content"] = {"application/json": {"schema": by_kind[str(operation.answer)]}}
    out: dict[str, Any] = {
        "operationId": f"{operation.endpoint.__module__.rpartition('.')[2]}_{operation.endpoint.__name__}_{method}",
        "summary": (operation.endpoint.__doc__ or "").strip().splitlines()[0],
        "parameters": _parameters(operation),
        "responses": {"200": ok, "default": {"description": "What went wrong, as plain text."}},
    }
    if operation.body is not None and method != "GET":
        out["requestBody"] = {"content": {"application/json": {"schema": by_kind[str(operation.body)]}}}
    return out


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", operation.path)
    ]
    rows = list(_COMMON)
    rows += _BLOCKING if operation.blocking else ()
    rows += _PAGED if operation.paged else ()
    rows += [_row(param) for param in operation.query]
    query = [
        {"name": name, "in": "query", "description": about, "schema": {"type": kind}} for name, kind, about in rows
    ]
    return path + query


def _row(param: Param) -> tuple[str, str, str]:
    return param.name, param.kind, param.about
