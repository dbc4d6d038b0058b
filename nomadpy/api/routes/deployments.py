"""Routes that change deployments."""

from __future__ import annotations

from nomadpy.api.call import Call, Reply
from nomadpy.api.router import WRITE, Operation
from nomadpy.server.handlers import deployments as m


def _written(response: m.DeploymentUpdateResponse) -> Reply:
    return Reply(value=response, index=response.index)


async def fail(call: Call) -> Reply:
    """Fails a deployment."""
    return _written(await call.server.deployments.fail(call.caller, call.params["deployment_id"]))


async def pause(call: Call) -> Reply:
    """Pauses a deployment or lets it go on."""
    request = await call.body(m.DeploymentPauseRequest)
    return _written(await call.server.deployments.pause(call.caller, call.params["deployment_id"], request))


async def promote(call: Call) -> Reply:
    """Promotes the canaries of all groups or of some."""
    request = await call.body(m.DeploymentPromoteRequest)
    return _written(await call.server.deployments.promote(call.caller, call.params["deployment_id"], request))


async def allocation_health(call: Call) -> Reply:
    """Declares allocations healthy or unhealthy."""
    request = await call.body(m.DeploymentAllocHealthRequest)
    return _written(await call.server.deployments.set_health(call.caller, call.params["deployment_id"], request))


async def unblock(call: Call) -> Reply:
    """Refused: nothing blocks a deployment in one region."""
    request = await call.body(m.DeploymentUnblockRequest)
    return _written(await call.server.deployments.unblock(call.caller, call.params["deployment_id"], request))


_D = "/v1/deployment"

OPERATIONS: tuple[Operation, ...] = (
    Operation(methods=WRITE, path=_D + "/fail/{deployment_id}", endpoint=fail, answer=m.DeploymentUpdateResponse),
    Operation(methods=WRITE, path=_D + "/pause/{deployment_id}", endpoint=pause, body=m.DeploymentPauseRequest,
              answer=m.DeploymentUpdateResponse),
    Operation(methods=WRITE, path=_D + "/promote/{deployment_id}", endpoint=promote, body=m.DeploymentPromoteRequest,
              answer=m.DeploymentUpdateResponse),
    Operation(methods=WRITE, path=_D + "/allocation-health/{deployment_id}", endpoint=allocation_health,
              body=m.DeploymentAllocHealthRequest, answer=m.DeploymentUpdateResponse),
    Operation(methods=WRITE, path=_D + "/unblock/{deployment_id}", endpoint=unblock, body=m.DeploymentUnblockRequest,
              answer=m.DeploymentUpdateResponse),
)  # fmt: skip
