"""The leader's duties: loops that wait, decide on the state, and propose what they decided."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from nomadpy.model.errors import NomadError, Unavailable
from nomadpy.model.time import SECOND
from nomadpy.server.cluster import RaftCluster
from nomadpy.server.collect import decide_collection
from nomadpy.server.disconnected import decide_disconnected, down_command
from nomadpy.server.drainer import decide_drain
from nomadpy.server.node_watch import watch_nodes
from nomadpy.server.periodic import launch_commands, next_launch_ns
from nomadpy.server.worker import Worker

if TYPE_CHECKING:
    from nomadpy.server.server import Server

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_TICK_S = 0.001  # so that a wait does not end in the very moment before it should
# Changes of many allocations are looked at together.
_DRAIN_BATCH_S = 1.0
_DISCONNECTED_BATCH_S = 1.0
_DEPLOYMENT_BATCH_S = 0.25


async def lead(server: Server) -> None:
    """Runs every duty until cancelled."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Worker(server).run)
        nursery.start_soon(watch_nodes, server, server.gossip, _insist)
        if isinstance(server.cluster, RaftCluster):
            nursery.start_soon(server.cluster.pilot)
        nursery.start_soon(_watch_disconnected, server)
        nursery.start_soon(_launch_periodic, server)
        nursery.start_soon(_collect_garbage, server)
        nursery.start_soon(_drain_nodes, server)
        nursery.start_soon(_watch_deployments, server)


async def _watch_disconnected(server: Server) -> None:
    """Declares nodes down that were out of reach for as long as anybody waits for them."""
    store = server.store
    while True:
        seen = store.index
        step = decide_disconnected(store, server.wall_ns())
        for node in step.down:
            log.warning("node.disconnected_too_long", extra={"fields": {"node": node.id, "name": node.name}})
            command = down_command(server, node)
            await _insist("node.down", lambda command=command: server.propose(command))  # type: ignore[misc]
        # Where nothing is out of reach only a change of a node can change that.
        tables = ("nodes",) if step.wake_at_ns is None else ("nodes", "allocs")
        # The wall clock may jump, so no sleep is longer than a minute.
        with trio.move_on_after(_until_s(server, step.wake_at_ns, at_most_s=60.0)):
            if store.max_index(*tables) <= seen:
                await server.watch.changed(*tables)
            await trio.sleep(_DISCONNECTED_BATCH_S)


async def _launch_periodic(server: Server) -> None:
    while True:
        now_ns = server.wall_ns()
        commands = launch_commands(server, now_ns)
        for command in commands:
            await _insist("periodic.launch", lambda command=command: server.propose(command))  # type: ignore[misc]
        due = next_launch_ns(server.store, server.wall_ns())
        # The wall clock may jump, so no sleep is longer than a minute.
        wait_s = 60.0 if due is None else min(60.0, max(0.0, (due - server.wall_ns()) / SECOND) + _TICK_S)
        with trio.move_on_after(wait_s):
            await server.watch.changed("jobs", "periodic_launch")


async def _collect_garbage(server: Server) -> None:
    while True:
        await trio.sleep(server.config.job_gc_interval_ns / SECOND)
        for command in decide_collection(server.store, server.config, server.wall_ns()):
            await _insist("gc", lambda command=command: server.propose(command))  # type: ignore[misc]


async def _drain_nodes(server: Server) -> None:
    """Moves work off draining nodes: looks again a moment after something moved, and when a deadline passes."""
    store = server.store
    while True:
        seen = store.index
        decision = decide_drain(store, now_ns=server.wall_ns(), rng=server.rng)
        for command in decision.commands:
            await _insist("node.drain", lambda command=command: server.propose(command))  # type: ignore[misc]
        # Without a draining node only a change of a node can start a drain.
        tables = ("nodes", "allocs", "jobs") if decision.draining else ("nodes",)
        # The wall clock may jump, so no sleep is longer than a minute.
        with trio.move_on_after(_until_s(server, decision.wake_at_ns, at_most_s=60.0)):
            if store.max_index(*tables) <= seen:
                await server.watch.changed(*tables)
            await trio.sleep(_DRAIN_BATCH_S)


async def _watch_deployments(server: Server) -> None:
    """Moves deployments on: a moment after something changed that concerns them, and when a deadline passes."""
    watch = server.deployment_watch
    while True:
        step = watch.look(server.store, now_ns=server.wall_ns(), rng=server.rng)
        for command in step.commands:
            await _insist("deployments", lambda command=command: server.propose(command))  # type: ignore[misc]
        # The wall clock may jump, so no sleep is longer than a minute.
        with trio.move_on_after(_until_s(server, watch.wake_at_ns, at_most_s=60.0)):
            if not watch.has_due:
                await server.watch.changed("due deployments")
        await trio.sleep(_DEPLOYMENT_BATCH_S)


def _until_s(server: Server, due_ns: int | None, *, at_most_s: float) -> float:
    """Seconds until a moment of the wall clock."""
    return at_most_s if due_ns is None else min(at_most_s, max(0.0, (due_ns - server.wall_ns()) / SECOND) + _TICK_S)


async def _insist(what: str, action: Callable[[], Awaitable[object]]) -> None:
    """Carries a duty out, trying again while the log is unavailable; a refusal is logged and left at that."""
    while True:
        try:
            await action()
            return
        except Unavailable as error:
            log.warning("leader.retry", extra={"fields": {"duty": what, "error": error.message}})
            await trio.sleep(_RETRY_S)
        except NomadError as error:
            log.error("leader.refused", extra={"fields": {"duty": what, "error": error.message}})
            return
