"""The life of one task, without doing any of it: events in, effects out.

    GATED ──gate──▶ PREPARING ──▶ STARTING ──▶ RUNNING ──exit──▶ BACKOFF ──delay──▶ PREPARING …
      │                 │            │            │ kill, restart     │
      └────── kill ─────┴────────────┴────────▶ STOPPING ──exit──▶ DEAD (or again, after a restart)

``TRANSITIONS`` names the rule for every pair of phase and event; a pair that means nothing (an answer that came too
late) is written down as ``_ignore``. The runner carries effects out in order and tells the machine what became of them.

The phase is finer than ``TaskState.state``, which is what the world sees. Not handled here: in which order the tasks
of a group start and stop (``lifecycle.py``).
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable

import msgspec

from nomadpy.client import events as ev
from nomadpy.client.restart import Decision, RestartTracker, Verdict
from nomadpy.drivers.contract import ExitResult
from nomadpy.model.alloc import TASK_DEAD, TASK_PENDING, TASK_RUNNING, TaskEvent, TaskState


class Phase(enum.Enum):
    """Where a task is in its life."""

    GATED = "gated"
    PREPARING = "preparing"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    DEAD = "dead"


# --- events ---------------------------------------------------------------------------------------------------------


class GateOpened(msgspec.Struct, frozen=True):
    """The lifecycle lets the task start."""


class Prepared(msgspec.Struct, frozen=True):
    """All prestart hooks are through."""


class AttemptFailed(msgspec.Struct, frozen=True):
    """Preparing or starting failed. ``event`` tells it to the world."""

    event: TaskEvent
    recoverable: bool = True


class Launched(msgspec.Struct, frozen=True):
    """The driver runs the task and its handle is stored."""


class Abandoned(msgspec.Struct, frozen=True):
    """Preparing or starting was called off and left nothing behind."""


class Exited(msgspec.Struct, frozen=True):
    """The task ended."""

    result: ExitResult


class DelayOver(msgspec.Struct, frozen=True):
    """The pause that ``Sleep`` with the same number asked for has passed."""

    number: int


class StopFailed(msgspec.Struct, frozen=True):
    """The driver could not stop the task, however often it was asked."""

    error: str


class Restart(msgspec.Struct, frozen=True):
    """Someone wants the running task to start afresh; with ``regate`` it waits for its lifecycle gate again."""

    reason: str
    regate: bool = False


class Revive(msgspec.Struct, frozen=True):
    """Someone wants the dead task to run again."""

    reason: str


class Kill(msgspec.Struct, frozen=True):
    """The task must end for good. ``because`` is shown before the kill itself."""

    because: TaskEvent | None = None
    reason: str = ""
    skip_delay: bool = False


Event = (
    GateOpened
    | Prepared
    | AttemptFailed
    | Launched
    | Abandoned
    | Exited
    | DelayOver
    | StopFailed
    | Restart
    | Revive
    | Kill
)
EVENTS: tuple[type[msgspec.Struct], ...] = (
    GateOpened,
    Prepared,
    AttemptFailed,
    Launched,
    Abandoned,
    Exited,
    DelayOver,
    StopFailed,
    Restart,
    Revive,
    Kill,
)


# --- effects --------------------------------------------------------------------------------------------------------


class Prepare(msgspec.Struct, frozen=True):
    """Run the prestart hooks; answer Prepared, AttemptFailed or Abandoned."""


class Launch(msgspec.Struct, frozen=True):
    """Start the task; answer Launched, AttemptFailed or Abandoned."""


class Watch(msgspec.Struct, frozen=True):
    """Wait for the end of the task; answer Exited."""


class Stop(msgspec.Struct, frozen=True):
    """Make the driver stop the task; the answer is Exited from Watch, or StopFailed."""


class Retire(msgspec.Struct, frozen=True):
    """Run what precedes the stop, such as taking the task's services out of the catalogue."""


class CallOff(msgspec.Struct, frozen=True):
    """Cancel preparing or starting."""


class Sleep(msgspec.Struct, frozen=True):
    """Answer DelayOver with ``number`` after ``delay_ns``."""

    number: int
    delay_ns: int


class CleanUp(msgspec.Struct, frozen=True):
    """Store the state, then remove what the driver keeps of the attempt that is over."""


class Save(msgspec.Struct, frozen=True):
    """Store the state."""


Effect = Prepare | Launch | Watch | Retire | Stop | CallOff | Sleep | CleanUp | Save


class TaskRules(msgspec.Struct, frozen=True, kw_only=True):
    """What the job says about the end of the task; nanoseconds."""

    shutdown_delay_ns: int = 0
    kill_timeout_ns: int = 0


class TaskMachine:
    """One task. ``state`` is what the world sees and changes only inside ``step``."""

    def __init__(
        self, rules: TaskRules, tracker: RestartTracker, *, rng: random.Random, state: TaskState | None = None
    ):
        self.rules = rules
        self.tracker = tracker
        self.state = state or TaskState()
        self.phase = Phase.DEAD if self.state.state == TASK_DEAD else Phase.GATED
        self._rng = rng
        self._killing = False
        self._regate = False
        self._in_shutdown_delay = False
        self._sleep_number = 0
        self._now_ns = 0

    # -- the three ways into life ------------------------------------------------------------------------------------

    def receive(self, now_ns: int) -> list[Effect]:
        """A task that was never seen before."""
        self._now_ns = now_ns
        self._tell(ev.received(now_ns))
        return []

    def resume_running(self, now_ns: int) -> list[Effect]:
        """A task that a driver took over from an earlier agent."""
        self._now_ns = now_ns
        self.phase = Phase.RUNNING
        self.state = self.state.replace(state=TASK_RUNNING)
        return [Watch()]

    def resume_unstarted(self, now_ns: int, because: TaskEvent | None = None) -> list[Effect]:
        """A task that an earlier agent had not started, or that could not be taken over."""
        self._now_ns = now_ns
        self.phase = Phase.GATED
        self.state = self.state.replace(state=TASK_PENDING)
        if because is not None:
            self._tell(because)
        return [Save()]

    # -- one step ----------------------------------------------------------------------------------------------------

    def step(self, event: Event, now_ns: int) -> list[Effect]:
        """What to do because of ``event``. Unknown pairs of phase and event are a hole in the table: KeyError."""
        self._now_ns = now_ns
        return TRANSITIONS[self.phase][type(event)](self, event)

    def _tell(self, event: TaskEvent) -> None:
        self.state = ev.append_event(self.state, event)

    def _ignore(self, event: Event) -> list[Effect]:
        return []

    def _prepare(self, event: Event) -> list[Effect]:
        self.phase = Phase.PREPARING
        return [Prepare()]

    def _launch(self, event: Event) -> list[Effect]:
        self.phase = Phase.STARTING
        return [Launch()]

    def _running(self, event: Event) -> list[Effect]:
        self.phase = Phase.RUNNING
        started_ns = self.state.started_at_ns or self._now_ns
        self.state = self.state.replace(state=TASK_RUNNING, failed=False, started_at_ns=started_ns)
        self._tell(ev.started(self._now_ns))
        return [Save(), Watch()]

    def _setup_failed(self, event: AttemptFailed) -> list[Effect]:
        """The allocation around the task could not be set up; no policy brings it back."""
        self._tell(event.event)
        return self._die(failed=True)

    def _attempt_failed(self, event: AttemptFailed) -> list[Effect]:
        self._tell(event.event)
        decision = self.tracker.after_error(recoverable=event.recoverable, now_ns=self._now_ns, rng=self._rng)
        return self._decided(decision, self._now_ns)

    def _exited(self, event: Exited) -> list[Effect]:
        ended_ns = self._ended_ns(event.result)
        self._tell(ev.terminated(ended_ns, event.result))
        successful = event.result.successful()
        decision = self.tracker.after_exit(successful=successful, now_ns=self._now_ns, rng=self._rng)
        return self._decided(decision, ended_ns)

    def _ended_ns(self, result: ExitResult) -> int:
        """When the task ended, which may be long ago if no agent watched; never before the last event nor after now,
        so that the order of events is the order of their times."""
        last_ns = self.state.events[-1].time_ns if self.state.events else 0
        return min(max(result.finished_at_ns, last_ns), self._now_ns) if result.finished_at_ns else self._now_ns

    def _decided(self, decision: Decision, ended_ns: int) -> list[Effect]:
        if decision.verdict is Verdict.RESTART:
            return self._back_off(decision.delay_ns, decision.reason)
        if decision.verdict is Verdict.GIVE_UP:
            self._tell(ev.not_restarting(self._now_ns, decision.reason))
        return self._die(failed=decision.verdict is Verdict.GIVE_UP, ended_ns=ended_ns)

    def _back_off(self, delay_ns: int, reason: str) -> list[Effect]:
        self.phase = Phase.BACKOFF
        self._note_restart()
        self._tell(ev.restarting(self._now_ns, reason, delay_ns))
        return [CleanUp(), self._sleep(delay_ns)]

    def _note_restart(self) -> None:
        restarts = self.state.restarts + 1
        self.state = self.state.replace(state=TASK_PENDING, restarts=restarts, last_restart_ns=self._now_ns)

    def _sleep(self, delay_ns: int) -> Sleep:
        self._sleep_number += 1
        return Sleep(self._sleep_number, delay_ns)

    def _die(self, *, failed: bool, ended_ns: int = 0) -> list[Effect]:
        self.phase = Phase.DEAD
        self._killing = self._regate = self._in_shutdown_delay = False
        self.state = self.state.replace(state=TASK_DEAD, failed=failed, finished_at_ns=ended_ns or self._now_ns)
        return [CleanUp()]

    def _backoff_over(self, event: DelayOver) -> list[Effect]:
        return self._prepare(event) if event.number == self._sleep_number else []

    # -- stopping ----------------------------------------------------------------------------------------------------

    def _announce_kill(self, event: Kill) -> None:
        if event.because is not None:
            self._tell(event.because)
        self._tell(ev.killing(self._now_ns, self.rules.kill_timeout_ns, event.reason))
        self._killing = True

    def _kill_idle(self, event: Kill) -> list[Effect]:
        """Nothing runs and nothing is under way."""
        self._announce_kill(event)
        self._tell(ev.killed(self._now_ns))
        return self._die(failed=False)

    def _kill_attempt(self, event: Kill) -> list[Effect]:
        """Preparing or starting is under way; whichever answer comes, the task ends."""
        self._announce_kill(event)
        self.phase = Phase.STOPPING
        return [CallOff()]

    def _kill_running(self, event: Kill) -> list[Effect]:
        self._announce_kill(event)
        self.phase = Phase.STOPPING
        delay_ns = self.rules.shutdown_delay_ns
        if delay_ns and not event.skip_delay:
            self._tell(ev.waiting_shutdown_delay(self._now_ns, delay_ns))
            self._in_shutdown_delay = True
            return [Save(), Retire(), self._sleep(delay_ns)]
        if delay_ns:
            self._tell(ev.skipping_shutdown_delay(self._now_ns))
        return [Retire(), *self._send_stop()]

    def _send_stop(self) -> list[Effect]:
        self._in_shutdown_delay = False
        return [Save(), Stop()]

    def _kill_again(self, event: Kill) -> list[Effect]:
        """A kill overrules a restart under way, and an impatient kill overrules the shutdown delay."""
        if not self._killing:
            self._announce_kill(event)
            return []
        if event.skip_delay and self._in_shutdown_delay:
            self._tell(ev.skipping_shutdown_delay(self._now_ns))
            return self._send_stop()
        return []

    def _shutdown_delay_over(self, event: DelayOver) -> list[Effect]:
        return self._send_stop() if self._in_shutdown_delay and event.number == self._sleep_number else []

    def _launched_too_late(self, event: Launched) -> list[Effect]:
        started = self._running(event)
        self.phase = Phase.STOPPING
        return [*started, *self._send_stop()]

    def _stopped(self, event: Exited) -> list[Effect]:
        ended_ns = self._ended_ns(event.result)
        self._tell(ev.terminated(ended_ns, event.result))
        if self._killing:
            return self._killed(event, ended_ns)
        return self._start_afresh()

    def _start_afresh(self) -> list[Effect]:
        regate, self._regate = self._regate, False
        self._note_restart()
        self._tell(ev.restarting(self._now_ns, "", 0))
        if regate:
            self.phase = Phase.GATED
            return [CleanUp()]
        self.phase = Phase.BACKOFF
        return [CleanUp(), self._sleep(0)]

    def _killed(self, event: Event, ended_ns: int = 0) -> list[Effect]:
        self._tell(ev.killed(self._now_ns))
        return self._die(failed=False, ended_ns=ended_ns)

    def _unstoppable(self, event: StopFailed) -> list[Effect]:
        self._tell(ev.killed(self._now_ns, event.error))
        effects = self._die(failed=True)
        # The driver's handle stays stored: what could not be stopped may be found again by a later agent.
        return [Save() if isinstance(effect, CleanUp) else effect for effect in effects]

    # -- orders from people ------------------------------------------------------------------------------------------

    def _restart_running(self, event: Restart) -> list[Effect]:
        self._tell(ev.restart_signaled(self._now_ns, event.reason))
        self.phase = Phase.STOPPING
        self._regate = event.regate
        return [Retire(), *self._send_stop()]

    def _revive(self, event: Revive) -> list[Effect]:
        self._tell(ev.restart_signaled(self._now_ns, event.reason))
        self.phase = Phase.GATED
        self._note_restart()
        self.state = self.state.replace(failed=False, finished_at_ns=0)
        return [Save()]


_Rule = Callable[[TaskMachine, "Event"], "list[Effect]"]
_M = TaskMachine


def _row(**rules: Callable[..., list[Effect]]) -> dict[type[msgspec.Struct], _Rule]:
    return {event: rules.get(event.__name__, _M._ignore) for event in EVENTS}


TRANSITIONS: dict[Phase, dict[type[msgspec.Struct], _Rule]] = {
    Phase.GATED: _row(GateOpened=_M._prepare, AttemptFailed=_M._setup_failed, Kill=_M._kill_idle),
    Phase.PREPARING: _row(Prepared=_M._launch, AttemptFailed=_M._attempt_failed, Kill=_M._kill_attempt),
    Phase.STARTING: _row(Launched=_M._running, AttemptFailed=_M._attempt_failed, Kill=_M._kill_attempt),
    Phase.RUNNING: _row(Exited=_M._exited, Kill=_M._kill_running, Restart=_M._restart_running),
    Phase.STOPPING: _row(
        Exited=_M._stopped,
        Launched=_M._launched_too_late,
        Prepared=_M._killed,
        AttemptFailed=_M._killed,
        Abandoned=_M._killed,
        DelayOver=_M._shutdown_delay_over,
        StopFailed=_M._unstoppable,
        Kill=_M._kill_again,
    ),
    Phase.BACKOFF: _row(DelayOver=_M._backoff_over, Kill=_M._kill_idle),
    Phase.DEAD: _row(Revive=_M._revive),
}
