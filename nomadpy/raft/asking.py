"""Tasks that wait for the replicated log: what each one asked, until when it waits, and what came of it.

Thousands wait at once, so that no one has a timer of its own: one task (``Asking.run``) sleeps until the earliest
deadline of all. A request that is answered in time costs one sleep and one waking.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from nomadpy.model.errors import NoLeader, OutcomeUnknown, TimedOut
from nomadpy.raft.core import Core
from nomadpy.raft.replica import Answer


class Request:
    """What a task waits for; ``begin`` hands it to the core, with itself as the ticket. One that is ``at_once`` is
    answered as soon as that was done. ``taken``: it was handed over; ``abandoned``: nobody waits any more."""

    __slots__ = ("abandoned", "answer", "at_once", "begin", "deadline", "over", "size", "taken", "task", "writes")

    def __init__(
        self, begin: Callable[[Core, object], None], *, writes: bool, size: int = 0, at_once: bool = False
    ) -> None:
        self.begin, self.writes, self.size, self.at_once = begin, writes, size, at_once
        self.deadline = math.inf
        self.task: trio.lowlevel.Task | None = None
        self.answer: Answer | None = None
        self.taken = self.abandoned = self.over = False


class Asking:
    """All requests that are open. ``put(request)`` hands one to the log, and waits only while that has no room."""

    def __init__(self) -> None:
        # In the order in which they came, so that their tasks go on in an order that does not depend on chance.
        self._open: dict[Request, None] = {}
        self._sleep = trio.CancelScope()

    async def run(self) -> None:
        """Ends the waiting of those whose time is over, until cancelled."""
        while True:
            self._sleep = trio.CancelScope(deadline=min((request.deadline for request in self._open), default=math.inf))
            with self._sleep:
                await trio.sleep_forever()
            now = trio.current_time()
            for request in [request for request in self._open if request.deadline <= now]:
                self._end(request)

    async def ask(self, events: trio.MemorySendChannel[Request], request: Request, timeout_s: float) -> Answer:
        """Hands a request over and waits for its answer. Raises what the answer says; TimedOut when nothing was done
        within ``timeout_s``, NoLeader when the log stopped; OutcomeUnknown when either came too late to know."""
        request.deadline = trio.current_time() + timeout_s
        self._open[request] = None
        if request.deadline < self._sleep.deadline:
            self._sleep.deadline = request.deadline
        try:
            await self._hand_over(events, request)
            await self._wait(request)
        finally:
            self._open.pop(request, None)
            request.abandoned = request.over = True
        if request.answer is None:
            raise self._no_answer(request, timeout_s)
        if request.answer.error is not None:
            raise request.answer.error
        return request.answer

    def answer(self, answer: Answer) -> None:
        """Wakes whoever waits for it."""
        request = answer.ticket
        if isinstance(request, Request) and not request.over:
            request.answer = answer
            self._end(request)

    def stop(self) -> None:
        """No request is answered any more."""
        for request in list(self._open):
            self._end(request)

    async def _hand_over(self, events: trio.MemorySendChannel[Request], request: Request) -> None:
        try:
            events.send_nowait(request)
        except trio.WouldBlock:
            with trio.move_on_at(request.deadline):
                await events.send(request)

    async def _wait(self, request: Request) -> None:
        if request.over:
            return

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            request.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        request.task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    def _end(self, request: Request) -> None:
        """Nothing more comes of it: whoever waits goes on."""
        request.over = True
        self._open.pop(request, None)
        if request.task is not None:
            task, request.task = request.task, None
            trio.lowlevel.reschedule(task)

    def _no_answer(self, request: Request, timeout_s: float) -> Exception:
        late = trio.current_time() >= request.deadline
        if request.taken and request.writes:
            if late:
                return OutcomeUnknown(f"the entry was proposed, but not committed within {timeout_s} s")
            return OutcomeUnknown("the replicated log stopped before it answered")
        if late:
            return TimedOut(f"the replicated log did not answer within {timeout_s} s; nothing was changed")
        return NoLeader("the replicated log stopped")
