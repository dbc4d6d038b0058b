"""How late the event loop is: a task that sleeps a little and looks by how much it overslept.

Whatever runs too long without letting others run shows here first, long before heartbeats or elections suffer.
"""

from __future__ import annotations

import collections

import trio

PERIOD_S = 0.05
# Figures are about the last half minute.
_KEPT = round(30 / PERIOD_S)


class LoopLag:
    """Watches while ``run`` runs."""

    def __init__(self) -> None:
        self._late_ms: collections.deque[float] = collections.deque(maxlen=_KEPT)

    async def run(self) -> None:
        """Samples until cancelled."""
        while True:
            due_s = trio.current_time() + PERIOD_S
            await trio.sleep_until(due_s)
            self._late_ms.append(max(0.0, trio.current_time() - due_s) * 1000)

    def quantiles(self) -> dict[str, float]:
        """Quantile → lag in milliseconds over the last half minute; empty before the first sample."""
        late_ms = sorted(self._late_ms)
        if not late_ms:
            return {}
        return {name: late_ms[min(len(late_ms) - 1, int(len(late_ms) * float(name)))] for name in ("0.5", "0.99", "1")}
