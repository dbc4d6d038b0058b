"""When a client beats next. Source: Nomad's client heartbeat rules; all times in seconds."""

from __future__ import annotations

import random

_FIRST_RETRY_S = (15.0, 30.0)
_SOONEST_RETRY_S = (1.0, 2.0)
_LATEST_RETRY_S = (25.0, 30.0)


def retry_delay_s(rng: random.Random, *, left_s: float | None, has_leader: bool) -> float:
    """The pause after a failed heartbeat.

    ``left_s`` is what is left of the lease (negative when overdue), None before the first success. Without a lease or
    a leader: 15–30 s. Otherwise random within what is left, but at least 1–2 s and at most 25–30 s.
    """
    if left_s is None or not has_leader:
        return rng.uniform(*_FIRST_RETRY_S)
    if left_s <= 0:
        overdue_s = -left_s
        return rng.uniform(*(_SOONEST_RETRY_S if overdue_s < _LATEST_RETRY_S[1] else _LATEST_RETRY_S))
    wait_s = rng.uniform(0, left_s)
    if wait_s < _SOONEST_RETRY_S[0]:
        return rng.uniform(*_SOONEST_RETRY_S)
    return min(wait_s, rng.uniform(*_LATEST_RETRY_S))
