"""The worker: takes evaluations from the broker, lets the scheduler decide, and proposes the plans as one entry."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

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
from nomadpy.scheduler import Decision, Fleet, Newcomer, Together, decide
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
_AHEAD = 1  # so many slices may become durable while the next one is decided
_PLACEMENTS_MAX = 10_000  # in one entry: applying it must not hold up the loop for long
_SUPERSEDED = "cancelled due to a newer evaluation of the job"


class _Decided(NamedTuple):
    """What became of a delivery, for the ``attempt``-th time."""

    delivery: Delivery
    attempt: int
    outcome: Decision | Newcomer


class _Batch:
    """A batch of deliveries: what is left to decide, and what is on its way into the log. ``looked_at``: the index of
    the state when the nodes were looked at; ``only_newcomers``, ``lost``: what happened to slices since then."""

    def __init__(self, deliveries: list[Delivery]) -> None:
        self.left = deque((delivery, 1) for delivery in deliveries)
        self.flying = 0
        self.looked_at = 0
        self.only_newcomers = True
        self.lost = False
        self.error: Unavailable | None = None
        self.failed: list[_Decided] = []
        self._landing = trio.Event()

    @contextmanager
    def flight(self) -> Iterator[None]:
        """A slice that is on its way."""
        self.flying += 1
        try:
            yield
        finally:
            self.flying -= 1
            self._landing.set()

    async def landed(self, left: int) -> None:
        """Returns once no more than so many slices are on their way."""
        while self.flying > left:
            self._landing = trio.Event()
            await self._landing.wait()

    def fail(self, error: Unavailable, decided: list[_Decided]) -> None:
        """A slice could not be stored. That it may have been all the same is what matters of several errors."""
        if self.error is None or isinstance(error, OutcomeUnknown):
            self.error = error
        self.failed += decided


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
        newer state. Between slices the loop serves heartbeats and requests. While slices that only brought newcomers
        become durable the next ones are decided, on nodes that count these as placed already."""
        by_demand = by_ask(self._server.store, deliveries, lambda delivery: delivery.evaluation)
        batch = _Batch(by_demand)
        async with trio.open_nursery() as nursery:
            while batch.left and batch.error is None:
                await batch.landed(_AHEAD if self._still_holds(batch) else 0)
                if batch.error is not None or not (batch.flying == 0 or self._still_holds(batch)):
                    continue
                if batch.flying == 0:
                    self._look_anew(batch)
                decided = self._decide(batch.left)
                if decided:
                    await nursery.start(self._carry_out, batch, decided)
                    batch.only_newcomers &= all(isinstance(each.outcome, Newcomer) for each in decided)
                if not batch.left:
                    await batch.landed(0)
        if batch.error is not None:
            unfinished = [each.delivery for each in batch.failed] + [delivery for delivery, _ in batch.left]
            await self._put_back(unfinished, batch.error)

    def _look_anew(self, batch: _Batch) -> None:
        self._fleet = Fleet(self._server.store, self._fleet)
        batch.looked_at, batch.only_newcomers, batch.lost = self._server.store.index, True, False

    def _still_holds(self, batch: _Batch) -> bool:
        """Whether what is known of the nodes does for another slice, while others are on their way: only newcomers
        were placed since the last look, all found their place, and nothing else happened that matters."""
        server, fleet = self._server, self._fleet
        return (
            fleet is not None
            and batch.only_newcomers
            and not batch.lost
            and server.room_appeared_at <= batch.looked_at
            and fleet.is_of(server.store.columns)
        )

    async def _carry_out(
        self, batch: _Batch, decided: list[_Decided], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Proposes what was decided, and acknowledges what was stored."""
        server, view_index = self._server, self._server.store.index
        with batch.flight():
            task_status.started()
            try:
                refused = await self._propose([each.outcome for each in decided], view_index)
            except Unavailable as error:
                batch.fail(error, decided)
                return
            now_ns = server.wall_ns()
            for each, lost in zip(decided, refused, strict=True):
                batch.lost |= bool(lost)
                if lost and each.attempt < ATTEMPTS:
                    batch.left.append((each.delivery, each.attempt + 1))
                    continue
                server.broker.ack(each.delivery, now_ns)
                if lost:
                    self._unstored += self._given_up(each.delivery.evaluation)

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

    def _decide(self, left: deque[tuple[Delivery, int]]) -> list[_Decided]:
        """Decides from the front of ``left`` until it is empty or it has taken long enough, and takes that off."""
        server, store, fleet = self._server, self._server.store, self._fleet
        assert fleet is not None
        decided: list[_Decided] = []
        placed, slice_end = 0, server.mono_ns() + server.config.slice_ns
        while left and placed < _PLACEMENTS_MAX and (not decided or server.mono_ns() < slice_end):
            delivery, attempt = left.popleft()
            evaluation = store.evals.get(delivery.evaluation.id)
            if evaluation is None or evaluation.terminal():
                server.broker.ack(delivery, server.wall_ns())
                continue
            try:
                outcome = decide(store, evaluation, now_ns=server.wall_ns(), rng=server.rng, fleet=fleet)
                if isinstance(outcome, Newcomer):
                    fleet.keep(outcome.choice)
                else:
                    fleet.commit(outcome)
            except Exception:
                log.exception("worker.schedule_failed", extra={"fields": {"eval": evaluation.id}})
                server.broker.nack(delivery, server.wall_ns())
                continue
            decided.append(_Decided(delivery, attempt, outcome))
            placed += outcome.placed
        return decided

    async def _propose(self, outcomes: list[Decision | Newcomer], view_index: int) -> list[int]:
        """Stores what was decided; how many placements of each were refused."""
        server = self._server
        evals: list[Evaluation] = []
        plans: list[c.PlanResult] = []
        together = Together()
        places = []  # of each in the answer: those with plans come first
        n_plans = sum(isinstance(outcome, Decision) for outcome in outcomes)
        for outcome in outcomes:
            if isinstance(outcome, Newcomer):
                places.append(n_plans + len(together))
                together.add(outcome)
            else:
                places.append(len(plans))
                evals += settle(server.store, outcome)
                plans.append(outcome.plan)
        now_ns = server.wall_ns()
        command: c.Command
        if together:
            command = c.ApplyDecisions(
                now_ns=now_ns,
                plans=tuple(plans),
                evals=tuple(evals),
                newcomers=together.columns(),
                view_index=view_index,
            )
        else:
            command = c.ApplyPlans(now_ns=now_ns, plans=tuple(plans), evals=tuple(evals), view_index=view_index)
        outcome_of_all = await server.propose(command)
        lost: list[int] = outcome_of_all.value
        return [lost[place] for place in places]

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
