"""The virtual loop: what dies with a process, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pretend_trio as trio
import pytest
from virtual_loop import Killed, Loop, Process


class Observed:
    """A coroutine that notes what the loop does with it, and refuses to be closed while it runs."""

    def __init__(self, inner: Any) -> None:
        self._inner, self._runs, self.closed = inner, False, 0

    def send(self, value: Any) -> Any:
        return self._run(lambda: self._inner.send(value))

    def throw(self, error: BaseException) -> Any:
        return self._run(lambda: self._inner.throw(error))

    def close(self) -> None:
        assert not self._runs, "closed while it runs"
        self.closed += 1
        self._inner.close()

    def _run(self, action: Callable[[], Any]) -> Any:
        self._runs = True
        try:
            return action()
        finally:
            self._runs = False


@pytest.fixture
def loop() -> Loop:
    made = Loop()
    trio.use(made)
    return made


@pytest.mark.parametrize("caught", [False, True], ids=["dies of it", "catches it"])
def test_who_kills_its_own_process_is_closed_when_its_step_is_over(loop: Loop, caught: bool) -> None:
    process, seen = Process(loop, "p"), []

    async def neighbour() -> None:
        try:
            await trio.sleep_forever()
        finally:
            seen.append("the neighbour ends")

    async def killer() -> None:
        await trio.sleep(1.0)
        try:
            process.kill()
            seen.append("the step goes on")
            raise Killed
        except Killed:
            if not caught:
                raise
        try:
            await trio.sleep(1.0)
        finally:
            seen.append("the killer ends")
        seen.append("never")

    coroutines = [Observed(neighbour()), Observed(killer())]
    for coroutine in coroutines:
        process.start(coroutine)  # type: ignore[arg-type]
    loop.run(10.0)
    assert seen == ["the neighbour ends", "the step goes on", *(["the killer ends"] if caught else [])]
    assert all(coroutine.closed for coroutine in coroutines)


def test_a_cancelled_task_may_kill_its_process(loop: Loop) -> None:
    process, seen = Process(loop, "p"), []

    async def inner() -> None:
        try:
            await trio.sleep_forever()
        finally:
            process.kill()
            seen.append("the step goes on")

    async def outer() -> None:
        with trio.move_on_after(1.0):
            await inner()
        await trio.checkpoint()
        seen.append("never")

    coroutine = Observed(outer())
    process.start(coroutine)  # type: ignore[arg-type]
    loop.run(10.0)
    assert seen == ["the step goes on"]
    assert coroutine.closed


def test_a_child_that_is_begun_after_the_death_never_runs(loop: Loop) -> None:
    process, seen = Process(loop, "p"), []

    async def child() -> None:
        seen.append("never")

    begun = Observed(child())

    async def parent() -> None:
        async with trio.open_nursery() as nursery:
            process.kill()
            nursery.start_soon(lambda: begun)  # type: ignore[arg-type, return-value]

    process.start(parent())
    loop.run(10.0)
    assert seen == []
    assert begun.closed
