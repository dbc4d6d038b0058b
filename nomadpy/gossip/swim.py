"""The machine of gossip: SWIM with suspicion and Lifeguard, without sockets and clocks.

    packet, deadline, wish ──▶ Swim ──▶ outputs: packets to send, TCP calls to make, what to log

Source: Das, Gupta, Motivala, "SWIM" (2002); Dadgar et al., "Lifeguard" (2018). The parts are ``probing`` (who is
asked), ``claims`` (which statements hold), ``exchange`` (anti-entropy), ``events``; they stand on ``pool``. All times
are seconds of one monotonic clock. After every call ``take_outputs`` has what is to be done, and ``next_deadline`` says
when ``tick`` is to be called. Not handled here: keys, refusals of joins, which are the driver's.

An agent that did not run for a while (stopped, swapped, a long computation) sees its deadlines passed although the
answers may lie in its socket. So every call first compares the time with the promised one: by what it is late, pending
verdicts move back; after a real pause they are dropped, suspicions start again, and others are asked for the news.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from nomadpy.gossip import health as digest
from nomadpy.gossip.claims import Claims
from nomadpy.gossip.contract import LEAVING, Health, Member, UserEvent
from nomadpy.gossip.events import Events
from nomadpy.gossip.exchange import Exchanges
from nomadpy.gossip.messages import (
    ALIVE,
    FAILED,
    PRUNED,
    STATEMENT_BYTES_MAX,
    SUSPECT,
    Ack,
    Alive,
    Ask,
    Event,
    Exchange,
    Failed,
    Fresh,
    Left,
    Nack,
    Ping,
    Suspect,
    decode,
    encode,
)
from nomadpy.gossip.outputs import CallFor, Output
from nomadpy.gossip.pool import Counters, Pool, Record
from nomadpy.gossip.probing import Prober
from nomadpy.gossip.settings import GossipSettings
from nomadpy.model.errors import Invalid

# Even without a deadline the machine wants to be called this often, lest a pause goes unnoticed.
_PULSE_S = 1.0
# Being late by less than this is usual.
_LATE_S = 0.1
# How often an unknown agent that pings this one is called back at most.
_CALL_BACK_S = 2.0
_DELAYED = frozenset(("probe", "nack", "errand"))


class Swim:
    """One agent's view of the pool. ``address`` and ``port`` are where others reach it. Raises Invalid when its name or
    tags do not fit into a packet."""

    def __init__(
        self,
        name: str,
        address: str,
        port: int,
        tags: dict[str, str],
        *,
        settings: GossipSettings,
        rng: random.Random,
        now: float,
    ) -> None:
        if not 0 < len(name) <= 255:
            raise Invalid(f"the gossip name {name[:40]!r} must have 1 to 255 characters")
        settings.check()
        self._pool = pool = Pool(Record(name, address, port, dict(tags), now=now), settings, rng)
        _check_size(pool.me)
        self._prober = Prober(pool, self._silent)
        self._claims = Claims(pool, self._prober.joined, self._prober.probe)
        self._exchanges = Exchanges(pool, self._claims)
        self._events = Events(pool)
        self._last = now
        self._call_back_at = now
        self._told: Health | None = None
        self._on_message: dict[type, Callable[[float, Any, tuple[str, int]], None]] = {
            Ping: self._pinged,
            Ask: lambda now, said, place: self._prober.asked(now, said, place),
            Ack: lambda now, said, place: self._acked(now, said),
            Nack: lambda now, said, place: self._prober.nacked(said),
            Alive: lambda now, said, place: self._claims.alive(now, said),
            Suspect: self._accused,
            Failed: self._accused,
            Left: lambda now, said, place: self._claims.left(now, said),
            Fresh: lambda now, said, place: self._claims.fresh(now, said),
            Event: lambda now, said, place: self._events.heard(now, said),
        }
        self._on_deadline: dict[str, Callable[[float, Any], None]] = {
            "period": lambda now, key: self._prober.period(now),
            "probe": self._prober.overdue,
            "nack": self._prober.nack_due,
            "errand": lambda now, key: self._prober.errand_over(key),
            "suspicion": self._claims.expire,
            "gossip": lambda now, key: self._gossip(now),
            "exchange": lambda now, key: self._exchanges.periodic(now),
            "reconnect": lambda now, key: self._exchanges.reconnect(now),
            "reap": lambda now, key: self._exchanges.reap(now),
            "challenge": lambda now, key: None,
        }
        for kind, every in (("period", settings.period_s), ("exchange", settings.exchange_s)):
            pool.timers.set((kind, ""), now + rng.uniform(0.0, every))
        pool.timers.set(("reconnect", ""), now + rng.uniform(0.5, 1.0) * settings.reconnect_s)
        pool.timers.set(("reap", ""), now + rng.uniform(30.0, 60.0))

    # --- time and packets

    def receive(self, now: float, payload: bytes, place: tuple[str, int]) -> None:
        """A packet's payload from there. Garbage is counted and dropped."""
        self._notice_pause(now)
        try:
            messages = decode(payload)
        except Invalid:
            self._pool.counters.garbage += 1
            return
        for message in messages:
            self._on_message[type(message)](now, message, place)

    def tick(self, now: float) -> None:
        """Does what is due."""
        self._notice_pause(now)
        while (key := self._pool.timers.pop_due(now)) is not None:
            self._on_deadline[key[0]](now, key[1])

    def next_deadline(self) -> float:
        """When ``tick`` is to be called; nothing is lost by calling it earlier."""
        return min(self._pool.timers.earliest(), self._last + _PULSE_S)

    def take_outputs(self) -> list[Output]:
        """What is to be done since the last call, in order."""
        outputs, self._pool.outputs = self._pool.outputs, []
        return outputs

    def _notice_pause(self, now: float) -> None:
        late = now - self.next_deadline()
        self._last = now
        if late < _LATE_S:
            return
        if late < self._pool.settings.pause_s:
            self._pool.timers.shift(_DELAYED, late)
            self._claims.delay_suspicions(late)
            return
        self._pool.counters.pauses += 1
        self._prober.abandon()
        self._claims.restart_suspicions(now)
        self._pool.awareness.add(2)
        self._exchanges.call_for(2)

    def _gossip(self, now: float) -> None:
        pool = self._pool
        listeners = pool.listeners(now)
        for record in pool.rng.sample(listeners, min(pool.settings.gossip_fanout, len(listeners))):
            pool.send(record.place, [])
        if len(pool.queue) and listeners:
            pool.timers.set(("gossip", ""), now + pool.settings.gossip_s)

    def _accused(self, now: float, said: Suspect | Failed, place: tuple[str, int]) -> None:
        if isinstance(said, Suspect):
            self._claims.suspect(now, said)
        else:
            self._claims.failed(now, said)
        pool = self._pool
        record = pool.me if said.name == pool.me.name else pool.others.get(said.name)
        if record is None or record.rank != ALIVE or said.incarnation >= record.incarnation or pool.leaving:
            return
        # The sender missed the refutation, unless that is still being passed on and on its way.
        if (record.name, 0) not in pool.queue:
            pool.send(place, [record.statement()])

    # --- probes

    def _pinged(self, now: float, ping: Ping, place: tuple[str, int]) -> None:
        if ping.target != self._pool.me.name:
            self._pool.counters.misdirected += 1
            return
        messages = [encode(self.ack(ping.number))]
        record = self._pool.others.get(ping.source)
        if record is None:
            self._call_back(now, ping.source, place)
        elif record.rank != ALIVE:
            messages.append(_verdict(record, self._pool.me.name))
        self._pool.send(place, messages)

    def _call_back(self, now: float, source: str, place: tuple[str, int]) -> None:
        # It knows this agent but not the other way round: this one was restarted.
        if now >= self._call_back_at and source != self._pool.me.name and not self._pool.leaving:
            self._call_back_at = now + _CALL_BACK_S
            self._pool.outputs.append(CallFor(*place))

    def ack(self, number: int) -> Ack:
        """The answer to a ping, over UDP or TCP."""
        me = self._pool.me
        return Ack(number, me.name, self._pool.instance, me.incarnation, me.beat, me.digest)

    def acked(self, now: float, ack: Ack) -> None:
        """An answer that came over TCP."""
        self._notice_pause(now)
        self._acked(now, ack)

    def _acked(self, now: float, ack: Ack) -> None:
        record = self._prober.acked(ack)
        if record is not None:
            record.acked_at = now
            self._claims.fresh(now, Fresh(ack.source, ack.incarnation, ack.beat, ack.digest), spread=False)

    def _silent(self, now: float, said: Suspect) -> None:
        self._claims.suspect(now, said, heard=False)

    def answered(self, name: str) -> float | None:
        """When another member last answered a probe of this agent; minus infinity when it never did, None when it is
        not asked: unknown, or this agent itself."""
        record = self._pool.others.get(name)
        return record.acked_at if record is not None else None

    def confirm(self, now: float, name: str) -> None:
        """Probes a member at once."""
        self._prober.probe(now, name)

    # --- exchanges

    def exchange(self, now: float, *, join: bool) -> Exchange:
        """Everything, for another agent. ``join`` when this agent is new to it."""
        events = [] if join else self._events.recent(now)
        return Exchange(self._pool.me.name, self._pool.instance, join, self._exchanges.states(now), events)

    def merge(self, now: float, heard: Exchange, *, join: bool = False) -> None:
        """Takes over what another knows; of a ``join`` of this agent's own the old events are not heard."""
        self._notice_pause(now)
        self._exchanges.merge(now, heard.source, heard.states)
        if join:
            self._events.skip(heard.events)
            return
        for event in heard.events:
            self._events.heard(now, event)

    def challenged(self, now: float, place: tuple[str, int], ack: Ack | None) -> None:
        """The answer to a ``Challenge``: the ack of who answers to this agent's name there, or None."""
        instance = ack.instance if ack is not None and ack.source == self.name else None
        self._claims.challenged(now, place, instance)

    def vacate(self, now: float, name: str) -> None:
        """Declares a member failed whose place was found empty while another agent asks for its name."""
        record = self._pool.others.get(name)
        if record is not None and record.is_live:
            self._claims.failed(now, Failed(name, record.incarnation, self.name))

    # --- wishes

    def set_tags(self, now: float, tags: dict[str, str]) -> None:
        """This agent's tags from now on. Raises Invalid when they do not fit into a packet."""
        me = self._pool.me
        if tags == me.tags:
            return
        changed = Record(me.name, me.address, me.port, dict(tags))
        changed.digest = me.digest
        _check_size(changed)
        me.tags = dict(tags)
        me.incarnation += 1
        self._pool.changes += 1
        self._pool.declare_self(now)

    def set_health(self, now: float, health: Health) -> None:
        """This agent's health from now on. It goes along with acks and exchanges, and to everybody when it is news."""
        me = self._pool.me
        packed = digest.pack(health)
        if packed == me.digest:
            return
        me.digest = packed
        me.beat += 1
        self._pool.changes += 1
        if digest.is_news(self._told, health):
            self._told = health
            self._pool.broadcast(now, (me.name, -1), encode(Fresh(me.name, me.incarnation, me.beat, packed)))

    def send_event(self, now: float, event: UserEvent) -> None:
        """Tells everybody. Raises Invalid when it does not fit into a packet."""
        self._events.send(now, event)

    def leave(self, now: float) -> None:
        """Begins to go: everybody is told, nobody is probed any more."""
        if not self._pool.leaving:
            self._pool.leaving = True
            self._pool.timers.drop(("period", ""))
            self._prober.abandon()
            self._pool.note(self.name, "alive", LEAVING, "it was asked to leave")
            self._claims.farewell(now)

    def has_left(self) -> bool:
        """Whether the farewell was sent as often as it should be, or nobody is there to hear it."""
        return self._pool.leaving and ((self.name, 0) not in self._pool.queue or not self._pool.live())

    def force_leave(self, now: float, name: str, *, prune: bool) -> bool:
        """Declares a member as gone on purpose. False when it is unknown."""
        record = self._pool.others.get(name)
        if record is None or record.rank == PRUNED:
            return False
        said = Left(name, record.incarnation, self.name, prune)
        self._pool.send(record.place, [encode(said)])  # if it is alive after all it contradicts
        self._claims.left(now, said)
        return True

    # --- views

    @property
    def name(self) -> str:
        """This agent's name."""
        return self._pool.me.name

    @property
    def instance(self) -> int:
        """A number that no other start of an agent has."""
        return self._pool.instance

    @property
    def changes(self) -> int:
        """Rises with every change of a member, its status, tags or health."""
        return self._pool.changes

    @property
    def counters(self) -> Counters:
        """How often things happened."""
        return self._pool.counters

    @property
    def awareness(self) -> int:
        """This agent's local health: 0 is well."""
        return self._pool.awareness.score

    def members(self) -> list[Member]:
        """Everybody but the pruned, sorted by name."""
        known = [self._myself()] + [r.member() for r in self._pool.others.values() if r.rank != PRUNED]
        return sorted(known, key=lambda member: member.name)

    def member(self, name: str) -> Member | None:
        """One of them."""
        if name == self.name:
            return self._myself()
        record = self._pool.others.get(name)
        return None if record is None or record.rank == PRUNED else record.member()

    def _myself(self) -> Member:
        me = self._pool.me.member()
        return me.replace(status=LEAVING) if self._pool.leaving else me


def _check_size(record: Record) -> None:
    size = len(record.statement())
    if not record.digest:
        size += digest.DIGEST_BYTES_MAX
    if size > STATEMENT_BYTES_MAX:
        raise Invalid(f"the gossip name and tags need {size} bytes; a packet takes {STATEMENT_BYTES_MAX}: shorten them")


def _verdict(record: Record, by: str) -> bytes:
    """What is held against a member that speaks nevertheless, so that it can contradict."""
    if record.rank == SUSPECT:
        return encode(Suspect(record.name, record.incarnation, by))
    if record.rank == FAILED:
        return encode(Failed(record.name, record.incarnation, by))
    return encode(Left(record.name, record.incarnation, by))
