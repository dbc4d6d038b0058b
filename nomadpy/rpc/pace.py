"""Many things at once, without holding up everybody else: some at a time, and fewer while the event loop is late."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

AT_ONCE, LEAST = 64, 8
PAUSE_S = 0.002
# Waking up so much later than meant means that the loop has enough to do.
_LATE_S = 0.004


class Pace:
    """How many things are begun at once. A machine."""

    def __init__(self) -> None:
        self.at_once = AT_ONCE

    def woke(self, late_s: float) -> None:
        """After the pause, that lasted so much longer than meant."""
        self.at_once = max(LEAST, self.at_once // 2) if late_s > _LATE_S else min(AT_ONCE, 2 * self.at_once)

    async def rest(self) -> None:
        """The pause until the next ones."""
        due_s = trio.current_time() + PAUSE_S
        await trio.sleep_until(due_s)
        self.woke(trio.current_time() - due_s)


async def do_in_turns(actions: Sequence[Callable[[], None]], *, while_true: Callable[[], bool]) -> None:
    """Does all of it, as long as that is true."""
    pace, first = Pace(), 0
    while first < len(actions) and while_true():
        until = first + pace.at_once
        for action in actions[first:until]:
            action()
        first = until
        await pace.rest()
