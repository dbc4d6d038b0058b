"""Orders about nodes and allocations, and the operator's switches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nomadpy.model.alloc import DesiredTransition
from nomadpy.model.autopilot import AutopilotConfig
from nomadpy.model.caller import Caller
from nomadpy.model.errors import Invalid, NotFound
from nomadpy.model.evaluation import TRIGGER_ALLOC_STOP, TRIGGER_NODE_UPDATE, Evaluation
from nomadpy.model.node import (
    ELIGIBLE,
    INELIGIBLE,
    SCHEDULER_ALGORITHMS,
    DrainStrategy,
    Namespace,
    Node,
    NodeEvent,
    NodePool,
    SchedulerConfiguration,
)
from nomadpy.server.collect import decide_collection
from nomadpy.server.drainer import DRAIN_EVENTS
from nomadpy.server.messages import (
    AllocStopResponse,
    DrainSpec,
    NodeDrainRequest,
    NodeDrainResponse,
    NodeEligibilityRequest,
    NodeEligibilityResponse,
    NodeUpdateResponse,
)
from nomadpy.server.node_evals import evals_for_node
from nomadpy.state import commands as c

if TYPE_CHECKING:
    from nomadpy.server.server import Server


class FleetHandlers:
    """See the module's text."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def stop_alloc(self, caller: Caller, alloc_id: str, *, no_shutdown_delay: bool = False) -> AllocStopResponse:
        """Stops an allocation and has it placed anew."""
        server = self._server
        alloc = server.store.alloc(alloc_id)
        if alloc is None or alloc.job is None:
            raise NotFound("allocation not found")
        caller.require(alloc.namespace, "alloc-lifecycle")
        evaluation = server.new_eval(
            namespace=alloc.namespace,
            job_id=alloc.job_id,
            type=alloc.job.type,
            priority=alloc.job.priority,
            trigger=TRIGGER_ALLOC_STOP,
        )
        transition = DesiredTransition(migrate=True, no_shutdown_delay=True if no_shutdown_delay else None)
        outcome = await server.propose(
            c.UpdateAllocTransitions(now_ns=server.wall_ns(), transitions={alloc_id: transition}, evals=(evaluation,))
        )
        return AllocStopResponse(eval_id=evaluation.id, index=outcome.index)

    async def set_eligibility(
        self, caller: Caller, node_id: str, request: NodeEligibilityRequest
    ) -> NodeEligibilityResponse:
        """Lets the scheduler place on a node, or not."""
        caller.require("", "node:write")
        server = self._server
        node = server.store.node(node_id)
        if node is None:
            raise NotFound("node not found", status=500)
        if request.eligibility not in (ELIGIBLE, INELIGIBLE):
            raise Invalid(f'invalid scheduling eligibility "{request.eligibility}"', status=500)
        evals: tuple[Evaluation, ...] = ()
        event = None
        if request.eligibility != node.scheduling_eligibility:
            message = f"Node marked as {request.eligibility} for scheduling"
            event = NodeEvent(message=message, subsystem="Cluster", timestamp_ns=server.wall_ns())
            if request.eligibility == ELIGIBLE:
                evals = tuple(evals_for_node(server, node))
        outcome = await server.propose(
            c.UpdateNodeEligibility(
                now_ns=server.wall_ns(),
                node_id=node_id,
                eligibility=request.eligibility,
                event=event,
                evals=evals,
            )
        )
        return NodeEligibilityResponse(
            node_modify_index=outcome.index,
            eval_ids=tuple(e.id for e in evals),
            eval_create_index=outcome.index if evals else 0,
            index=outcome.index,
        )

    async def drain_node(self, caller: Caller, node_id: str, request: NodeDrainRequest) -> NodeDrainResponse:
        """Starts, changes or ends the drain of a node. What leaves it, and when, is the drainer's to say."""
        caller.require("", "node:write")
        server = self._server
        node = server.store.node(node_id)
        if node is None:
            raise NotFound("node not found", status=500)
        now_ns, spec = server.wall_ns(), request.drain_spec
        evals: tuple[Evaluation, ...] = ()
        if spec is None and request.mark_eligible and node.scheduling_eligibility == INELIGIBLE:
            evals = tuple(evals_for_node(server, node))
        outcome = await server.propose(
            c.UpdateNodeDrain(
                now_ns=now_ns,
                node_id=node_id,
                drain=_strategy(spec, now_ns) if spec is not None else None,
                mark_eligible=request.mark_eligible,
                meta=request.meta,
                accessor_id=caller.accessor_id,
                event=_drain_event(node, spec, now_ns),
                evals=evals,
            )
        )
        return NodeDrainResponse(
            node_modify_index=outcome.index,
            eval_ids=tuple(e.id for e in evals),
            eval_create_index=outcome.index if evals else 0,
            index=outcome.index,
        )

    async def evaluate_node(self, caller: Caller, node_id: str) -> NodeUpdateResponse:
        """Creates evaluations for everything that runs or could run on a node."""
        caller.require("", "node:write")
        return await self._node_update(node_id, purge=False)

    async def purge_node(self, caller: Caller, node_id: str) -> NodeUpdateResponse:
        """Removes a node; what ran on it is placed elsewhere."""
        caller.require("", "node:write")
        return await self._node_update(node_id, purge=True)

    async def _node_update(self, node_id: str, *, purge: bool) -> NodeUpdateResponse:
        server = self._server
        node = server.store.node(node_id)
        if node is None:
            raise NotFound("node not found", status=500)
        evals = tuple(evals_for_node(server, node, TRIGGER_NODE_UPDATE))
        command: c.Command
        if purge:
            command = c.DeregisterNodes(now_ns=server.wall_ns(), node_ids=(node_id,), evals=evals)
        else:
            command = c.UpdateEvals(now_ns=server.wall_ns(), evals=evals)
        outcome = await server.propose(command)
        if purge:
            server.heartbeats.forget(node_id)
        return NodeUpdateResponse(
            eval_ids=tuple(e.id for e in evals),
            eval_create_index=outcome.index if evals else 0,
            node_modify_index=outcome.index if purge else node.modify_index,
            leader_rpc_addr=server.config.rpc_addr,
            num_nodes=sum(1 for _ in server.store.nodes),
            scheduling_eligibility=node.scheduling_eligibility,
            index=outcome.index,
        )

    # --- the operator's switches -------------------------------------------------------------------------------------

    async def collect_garbage(self, caller: Caller) -> None:
        """Removes everything that is finished, however young."""
        caller.require("", "management")
        server = self._server
        for command in decide_collection(server.store, server.config, server.wall_ns(), force=True):
            await server.propose(command)

    async def reconcile_summaries(self, caller: Caller) -> None:
        """Rebuilds the job summaries."""
        caller.require("", "management")
        await self._server.propose(c.ReconcileSummaries(now_ns=self._server.wall_ns()))

    async def set_scheduler_config(
        self, caller: Caller, config: SchedulerConfiguration, *, cas: int | None
    ) -> tuple[bool, int]:
        """Replaces the scheduling switches; (False, index) when the compare-and-set lost."""
        caller.require("", "operator:write")
        _check_algorithm(config.scheduler_algorithm)
        outcome = await self._server.propose(
            c.SetSchedulerConfig(now_ns=self._server.wall_ns(), config=config, cas_index=cas)
        )
        return bool(outcome.value), outcome.index

    async def set_autopilot_config(self, caller: Caller, config: AutopilotConfig, *, cas: int | None) -> bool:
        """Replaces how the leader looks after the servers; False when the compare-and-set lost."""
        caller.require("", "operator:write")
        outcome = await self._server.propose(
            c.SetAutopilotConfig(now_ns=self._server.wall_ns(), config=config, cas_index=cas)
        )
        return bool(outcome.value)

    async def upsert_namespace(self, caller: Caller, namespace: Namespace) -> int:
        """Creates or changes a namespace; returns the index."""
        caller.require("", "management")
        outcome = await self._server.propose(c.UpsertNamespace(now_ns=self._server.wall_ns(), namespace=namespace))
        return outcome.index

    async def delete_namespace(self, caller: Caller, name: str) -> int:
        """Removes an empty namespace; returns the index."""
        caller.require("", "management")
        outcome = await self._server.propose(c.DeleteNamespace(now_ns=self._server.wall_ns(), name=name))
        return outcome.index

    async def upsert_node_pool(self, caller: Caller, pool: NodePool) -> int:
        """Creates or changes a node pool; returns the index."""
        caller.require("", "node_pool:write")
        _check_pool_config(pool)
        outcome = await self._server.propose(c.UpsertNodePool(now_ns=self._server.wall_ns(), pool=pool))
        return outcome.index

    async def delete_node_pool(self, caller: Caller, name: str) -> int:
        """Removes an empty node pool; returns the index."""
        caller.require("", "node_pool:delete")
        outcome = await self._server.propose(c.DeleteNodePool(now_ns=self._server.wall_ns(), name=name))
        return outcome.index


def _check_algorithm(algorithm: object) -> None:
    if algorithm not in SCHEDULER_ALGORITHMS:
        *some, last = SCHEDULER_ALGORITHMS
        raise Invalid(f'invalid scheduler algorithm "{algorithm}"; use {", ".join(some)} or {last}')


def _check_pool_config(pool: NodePool) -> None:
    """Refuses what a pool's own scheduler configuration cannot mean."""
    own = pool.scheduler_configuration or {}
    if own.get("SchedulerAlgorithm"):
        _check_algorithm(own["SchedulerAlgorithm"])
    if not isinstance(own.get("MemoryOversubscriptionEnabled"), bool | None):
        raise Invalid("MemoryOversubscriptionEnabled of a node pool's SchedulerConfiguration must be true or false")


def _strategy(spec: DrainSpec, now_ns: int) -> DrainStrategy:
    return DrainStrategy(
        deadline_ns=spec.deadline_ns,
        ignore_system_jobs=spec.ignore_system_jobs,
        force_deadline_ns=now_ns + spec.deadline_ns if spec.deadline_ns > 0 else 0,
    )


def _drain_event(node: Node, spec: DrainSpec | None, now_ns: int) -> NodeEvent | None:
    """What the node's list of events says of an operator's order; nothing when there was no drain to end."""
    if spec is None:
        message = "Node drain disabled" if node.drain_strategy is not None else ""
    else:
        message = "Node drain strategy updated" if node.drain_strategy is not None else "Node drain strategy set"
    return NodeEvent(message=message, subsystem=DRAIN_EVENTS, timestamp_ns=now_ns) if message else None
