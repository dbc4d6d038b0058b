"""From what was typed to what is meant: ids may be cut short as long as they name one object."""

from __future__ import annotations

from typing import Any

from nomadpy.cli.failures import ApiError, CommandFailed, UsageProblem
from nomadpy.cli.session import Session

UUID_LENGTH = 36
_LISTS = {
    "allocation": "/v1/allocations",
    "deployment": "/v1/deployments",
    "evaluation": "/v1/evaluations",
    "node": "/v1/nodes",
}


def find_id(session: Session, kind: str, typed: str) -> str:
    """The full id of an allocation, deployment, evaluation or node. Raises CommandFailed when none or several match."""
    if len(typed) == UUID_LENGTH:
        return typed
    prefix = even_prefix(kind, typed)
    query: dict[str, Any] = {"prefix": prefix}
    if kind != "node":
        query["namespace"] = session.settings.namespace or "*"
    found = [row for row in session.api.get(_LISTS[kind], **query) or [] if row["ID"].startswith(typed)]
    if len(found) == 1:
        return str(found[0]["ID"])
    if not found:
        raise CommandFailed(f'no {kind} has an id that begins with "{typed}"')
    raise CommandFailed(f'"{typed}" is the beginning of {len(found)} {kind} ids:\n{_listing(kind, found)}')


def even_prefix(kind: str, typed: str) -> str:
    """``typed`` with an even number of digits, which is all that the agent searches by. Raises UsageProblem.

    >>> even_prefix("node", "0a1b2"), even_prefix("node", "0a1b2c3d-5")
    ('0a1b', '0a1b2c3d-')
    """
    digits = typed.replace("-", "")
    if len(digits) < 2:
        raise UsageProblem(f"the id of the {kind} must have at least two characters")
    if any(char not in "0123456789abcdefABCDEF" for char in digits):
        raise CommandFailed(f'no {kind} has an id that begins with "{typed}"')
    return (typed if len(digits) % 2 == 0 else typed[:-1]).lower()


def _listing(kind: str, rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows[:20]:
        about = {
            "allocation": f"{row.get('JobID')}.{row.get('TaskGroup')}  {row.get('ClientStatus')}",
            "deployment": f"{row.get('JobID')}  {row.get('Status')}",
            "evaluation": f"{row.get('JobID')}  {row.get('TriggeredBy')}  {row.get('Status')}",
            "node": f"{row.get('Name')}  {row.get('Status')}",
        }[kind]
        lines.append(f"  {row['ID']}  {about}")
    if len(rows) > len(lines):
        lines.append(f"  and {len(rows) - len(lines)} more")
    return "\n".join(lines)


def find_job(session: Session, typed: str, condition: str | None = None, kind: str = "job") -> tuple[str, str]:
    """The id and namespace of a job, which may be cut short; ``condition`` is a filter expression of the job list, and
    ``kind`` what the jobs are called that meet it.

    Raises CommandFailed when none or several match.
    """
    try:
        rows = session.api.get("/v1/jobs", prefix=typed, per_page=20, filter=condition) or []
    except ApiError as problem:
        if problem.status != 403:
            raise
        # Those who may read one job but not list them can still name it in full.
        return typed, session.settings.namespace
    exact = [row for row in rows if row["ID"] == typed]
    found = exact if len(exact) == 1 else rows
    if len(found) == 1:
        return str(found[0]["ID"]), _namespace(found[0])
    if not found:
        raise CommandFailed(f'no {kind} has an id that begins with "{typed}"')
    lines = "\n".join(f"  {row['ID']}  {row['Type']}  {row['Status']}  (namespace {_namespace(row)})" for row in found)
    raise CommandFailed(f'"{typed}" could be {len(found)} jobs:\n{lines}')


def _namespace(row: dict[str, Any]) -> str:
    return str((row.get("JobSummary") or {}).get("Namespace") or row.get("Namespace") or "default")
