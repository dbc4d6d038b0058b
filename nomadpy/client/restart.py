"""Whether a task that ended, or did not start, runs again: the restart policy of one task.

Source: Nomad's restart tracker; the table stands in the semantics of the restart block. The interval starts with the
first attempt; once it has passed, the count of failures starts anew.
"""

from __future__ import annotations

import enum
import random

import msgspec

from nomadpy.client.events import WITHIN_POLICY
from nomadpy.model.job import RestartPolicy
from nomadpy.model.time import format_duration

REASON_WITHIN_POLICY = WITHIN_POLICY
REASON_DELAY = "Exceeded allowed attempts, applying a delay"
REASON_UNRECOVERABLE = "Error was unrecoverable"
REASON_NO_RESTARTS = "Policy allows no restarts"
_JITTER = 0.25


class Verdict(enum.Enum):
    """What becomes of the task."""

    RESTART = "restart"
    GIVE_UP = "give up"  # the task failed
    DONE = "done"  # the task ended as it should


class Decision(msgspec.Struct, frozen=True):
    """A verdict, the time until the next attempt and the reason to show."""

    verdict: Verdict
    delay_ns: int = 0
    reason: str = ""


class RestartTracker:
    """Counts the failures of one task. Times are Unix nanoseconds."""

    def __init__(self, policy: RestartPolicy, *, restart_on_success: bool, now_ns: int) -> None:
        self._policy = policy
        self._restart_on_success = restart_on_success
        self._interval_start_ns = now_ns
        self._n_failures = 0

    def set_policy(self, policy: RestartPolicy) -> None:
        """Takes over the policy of a newer job version; what was counted stays counted."""
        self._policy = policy

    def after_exit(self, *, successful: bool, now_ns: int, rng: random.Random) -> Decision:
        """What follows when the task ended on its own."""
        if successful and not self._restart_on_success:
            return Decision(Verdict.DONE)
        return self._counted(now_ns, rng)

    def after_error(self, *, recoverable: bool, now_ns: int, rng: random.Random) -> Decision:
        """What follows when the task could not be prepared or started."""
        if not recoverable and self._policy.attempts:
            return Decision(Verdict.GIVE_UP, reason=REASON_UNRECOVERABLE)
        return self._counted(now_ns, rng)

    def _counted(self, now_ns: int, rng: random.Random) -> Decision:
        policy = self._policy
        if policy.attempts == 0:
            return Decision(Verdict.GIVE_UP, reason=REASON_NO_RESTARTS)
        if now_ns - self._interval_start_ns > policy.interval_ns:
            self._interval_start_ns, self._n_failures = now_ns, 0
        self._n_failures += 1
        if self._n_failures <= policy.attempts:
            delay_ns = policy.delay_ns + int(rng.random() * policy.delay_ns * _JITTER)
            return Decision(Verdict.RESTART, delay_ns, REASON_WITHIN_POLICY)
        if policy.mode == "delay":
            left_ns = max(0, self._interval_start_ns + policy.interval_ns - now_ns)
            # One nanosecond past the end, so that the next failure belongs to the next interval.
            return Decision(Verdict.RESTART, left_ns + 1, REASON_DELAY)
        interval = format_duration(policy.interval_ns)
        reason = f'Exceeded allowed attempts {policy.attempts} in interval {interval} and mode is "fail"'
        return Decision(Verdict.GIVE_UP, reason=reason)
