"""Routes of Nomad's paid edition, which clients probe for, and features that are not built yet: both say so."""

from __future__ import annotations

from typing import Any

from nomadpy.api.call import Call
from nomadpy.api.forward import AGENT
from nomadpy.api.router import READ, WRITE, Operation
from nomadpy.model.errors import NomadError

_ANY = (*READ, *WRITE, "DELETE")


async def enterprise(call: Call) -> Any:
    """What Nomad's community edition answers, so that clients know what they talk to."""
    raise NomadError("Nomad Enterprise only endpoint", status=501)


async def not_yet(call: Call) -> Any:
    """A route that Nomad has and this program does not have yet."""
    path = call.request.scope["path"]
    raise NomadError(f"{path} is not supported by this version of nomadpy", status=501)


_ENTERPRISE = (
    "/v1/sentinel/policies", "/v1/sentinel/policy/{rest}", "/v1/quotas", "/v1/quota-usages", "/v1/quota",
    "/v1/quota/{rest}", "/v1/recommendation", "/v1/recommendations", "/v1/recommendations/apply",
    "/v1/recommendation/{rest}", "/v1/operator/utilization",
)  # fmt: skip
_NOT_YET = (
    "/v1/acl/{rest}", "/v1/vars", "/v1/var/{rest}", "/v1/volumes", "/v1/volumes/{rest}", "/v1/volume/{rest}",
    "/v1/plugins", "/v1/plugin/{rest}", "/v1/services", "/v1/service/{rest}",
    "/v1/event/stream", "/v1/operator/{rest}",
    "/v1/agent/{rest}", "/v1/client/{rest}",
    "/.well-known/{rest}",
)  # fmt: skip

OPERATIONS: tuple[Operation, ...] = tuple(
    Operation(at=AGENT, methods=_ANY, path=path, endpoint=enterprise) for path in _ENTERPRISE
) + tuple(Operation(at=AGENT, methods=_ANY, path=path, endpoint=not_yet) for path in _NOT_YET)
