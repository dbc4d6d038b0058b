"""Who is asked whether it is there, and what follows from silence.

One member per period, in a round that visits everybody (SWIM §4.3). A direct ping; after ``ping_timeout_s`` without an
ack, ``helpers`` others are asked to ping, and TCP is tried. Who has not answered by the end of the period is suspected.
Helpers that got no answer either say so (nack): when even their nacks stay out, it is rather this agent that is deaf,
and its local health gets worse (Lifeguard's LHA-Probe), which stretches its period and timeouts.
"""

from __future__ import annotations

from collections.abc import Callable

from nomadpy.gossip.messages import ALIVE, SUSPECT, Ack, Ask, Nack, Ping, Suspect, encode
from nomadpy.gossip.outputs import TcpPing
from nomadpy.gossip.pool import Pool, Record

# Up to so many others the round keeps its order, so that nobody waits longer than one round.
_SMALL_ROUND = 10
# A helper says nack after this share of the ping timeout, so that the asker hears it within its period.
_NACK_SHARE = 0.9


class _Probe:
    """One member being asked."""

    __slots__ = ("asked", "incarnation", "nacks", "name", "started")

    def __init__(self, record: Record, now: float) -> None:
        self.name, self.incarnation, self.started = record.name, record.incarnation, now
        self.asked = -1  # how many helpers; -1 while they were not asked
        self.nacks = 0


class _Errand:
    """A ping on behalf of another agent."""

    __slots__ = ("number", "place", "target")

    def __init__(self, target: str, place: tuple[str, int], number: int) -> None:
        self.target, self.place, self.number = target, place, number


class Prober:
    """Probes. ``suspect(now, statement)`` is called with what it concludes, ``judged(now, ack)`` for every answer."""

    def __init__(self, pool: Pool, suspect: Callable[[float, Suspect], None]) -> None:
        self._pool, self._suspect = pool, suspect
        self._round: list[str] = []
        self._next = 0
        self._number = pool.rng.getrandbits(32)
        self._probes: dict[int, _Probe] = {}
        self._probed: set[str] = set()
        self._errands: dict[int, _Errand] = {}

    def joined(self, name: str) -> None:
        """Puts a member into the rest of the round, at a place by chance."""
        if name not in self._round:
            self._round.insert(self._pool.rng.randint(self._next, len(self._round)), name)

    def period(self, now: float) -> None:
        """Probes the next member of the round, and sets the next period."""
        settings = self._pool.settings
        self._pool.timers.set(("period", ""), now + self._pool.awareness.stretch(settings.period_s))
        record = self._turn()
        if record is not None:
            self.probe(now, record.name)

    def _turn(self) -> Record | None:
        for _ in range(len(self._round) + 1):
            if self._next >= len(self._round):
                self._new_round()
            if not self._round:
                return None
            record = self._pool.others.get(self._round[self._next])
            self._next += 1
            if record is not None and record.is_live and record.name not in self._probed:
                return record
        return None

    def _new_round(self) -> None:
        self._next = 0
        live = [record.name for record in self._pool.live()]
        if len(live) > _SMALL_ROUND or len(self._round) > _SMALL_ROUND:
            self._round = live
            self._pool.rng.shuffle(self._round)
        else:
            known = set(live)
            self._round = [name for name in self._round if name in known]

    def probe(self, now: float, name: str) -> None:
        """Asks a live member out of turn; nothing happens when it is being asked already."""
        record = self._pool.others.get(name)
        if record is None or not record.is_live or name in self._probed:
            return
        self._pool.counters.probes += 1
        self._number += 1
        self._probes[self._number] = _Probe(record, now)
        self._probed.add(name)
        wait = self._pool.awareness.stretch(self._pool.settings.ping_timeout_s)
        self._pool.timers.set(("probe", self._number), now + wait)
        self._ping(self._number, record)

    def _ping(self, number: int, record: Record) -> None:
        messages = [encode(Ping(number, record.name, self._pool.me.name))]
        if record.rank == SUSPECT:
            # It hears first of all what it has to contradict (Lifeguard's buddy system).
            messages.append(encode(Suspect(record.name, record.incarnation, self._pool.me.name)))
        self._pool.send(record.place, messages)

    def overdue(self, now: float, number: int) -> None:
        """A probe's deadline has passed: first help is called, then the verdict falls."""
        probe = self._probes[number]
        if probe.asked < 0:
            self._call_help(number, probe)
            end = probe.started + self._pool.awareness.stretch(self._pool.settings.period_s)
            self._pool.timers.set(("probe", number), max(end, now + self._pool.settings.ping_timeout_s))
            return
        self._drop(number)
        self._pool.counters.probes_failed += 1
        # With all nacks in, our own ears are proven; with no helper there is no proof either way.
        self._pool.awareness.add(probe.asked - probe.nacks if probe.asked else 1)
        self._suspect(now, Suspect(probe.name, probe.incarnation, self._pool.me.name))

    def _call_help(self, number: int, probe: _Probe) -> None:
        record = self._pool.others.get(probe.name)
        helpers = [
            helper
            for helper in self._pool.pick(self._pool.settings.helpers + 1, but=(probe.name,))
            if helper.rank == ALIVE
        ][: self._pool.settings.helpers]
        ask = encode(Ask(number, probe.name, self._pool.me.name))
        for helper in helpers:
            self._pool.send(helper.place, [ask])
        probe.asked = len(helpers)
        if record is not None and self._pool.settings.tcp_ping:
            self._pool.outputs.append(TcpPing(number, record.name, record.address, record.port))

    def _drop(self, number: int) -> None:
        self._probed.discard(self._probes.pop(number).name)
        self._pool.timers.drop(("probe", number))

    def acked(self, ack: Ack) -> Record | None:
        """An answer; returns whose it is when it belongs to a probe of our own."""
        errand = self._errands.get(ack.number)
        if errand is not None and errand.target == ack.source:
            self._pool.send(errand.place, [encode(_forwarded(ack, errand.number))])
            self._end_errand(ack.number)
        probe = self._probes.get(ack.number)
        if probe is None or probe.name != ack.source:
            return None
        self._drop(ack.number)
        self._pool.awareness.add(-1)
        return self._pool.others.get(ack.source)

    def nacked(self, nack: Nack) -> None:
        """A helper did what it could."""
        probe = self._probes.get(nack.number)
        if probe is not None:
            probe.nacks = min(probe.nacks + 1, max(probe.asked, 0))

    def asked(self, now: float, ask: Ask, place: tuple[str, int]) -> None:
        """Another agent wants a member pinged. Only members are: nobody can make this agent send elsewhere."""
        record = self._pool.others.get(ask.target)
        if record is None:
            self._pool.send(place, [encode(Nack(ask.number))])
            return
        self._number += 1
        self._errands[self._number] = _Errand(ask.target, place, ask.number)
        self._pool.timers.set(("nack", self._number), now + self._pool.settings.ping_timeout_s * _NACK_SHARE)
        self._ping(self._number, record)

    def nack_due(self, now: float, number: int) -> None:
        """A ping on behalf of another was not answered in time; an answer may still come."""
        errand = self._errands.get(number)
        if errand is not None:
            self._pool.send(errand.place, [encode(Nack(errand.number))])
            self._pool.timers.set(("errand", number), now + self._pool.settings.period_s)

    def errand_over(self, number: int) -> None:
        """No answer is expected any more."""
        self._end_errand(number)

    def _end_errand(self, number: int) -> None:
        self._errands.pop(number, None)
        self._pool.timers.drop(("nack", number))
        self._pool.timers.drop(("errand", number))

    def abandon(self) -> None:
        """Drops every probe and errand without a verdict."""
        for number in list(self._probes):
            self._drop(number)
        for number in list(self._errands):
            self._end_errand(number)


def _forwarded(ack: Ack, number: int) -> Ack:
    return Ack(number, ack.source, ack.instance, ack.incarnation, ack.beat, ack.digest)
