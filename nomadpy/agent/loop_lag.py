"""How late the event loop is: a task that sleeps a little and looks by how much it overslept.

Whatever runs too long without letting others run shows here first, long before heartbeats or elections suffer.
"""

from __future__ import annotations

import collections
import itertools

import trio

PERIOD_S = 0.05
# Figures are about the last half minute.
_KEPT = round(30 / PERIOD_S)
# A quiet moment: so many samples, none of which was later than that.
_MOMENT, _QUIET_MS = round(2 / PERIOD_S), 10.0


class LoopLag:
    """Watches while ``run`` runs."""

    def __init__(self) -> None:
        self._late_ms: collections.deque[float] = collections.deque(maxlen=_KEPT)

    async def run(self) -> None:
        """Samples until cancelled."""
        while True:
            due_s = trio.current_time() + PERIOD_S
            await trio.sleep_until(due_s)
            self.note(max(0.0, trio.current_time() - due_s) * 1000)

    def note(self, late_ms: float) -> None:
        """One more sample."""
        self._late_ms.append(late_ms)

    def is_quiet(self) -> bool:
        """Whether nothing has held the loop up for a moment."""
        latest_ms = itertools.islice(reversed(self._late_ms), _MOMENT)
        return max(latest_ms, default=0.0) < _QUIET_MS

    def quantiles(self) -> dict[str, float]:
        """Quantile → lag in milliseconds over the last half minute; empty before the first sample."""
        late_ms = sorted(self._late_ms)
        if not late_ms:
            return {}
        return {name: late_ms[min(len(late_ms) - 1, int(len(late_ms) * float(name)))] for name in ("0.5", "0.99", "1")}
