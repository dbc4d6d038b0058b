"""User events: each is heard once by every agent that hears it soon enough.

A Lamport clock orders them. Who has heard an event remembers it for the next ``_WINDOW`` moments; what is older than
that is refused, because it could no longer be told from a repetition.
"""

from __future__ import annotations

from nomadpy.gossip.contract import UserEvent
from nomadpy.gossip.messages import STATEMENT_BYTES_MAX, Event, encode
from nomadpy.gossip.outputs import Heard
from nomadpy.gossip.pool import Pool
from nomadpy.model.errors import Invalid

_WINDOW = 512
_RECENT = 32
_RECENT_S = 60.0
_SLOT = -2


class Events:
    """What was heard, and what is new."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._clock = 0
        self._seen: dict[Event, float] = {}

    def send(self, now: float, event: UserEvent) -> None:
        """A new event of this agent; it hears it itself, too. Raises Invalid when it does not fit into a packet."""
        said = Event(self._clock + 1, self._pool.me.name, event.name or "event", event.payload)
        if len(event.name) > 255 or (size := len(encode(said))) > STATEMENT_BYTES_MAX:
            raise Invalid(
                f"the event {event.name[:40]!r} has {size if len(event.name) <= 255 else len(event.name)} bytes; "
                f"a name takes up to 255, an event with its payload up to {STATEMENT_BYTES_MAX}"
            )
        self.heard(now, said)

    def heard(self, now: float, said: Event) -> None:
        """An event that came in; passed on when it is new."""
        if said in self._seen or said.moment + _WINDOW <= self._clock:
            return
        self._clock = max(self._clock, said.moment)
        self._seen[said] = now
        self._forget()
        self._pool.broadcast(now, (f"{said.moment} {said.sender} {said.name}", _SLOT), encode(said))
        self._pool.outputs.append(Heard(UserEvent(name=said.name, payload=said.payload, sender=said.sender)))

    def _forget(self) -> None:
        while len(self._seen) > _WINDOW:
            oldest = min(self._seen, key=lambda event: event.moment)
            del self._seen[oldest]

    def recent(self, now: float) -> list[Event]:
        """The newest of the last minute, for an exchange."""
        recent = [event for event, at in self._seen.items() if at > now - _RECENT_S]
        return sorted(recent, key=lambda event: event.moment)[-_RECENT:]

    def skip(self, events: list[Event]) -> None:
        """Moves the clock past what happened before this agent came; it does not hear it."""
        for event in events:
            self._clock = max(self._clock, event.moment)
            self._seen.setdefault(event, float("-inf"))
        self._forget()
