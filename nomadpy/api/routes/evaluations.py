"""Routes about evaluations and deployments."""

from __future__ import annotations

from typing import Any

from nomadpy.api.call import Call, Order, Reply, in_order, numbered, whole
from nomadpy.api.router import READ, Operation, Param
from nomadpy.model.alloc import AllocListStub
from nomadpy.model.errors import Invalid, NotFound
from nomadpy.model.evaluation import Deployment, Evaluation, EvaluationStub
from nomadpy.model.ids import check_prefix, check_uuid


def _order(*, by_id: bool) -> Order[Any]:
    if by_id:
        return Order(lambda row: row.id, whole)
    return Order(lambda row: f"{row.create_index}.{row.id}", numbered)


def _evals(call: Call) -> list[Evaluation]:
    namespace, prefix = call.namespace, call.text("prefix")
    status, job = call.text("status"), call.text("job")
    if call.text("filter") and (status or job):
        raise Invalid("Filter expression cannot be used with other filter parameters")
    if prefix:
        prefix = check_prefix(prefix)
    found = [
        e
        for e in call.server.store.evals.values()
        if namespace in ("*", e.namespace)
        and e.id.startswith(prefix)
        and (not status or e.status == status)
        and (not job or e.job_id == job)
        and call.caller.allows(e.namespace, "read-job")
    ]
    found.sort(key=(lambda e: e.id) if prefix else (lambda e: (e.create_index, e.id)))
    return found


async def list_evaluations(call: Call) -> Reply:
    """Evaluations, oldest first; by id when a prefix is asked for."""
    store, by_id = call.server.store, bool(call.text("prefix"))

    def read() -> tuple[Any, int]:
        rows = in_order(_evals(call), reverse=call.reverse)
        page = call.page(rows, Evaluation, _order(by_id=by_id), lambda e: e)
        return page, store.max_index("evals")

    return await call.blocking(read, "evals")


async def count(call: Call) -> Reply:
    """How many evaluations the filter lets through."""
    rows = call.filtered(_evals(call), Evaluation)
    index = call.server.store.max_index("evals")
    value = {"Count": sum(1 for _ in rows), "Index": index, "LastContact": 0, "KnownLeader": True, "NextToken": ""}
    return Reply(value=value, index=index)


async def get_evaluation(call: Call) -> Reply:
    """One evaluation; with ``related=true`` those before, after and beside it."""
    store, eval_id = call.server.store, check_uuid(call.params["eval_id"])
    related = call.flag("related")

    def read() -> tuple[Any, int]:
        found = store.evals.get(eval_id)
        if found is None:
            return NotFound("eval not found"), store.max_index("evals")
        call.caller.require(found.namespace, "read-job")
        if related:
            return found.replace(related_evals=_related(call, found)), found.modify_index
        return found, found.modify_index

    return await call.blocking(read, "evals")


def _related(call: Call, evaluation: Evaluation) -> tuple[EvaluationStub, ...]:
    store = call.server.store
    known, queue = {evaluation.id}, [evaluation]
    out: list[Evaluation] = []
    while queue:
        one = queue.pop()
        for other_id in (one.next_eval, one.previous_eval, one.blocked_eval):
            other = store.evals.get(other_id)
            if other is not None and other.id not in known:
                known.add(other.id)
                out.append(other)
                queue.append(other)
    names = list(EvaluationStub.__struct_fields__)
    return tuple(EvaluationStub(**{name: getattr(e, name) for name in names}) for e in out)


async def evaluation_allocations(call: Call) -> Reply:
    """Stubs of the allocations that the evaluation decided about."""
    store, eval_id = call.server.store, check_uuid(call.params["eval_id"])

    def read() -> tuple[Any, int]:
        found = store.evals.get(eval_id)
        rows = store.allocs.rows_by_eval(eval_id, (found.namespace, found.job_id)) if found is not None else []
        return [store.alloc_stub_at(row) for row in rows], store.max_index("allocs")

    return await call.blocking(read, "allocs")


async def list_deployments(call: Call) -> Reply:
    """Deployments, oldest first; by id when a prefix is asked for."""
    store, namespace, prefix = call.server.store, call.namespace, call.text("prefix")
    if prefix:
        prefix = check_prefix(prefix)

    def read() -> tuple[Any, int]:
        found = [
            d for d in store.deployments.values()
            if namespace in ("*", d.namespace) and d.id.startswith(prefix)
            and call.caller.allows(d.namespace, "read-job")
        ]  # fmt: skip
        found.sort(key=(lambda d: d.id) if prefix else (lambda d: (d.create_index, d.id)))
        page = call.page(in_order(found, reverse=call.reverse), Deployment, _order(by_id=bool(prefix)), lambda d: d)
        return page, store.max_index("deployments")

    return await call.blocking(read, "deployments")


async def get_deployment(call: Call) -> Reply:
    """One deployment."""
    store, deployment_id = call.server.store, check_uuid(call.params["deployment_id"])

    def read() -> tuple[Any, int]:
        found = store.deployments.get(deployment_id)
        if found is None:
            return NotFound("deployment not found"), store.max_index("deployments")
        call.caller.require(found.namespace, "read-job")
        return found, found.modify_index

    return await call.blocking(read, "deployments")


async def deployment_allocations(call: Call) -> Reply:
    """Stubs of the deployment's allocations."""
    store, deployment_id = call.server.store, check_uuid(call.params["deployment_id"])

    def read() -> tuple[Any, int]:
        found = store.deployments.get(deployment_id)
        job = (found.namespace, found.job_id) if found is not None else None
        rows = store.allocs.rows_by_deployment(deployment_id, job)
        return [store.alloc_stub_at(row) for row in rows], store.max_index("allocs")

    return await call.blocking(read, "allocs")


_LIST = (Param("prefix"), Param("filter"), Param("reverse"))

OPERATIONS: tuple[Operation, ...] = (
    Operation(methods=READ, path="/v1/evaluations", endpoint=list_evaluations, answer=list[Evaluation],
              query=(*_LIST, Param("status"), Param("job")), blocking=True, paged=True),
    Operation(methods=READ, path="/v1/evaluations/count", endpoint=count, query=_LIST),
    Operation(methods=READ, path="/v1/evaluation/{eval_id}/allocations", endpoint=evaluation_allocations,
              answer=list[AllocListStub], blocking=True),
    Operation(methods=READ, path="/v1/evaluation/{eval_id}", endpoint=get_evaluation, answer=Evaluation,
              query=(Param("related", "boolean"),), blocking=True),
    Operation(methods=READ, path="/v1/deployments", endpoint=list_deployments, answer=list[Deployment],
              query=_LIST, blocking=True, paged=True),
    Operation(methods=READ, path="/v1/deployment/allocations/{deployment_id}", endpoint=deployment_allocations,
              answer=list[AllocListStub], blocking=True),
    Operation(methods=READ, path="/v1/deployment/{deployment_id}", endpoint=get_deployment, answer=Deployment,
              blocking=True),
)  # fmt: skip
