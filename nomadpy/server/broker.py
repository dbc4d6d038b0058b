"""The evaluation broker: which evaluations may be worked on now.

Rules (Nomad's): at most one evaluation of a job is ready or in flight; the others of that job wait, and when the one in
flight is acknowledged only the best of them moves up while the rest are cancelled. Higher priority goes first, then the
older. What is handed out must be acknowledged within a minute, or it is handed out again, later each time; after three
deliveries it has failed. Evaluations whose ``wait_until`` lies ahead wait for it.

The broker is a machine: it takes the wall clock as ``now_ns`` and does no I/O. It lives on the leader only and is
rebuilt from the stored evaluations.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

import msgspec

from nomadpy.model.evaluation import EVAL_PENDING, Evaluation
from nomadpy.model.time import MINUTE, SECOND

NACK_TIMEOUT_NS = 60 * SECOND
DELIVERY_LIMIT = 3
_FIRST_DELAY_NS = 1 * SECOND
_NEXT_DELAY_NS = 20 * SECOND

Key = tuple[str, str]


class BrokerStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """How many evaluations wait for what."""

    ready: int = 0
    unacked: int = 0
    pending: int = 0
    waiting: int = 0
    cancelable: int = 0
    failed: int = 0


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """An evaluation handed out; the token proves that it is still yours."""

    evaluation: Evaluation
    token: int


class _Flight(msgspec.Struct, gc=False):
    evaluation: Evaluation
    token: int
    deadline_ns: int
    over: bool = False  # ended by other means while it was out


class Broker:
    """See the module's text. Every method is synchronous and returns at once."""

    def __init__(self) -> None:
        self._ready: list[tuple[int, str]] = []  # a heap of (place, eval id)
        self._queued = 0  # how many evaluations were ever queued
        self._waiting: list[tuple[int, str]] = []  # (due, eval id); counts only while ``_due`` says the same
        self._due: dict[str, int] = {}
        self._evals: dict[str, Evaluation] = {}  # everything known that is not in flight
        self._job_owner: dict[Key, str] = {}  # the one evaluation of a job that is ready or in flight
        self._job_pending: dict[Key, dict[str, None]] = {}
        self._flights: dict[str, _Flight] = {}
        self._again: dict[str, Evaluation] = {}  # came back while in flight; queued when that is acknowledged
        self._deliveries: dict[str, int] = {}
        self._cancelable: dict[str, Evaluation] = {}
        self._failed: dict[str, Evaluation] = {}
        self._tokens = 0

    def enqueue(self, evaluation: Evaluation, now_ns: int) -> None:
        """Takes an evaluation in, or its newer record."""
        if evaluation.id in self._flights:
            if evaluation.modify_index > self._flights[evaluation.id].evaluation.modify_index:
                self._again[evaluation.id] = evaluation
            return
        if evaluation.id in self._failed:
            return
        self._cancelable.pop(evaluation.id, None)
        known = evaluation.id in self._evals
        self._evals[evaluation.id] = evaluation
        if known:
            return
        if evaluation.wait_until_ns > now_ns:
            self._wait(evaluation, evaluation.wait_until_ns)
        else:
            self._admit(evaluation)

    def forget(self, eval_id: str) -> None:
        """Drops an evaluation that ended by other means; one in flight is left to its worker, but not handed out
        again."""
        self._failed.pop(eval_id, None)
        self._cancelable.pop(eval_id, None)
        self._again.pop(eval_id, None)
        if eval_id in self._flights:
            self._flights[eval_id].over = True
        evaluation = self._evals.pop(eval_id, None)
        if evaluation is None:
            return
        self._due.pop(eval_id, None)
        key = _key(evaluation)
        self._leave_pending(key, eval_id)
        self._deliveries.pop(eval_id, None)
        if self._job_owner.get(key) == eval_id:
            del self._job_owner[key]
            self._promote(key)

    def dequeue(self, now_ns: int, limit: int) -> list[Delivery]:
        """Up to ``limit`` evaluations to work on, best first."""
        self.tick(now_ns)
        out: list[Delivery] = []
        deadline_ns = now_ns + NACK_TIMEOUT_NS
        while self._ready and len(out) < limit:
            _, eval_id = heapq.heappop(self._ready)
            evaluation = self._evals.get(eval_id)
            if evaluation is None or self._job_owner.get(_key(evaluation)) != eval_id:
                continue
            del self._evals[eval_id]
            self._tokens += 1
            self._deliveries[eval_id] = self._deliveries.get(eval_id, 0) + 1
            self._flights[eval_id] = _Flight(evaluation, self._tokens, deadline_ns)
            out.append(Delivery(evaluation, self._tokens))
        return out

    def ack(self, delivery: Delivery, now_ns: int) -> bool:
        """The evaluation is done. False when it had been taken away meanwhile."""
        eval_id = delivery.evaluation.id
        if self._take_back(delivery) is None:
            return False
        self._deliveries.pop(eval_id, None)
        key = _key(delivery.evaluation)
        del self._job_owner[key]
        again = self._again.pop(eval_id, None)
        if again is not None:
            self.enqueue(again, now_ns)
        self._promote(key, cancel_rest=True)
        return True

    def nack(self, delivery: Delivery, now_ns: int) -> bool:
        """The evaluation could not be worked on; it comes again after a delay, or has failed."""
        flight = self._take_back(delivery)
        if flight is None:
            return False
        evaluation = self._again.pop(delivery.evaluation.id, delivery.evaluation)
        deliveries = self._deliveries[evaluation.id]
        key = _key(evaluation)
        del self._job_owner[key]
        if flight.over or deliveries >= DELIVERY_LIMIT:
            del self._deliveries[evaluation.id]
            if not flight.over:
                self._failed[evaluation.id] = evaluation
        else:
            delay_ns = _FIRST_DELAY_NS if deliveries == 1 else (deliveries - 1) * _NEXT_DELAY_NS
            self._evals[evaluation.id] = evaluation
            self._wait(evaluation, now_ns + delay_ns)
        self._promote(key)
        return True

    def tick(self, now_ns: int) -> None:
        """Moves what has become due: waiting evaluations, and deliveries that nobody acknowledged."""
        for flight in [f for f in self._flights.values() if f.deadline_ns <= now_ns]:
            self.nack(Delivery(flight.evaluation, flight.token), now_ns)
        while self._waiting and self._waiting[0][0] <= now_ns:
            due, eval_id = heapq.heappop(self._waiting)
            if self._due.get(eval_id) == due:
                del self._due[eval_id]
                self._admit(self._evals[eval_id])

    def next_deadline(self) -> int | None:
        """When ``tick`` or ``dequeue`` should be called again, in Unix nanoseconds; None when nothing is timed."""
        times = [flight.deadline_ns for flight in self._flights.values()]
        while self._waiting and self._due.get(self._waiting[0][1]) != self._waiting[0][0]:
            heapq.heappop(self._waiting)
        if self._waiting:
            times.append(self._waiting[0][0])
        return min(times, default=None)

    def has_ready(self) -> bool:
        """Whether ``dequeue`` would probably return something."""
        return bool(self._ready)

    def take_cancelable(self) -> list[Evaluation]:
        """Evaluations that a newer one of their job has made needless; the caller stores them as cancelled."""
        out, self._cancelable = list(self._cancelable.values()), {}
        return out

    def take_failed(self) -> list[Evaluation]:
        """Evaluations that were delivered too often; the caller stores them as failed."""
        out, self._failed = list(self._failed.values()), {}
        return out

    def clear(self) -> None:
        """Forgets everything, as when leadership is lost."""
        self.__init__()  # type: ignore[misc]

    def statistics(self) -> BrokerStatistics:
        """How many evaluations wait for what."""
        waiting = len(self._due)
        pending = sum(len(ids) for ids in self._job_pending.values())
        return BrokerStatistics(
            ready=len(self._evals) - waiting - pending,
            unacked=len(self._flights),
            pending=pending,
            waiting=waiting,
            cancelable=len(self._cancelable),
            failed=len(self._failed),
        )

    def _wait(self, evaluation: Evaluation, due_ns: int) -> None:
        self._due[evaluation.id] = due_ns
        heapq.heappush(self._waiting, (due_ns, evaluation.id))

    def _leave_pending(self, key: Key, eval_id: str) -> None:
        pending = self._job_pending.get(key)
        if pending is not None:
            pending.pop(eval_id, None)
            if not pending:
                del self._job_pending[key]

    def _admit(self, evaluation: Evaluation) -> None:
        key = _key(evaluation)
        if key in self._job_owner:
            self._job_pending.setdefault(key, {})[evaluation.id] = None
            return
        self._job_owner[key] = evaluation.id
        self._queued += 1
        # One number that no other has: higher priority first, then the older, then the one that was queued earlier.
        place = (-evaluation.priority << 128) + (evaluation.create_index << 64) + self._queued
        heapq.heappush(self._ready, (place, evaluation.id))

    def _promote(self, key: Key, *, cancel_rest: bool = False) -> None:
        if key not in self._job_pending or key in self._job_owner:
            return
        waiting = [self._evals[eval_id] for eval_id in self._job_pending.pop(key) if eval_id in self._evals]
        if not waiting:
            return
        waiting.sort(key=_best_first)
        self._admit(waiting[0])
        for other in waiting[1:]:
            if cancel_rest:
                del self._evals[other.id]
                self._deliveries.pop(other.id, None)
                self._cancelable[other.id] = other
            else:
                self._job_pending.setdefault(key, {})[other.id] = None

    def _take_back(self, delivery: Delivery) -> _Flight | None:
        flight = self._flights.get(delivery.evaluation.id)
        if flight is None or flight.token != delivery.token:
            return None
        return self._flights.pop(delivery.evaluation.id)


def _key(evaluation: Evaluation) -> Key:
    return evaluation.namespace, evaluation.job_id


def _best_first(evaluation: Evaluation) -> tuple[int, int]:
    return -evaluation.priority, -evaluation.modify_index


def cancelled(evaluations: Iterable[Evaluation], why: str) -> tuple[Evaluation, ...]:
    """The evaluations in their cancelled form."""
    return tuple(
        evaluation.replace(status="canceled", status_description=why)
        for evaluation in evaluations
        if evaluation.status in (EVAL_PENDING, "blocked")
    )


FOLLOW_UP_DELAY_NS = 1 * MINUTE
FOLLOW_UP_SPREAD_NS = 5 * MINUTE
