"""What people do to deployments: fail, pause, resume and promote them, and speak on the health of allocations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nomadpy.model.caller import Caller
from nomadpy.model.errors import Conflict, Invalid, NotFound
from nomadpy.model.evaluation import (
    DEPLOYMENT_BY_USER_TEXT,
    DEPLOYMENT_PAUSED,
    DEPLOYMENT_PAUSED_TEXT,
    DEPLOYMENT_RUNNING,
    DEPLOYMENT_UNHEALTHY_TEXT,
    Deployment,
    Evaluation,
)
from nomadpy.model.naming import Noun
from nomadpy.server.deployments import evaluation_for, failure
from nomadpy.state import commands as c

if TYPE_CHECKING:
    from nomadpy.server.server import Server


class DeploymentPauseRequest(Noun):
    deployment_id: str = ""
    pause: bool = False


class DeploymentPromoteRequest(Noun):
    deployment_id: str = ""
    all: bool = False
    groups: tuple[str, ...] = ()


class DeploymentAllocHealthRequest(Noun):
    deployment_id: str = ""
    healthy_allocation_ids: tuple[str, ...] = ()
    unhealthy_allocation_ids: tuple[str, ...] = ()


class DeploymentUnblockRequest(Noun):
    deployment_id: str = ""


class DeploymentUpdateResponse(Noun):
    """``reverted_job_version`` is the version that a failed deployment went back to."""

    eval_id: str = ""
    eval_create_index: int = 0
    deployment_modify_index: int = 0
    reverted_job_version: int | None = None
    index: int = 0
    last_contact_ns: int = 0
    known_leader: bool = True
    next_token: str = ""


class DeploymentHandlers:
    """See the module's text. Every method raises NotFound (500) for an unknown deployment, Conflict for one that is
    over, and Invalid when the body names another deployment than the path."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def fail(self, caller: Caller, deployment_id: str) -> DeploymentUpdateResponse:
        """Fails a deployment, and goes back to the newest stable version if one of its groups says so."""
        deployment = self._authorized(caller, deployment_id, "fail-deployment")
        revert = any(state.auto_revert for state in deployment.task_groups.values())
        command = failure(self._server.store, deployment, DEPLOYMENT_BY_USER_TEXT, revert=revert)
        return await self._propose(
            c.ChangeDeployment(
                now_ns=self._server.wall_ns(),
                update=command.update,
                rollback=command.rollback,
                evals=(self._evaluation(deployment),),
            )
        )

    async def pause(
        self, caller: Caller, deployment_id: str, request: DeploymentPauseRequest
    ) -> DeploymentUpdateResponse:
        """Pauses a deployment, or lets a paused one go on."""
        _check_same(deployment_id, request.deployment_id)
        deployment = self._authorized(caller, deployment_id, "pause-deployment")
        status = DEPLOYMENT_PAUSED if request.pause else DEPLOYMENT_RUNNING
        text = DEPLOYMENT_PAUSED_TEXT if request.pause else deployment.running_text()
        return await self._propose(
            c.ChangeDeployment(
                now_ns=self._server.wall_ns(),
                update=c.DeploymentUpdate(deployment_id=deployment_id, status=status, description=text),
                evals=() if request.pause else (self._evaluation(deployment),),
            )
        )

    async def promote(
        self, caller: Caller, deployment_id: str, request: DeploymentPromoteRequest
    ) -> DeploymentUpdateResponse:
        """Lets the named groups, or all, follow their canaries."""
        _check_same(deployment_id, request.deployment_id)
        deployment = self._authorized(caller, deployment_id, "promote-deployment")
        if not request.all:
            _check_groups(deployment, request.groups)
        return await self._propose(
            c.PromoteDeployment(
                now_ns=self._server.wall_ns(),
                deployment_id=deployment_id,
                groups=() if request.all else request.groups,
                evals=(self._evaluation(deployment),),
            )
        )

    async def set_health(
        self, caller: Caller, deployment_id: str, request: DeploymentAllocHealthRequest
    ) -> DeploymentUpdateResponse:
        """Declares allocations healthy or unhealthy; an unhealthy one fails the deployment."""
        _check_same(deployment_id, request.deployment_id)
        deployment = self._authorized(caller, deployment_id, "set-alloc-health-deployment")
        unhealthy = request.unhealthy_allocation_ids
        if not unhealthy and not request.healthy_allocation_ids:
            raise Invalid("must specify at least one healthy/unhealthy allocation ID", status=500)
        update, rollback = None, None
        if unhealthy:
            revert = any(
                state.auto_revert
                for alloc_id in unhealthy
                if (alloc := self._server.store.alloc(alloc_id)) is not None
                and (state := deployment.task_groups.get(alloc.task_group)) is not None
            )
            failed = failure(self._server.store, deployment, DEPLOYMENT_UNHEALTHY_TEXT, revert=revert)
            update, rollback = failed.update, failed.rollback
        return await self._propose(
            c.SetAllocsHealth(
                now_ns=self._server.wall_ns(),
                deployment_id=deployment_id,
                healthy_alloc_ids=request.healthy_allocation_ids,
                unhealthy_alloc_ids=unhealthy,
                update=update,
                rollback=rollback,
                evals=(self._evaluation(deployment),),
            )
        )

    async def unblock(
        self, caller: Caller, deployment_id: str, request: DeploymentUnblockRequest
    ) -> DeploymentUpdateResponse:
        """Refused: only deployments over several regions block, and jobs run in one region here."""
        _check_same(deployment_id, request.deployment_id)
        deployment = self._authorized(caller, deployment_id, "unblock-deployment")
        if not deployment.active():
            raise Conflict("can't unblock terminal deployment")
        raise Conflict("can't unblock deployment that is not blocked: only multi-region deployments block")

    # --- shared ------------------------------------------------------------------------------------------------------

    def _authorized(self, caller: Caller, deployment_id: str, capability: str) -> Deployment:
        deployment = self._server.store.deployments.get(deployment_id)
        if deployment is None:
            raise NotFound("deployment not found", status=500)
        caller.require(deployment.namespace, "submit-job", capability)
        return deployment

    def _evaluation(self, deployment: Deployment) -> Evaluation:
        server = self._server
        return evaluation_for(server.store, deployment, now_ns=server.wall_ns(), rng=server.rng)

    async def _propose(
        self, command: c.ChangeDeployment | c.PromoteDeployment | c.SetAllocsHealth
    ) -> DeploymentUpdateResponse:
        outcome = await self._server.propose(command)
        rollback = None if isinstance(command, c.PromoteDeployment) else command.rollback
        done = isinstance(outcome.value, dict) and outcome.value.get("reverted_version") is not None
        return DeploymentUpdateResponse(
            eval_id=command.evals[0].id if command.evals else "",
            eval_create_index=outcome.index if command.evals else 0,
            deployment_modify_index=outcome.index,
            reverted_job_version=rollback.version if rollback is not None and done else None,
            index=outcome.index,
        )


def _check_same(path_id: str, body_id: str) -> None:
    if not body_id:
        raise Invalid("DeploymentID must be specified")
    if body_id != path_id:
        raise Invalid("Deployment ID does not match")


def _check_groups(deployment: Deployment, groups: tuple[str, ...]) -> None:
    if not groups:
        raise Invalid('nothing to promote: name task groups in "Groups" or set "All"')
    unknown = [name for name in groups if name not in deployment.task_groups]
    if unknown:
        known = ", ".join(sorted(deployment.task_groups))
        raise Invalid(f'task group "{unknown[0]}" is not part of the deployment, which has {known}')
