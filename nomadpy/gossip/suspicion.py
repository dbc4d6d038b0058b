"""How long to doubt: Lifeguard's suspicion timeout and local health.

Source: Dadgar, Phillips, Currey, "Lifeguard: Local Health Awareness for More Accurate Failure Detection" (2018), §IV.
"""

from __future__ import annotations

import math


class Suspicion:
    """One doubted member. It has ``longest_s`` to contradict, and less with each independent confirmation, down to
    ``shortest_s`` with ``wanted`` of them (with none wanted it is ``shortest_s`` at once)."""

    def __init__(self, now: float, by: str, *, shortest_s: float, longest_s: float, wanted: int) -> None:
        self._shortest_s, self._longest_s, self._wanted = shortest_s, longest_s, wanted
        self.started = now
        self.witnesses = [by]

    def confirm(self, by: str) -> bool:
        """Counts another witness. False when it is known, or enough have spoken."""
        if by in self.witnesses or len(self.witnesses) > self._wanted:
            return False
        self.witnesses.append(by)
        return True

    def timeout_s(self) -> float:
        """How long it lasts from its start on.

        >>> doubt = Suspicion(0.0, "a", shortest_s=2.0, longest_s=6.0, wanted=2)
        >>> before = doubt.timeout_s(); _ = doubt.confirm("b"); once = doubt.timeout_s(); _ = doubt.confirm("c")
        >>> before, round(once, 2), doubt.timeout_s()
        (6.0, 3.48, 2.0)
        """
        confirmed = len(self.witnesses) - 1
        if confirmed >= self._wanted:
            return self._shortest_s
        share = math.log(confirmed + 1) / math.log(self._wanted + 1)
        return max(self._shortest_s, self._longest_s - share * (self._longest_s - self._shortest_s))

    def deadline(self) -> float:
        """When the member counts as failed."""
        return self.started + self.timeout_s()


class Awareness:
    """This agent's trust in its own hearing: 0 is well, ``worst`` means that it hardly hears anybody."""

    def __init__(self, worst: int) -> None:
        self._worst = worst
        self.score = 0

    def add(self, delta: int) -> None:
        """Moves the score, within its bounds."""
        self.score = min(self._worst, max(0, self.score + delta))

    def stretch(self, seconds: float) -> float:
        """A time of waiting, longer the worse the score is."""
        return seconds * (self.score + 1)
