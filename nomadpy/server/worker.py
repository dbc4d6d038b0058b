"""The worker: takes evaluations from the broker, lets the scheduler decide, and proposes the plans as one entry."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

import trio

from nomadpy.model.errors import OutcomeUnknown, Unavailable
from nomadpy.model.evaluation import (
    EVAL_BLOCKED,
    EVAL_COMPLETE,
    EVAL_FAILED,
    TRIGGER_FAILED_FOLLOW_UP,
    TRIGGER_MAX_PLANS,
    Evaluation,
)
from nomadpy.model.ids import new_uuid
from nomadpy.model.time import SECOND
from nomadpy.scheduler import Decision, Fleet, schedule
from nomadpy.scheduler.batch import by_ask
from nomadpy.server.broker import FOLLOW_UP_DELAY_NS, FOLLOW_UP_SPREAD_NS, Delivery, cancelled
from nomadpy.state import commands as c
from nomadpy.state.store import StateStore

if TYPE_CHECKING:
    from nomadpy.server.server import Server

log = logging.getLogger(__name__)

ATTEMPTS = 5
_RETRY_S = 1.0
_TICK_S = 0.001  # so that a wait does not end in the very moment before it should
_WAIT_S_MAX = 60.0
_PLACEMENTS_MAX = 10_000  # in one entry: applying it must not hold up the loop for long
_SUPERSEDED = "cancelled due to a newer evaluation of the job"


class Worker:
    """The leader's one scheduler. One is enough: it decides whole batches, so plans never conflict."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._fleet: Fleet | None = None
        self._unstored: list[Evaluation] = []

    async def run(self) -> None:
        """Works until cancelled."""
        server = self._server
        while True:
            deliveries = [] if self._paused else server.broker.dequeue(server.wall_ns(), server.config.eval_batch)
            if deliveries:
                await self._work(deliveries)
            await self._sweep()
            if not deliveries:
                await self._wait()

    @property
    def _paused(self) -> bool:
        return self._server.store.scheduler_config.pause_eval_broker

    async def _wait(self) -> None:
        """Returns when there may be something to do."""
        server = self._server
        due = None if self._paused else server.broker.next_deadline()
        wait_s = _WAIT_S_MAX if due is None else max(0.0, (due - server.wall_ns()) / SECOND) + _TICK_S
        if self._unstored:
            wait_s = min(wait_s, _RETRY_S)
        with trio.move_on_after(min(wait_s, _WAIT_S_MAX)):
            if self._paused or not server.broker.has_ready():
                await server.watch.changed("broker", "scheduler_config")

    async def _work(self, deliveries: list[Delivery]) -> None:
        """Decides a batch, slice by slice, and proposes each; what lost placements at apply is decided again on the
        newer state. Between slices the loop serves heartbeats and requests."""
        server, store = self._server, self._server.store
        left = deque((delivery, 1) for delivery in by_ask(store, deliveries, lambda delivery: delivery.evaluation))
        while left:
            self._fleet = Fleet(store, self._fleet)
            view_index = store.index
            decided = self._decide(left, self._fleet)
            if not decided:
                continue
            try:
                refused = await self._propose([decision for _, _, decision in decided], view_index)
            except Unavailable as error:
                unfinished = [delivery for delivery, _, _ in decided] + [delivery for delivery, _ in left]
                await self._put_back(unfinished, error)
                return
            now_ns = server.wall_ns()
            for (delivery, attempt, _), lost in zip(decided, refused, strict=True):
                if lost and attempt < ATTEMPTS:
                    left.append((delivery, attempt + 1))
                    continue
                server.broker.ack(delivery, now_ns)
                if lost:
                    self._unstored += self._given_up(delivery.evaluation)

    async def _put_back(self, deliveries: list[Delivery], error: Unavailable) -> None:
        """Gives back what could not be stored now. When an entry may still take effect, nothing is decided before it
        has or never will: an empty entry behind it tells."""
        server = self._server
        log.warning("worker.propose_failed", extra={"fields": {"error": error.message, "evals": len(deliveries)}})
        for delivery in deliveries:
            server.broker.nack(delivery, server.wall_ns())
        while isinstance(error, OutcomeUnknown):
            try:
                await server.propose(c.UpdateEvals(now_ns=server.wall_ns()))
                return
            except Unavailable as again:
                log.warning("worker.log_unavailable", extra={"fields": {"error": again.message}})
                await trio.sleep(_RETRY_S)

    def _decide(self, left: deque[tuple[Delivery, int]], fleet: Fleet) -> list[tuple[Delivery, int, Decision]]:
        """Decides from the front of ``left`` until it is empty or it has taken long enough, and takes that off."""
        server, store = self._server, self._server.store
        decided: list[tuple[Delivery, int, Decision]] = []
        placed, slice_end = 0, server.mono_ns() + server.config.slice_ns
        while left and placed < _PLACEMENTS_MAX and (not decided or server.mono_ns() < slice_end):
            delivery, attempt = left.popleft()
            evaluation = store.evals.get(delivery.evaluation.id)
            if evaluation is None or evaluation.terminal():
                server.broker.ack(delivery, server.wall_ns())
                continue
            try:
                decision = schedule(store, evaluation, now_ns=server.wall_ns(), rng=server.rng, fleet=fleet)
                fleet.commit(decision)
            except Exception:
                log.exception("worker.schedule_failed", extra={"fields": {"eval": evaluation.id}})
                server.broker.nack(delivery, server.wall_ns())
                continue
            decided.append((delivery, attempt, decision))
            placed += decision.placed
        return decided

    async def _propose(self, decisions: list[Decision], view_index: int) -> list[int]:
        server = self._server
        evals: list[Evaluation] = []
        for decision in decisions:
            evals += settle(server.store, decision)
        plans = tuple(decision.plan for decision in decisions)
        outcome = await server.propose(
            c.ApplyPlans(now_ns=server.wall_ns(), plans=plans, evals=tuple(evals), view_index=view_index)
        )
        lost: list[int] = outcome.value
        return lost

    def _given_up(self, evaluation: Evaluation) -> list[Evaluation]:
        """Nomad's answer to a plan that never fits: the evaluation failed, and a blocked one stands by."""
        server = self._server
        blocked = server.new_eval(
            namespace=evaluation.namespace,
            job_id=evaluation.job_id,
            type=evaluation.type,
            priority=evaluation.priority,
            trigger=TRIGGER_MAX_PLANS,
        ).replace(
            status=EVAL_BLOCKED,
            status_description="created due to placement conflicts",
            previous_eval=evaluation.id,
            escaped_computed_class=True,
            snapshot_index=server.store.index,
        )
        failed = evaluation.replace(
            status=EVAL_FAILED,
            status_description=f"maximum attempts reached ({ATTEMPTS})",
            blocked_eval=blocked.id,
        )
        return [failed, blocked]

    async def _sweep(self) -> None:
        """Stores what the broker cancelled or gave up on; what cannot be stored now is kept for the next time."""
        server = self._server
        self._unstored += cancelled(server.broker.take_cancelable(), _SUPERSEDED)
        self._unstored += cancelled(server.blocked.take_duplicates(), _SUPERSEDED)
        for evaluation in server.broker.take_failed():
            self._unstored += _failed_with_follow_up(server, evaluation)
        if not self._unstored:
            return
        try:
            await server.propose(c.UpdateEvals(now_ns=server.wall_ns(), evals=tuple(self._unstored)))
        except Unavailable as error:
            log.warning("worker.sweep_failed", extra={"fields": {"error": error.message}})
            return
        self._unstored = []


def _failed_with_follow_up(server: Server, evaluation: Evaluation) -> list[Evaluation]:
    failed = evaluation.replace(status=EVAL_FAILED, status_description="evaluation reached delivery limit (3)")
    if server.store.job(evaluation.namespace, evaluation.job_id) is None:
        return [failed]
    wait_ns = FOLLOW_UP_DELAY_NS + int(server.rng.random() * FOLLOW_UP_SPREAD_NS)
    follow_up = evaluation.replace(
        id=new_uuid(server.rng),
        triggered_by=TRIGGER_FAILED_FOLLOW_UP,
        status="pending",
        previous_eval=evaluation.id,
        wait_ns=wait_ns,
        wait_until_ns=server.wall_ns() + wait_ns,
        next_eval="",
        create_index=0,
        modify_index=0,
    )
    return [failed.replace(next_eval=follow_up.id), follow_up]


def settle(store: StateStore, decision: Decision) -> list[Evaluation]:
    """The evaluations to store with a decision. Keeps a job's blocked evaluations at one: a blocked evaluation that ran
    and still could not place everything stays, under its own id; otherwise the new one replaces the old, and a decision
    without failures ends it."""
    evaluation = decision.evaluation
    stored = store.evals.get(evaluation.id)
    was_blocked = stored is not None and stored.status == EVAL_BLOCKED
    out: list[Evaluation] = []
    blocked = next((e for e in decision.created if e.status == EVAL_BLOCKED), None)
    if blocked is not None and was_blocked:
        out.append(
            evaluation.replace(
                status=EVAL_BLOCKED,
                status_description=blocked.status_description,
                class_eligibility=blocked.class_eligibility,
                escaped_computed_class=blocked.escaped_computed_class,
                snapshot_index=blocked.snapshot_index or store.index,
                blocked_eval="",
            )
        )
        out += [e for e in decision.created if e is not blocked]
    else:
        out.append(evaluation)
        out += decision.created
    if blocked is not None or evaluation.status == EVAL_COMPLETE:
        mine = {e.id for e in out}
        others = [
            e for e in store.job_evals(evaluation.namespace, evaluation.job_id)
            if e.status == EVAL_BLOCKED and e.id not in mine
        ]  # fmt: skip
        out += cancelled(others, _SUPERSEDED)
    return out
