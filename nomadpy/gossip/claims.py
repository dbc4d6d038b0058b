"""What is said about members, and what of it holds.

Statements are ordered by (incarnation, rank): alive < suspect < failed < left < pruned. The higher one holds, in
whatever order they come, so all agents end with the same view. Only a member itself raises its incarnation, and it does
so when it hears that it is taken for less than alive: that refutes. An agent that was restarted begins with incarnation
0 and comes back the same way: it hears what is held about its name and goes beyond it.

A name that two living agents use must not flap. Whoever hears its own name from another place asks there first
(``Challenge``): only when nobody answers to the name it takes its name back; otherwise both report the conflict and the
higher incarnation stays.
"""

from __future__ import annotations

from collections.abc import Callable

from nomadpy.gossip.messages import ALIVE, FAILED, LEFT, PRUNED, SUSPECT, Alive, Failed, Fresh, Left, Suspect, encode
from nomadpy.gossip.outputs import Challenge, Conflict
from nomadpy.gossip.pool import Pool, Record
from nomadpy.gossip.suspicion import Suspicion

# Statements about a member: the plain one, and one for each witness against it.
_PLAIN, _FIRST_WITNESS = 0, 1


class Claims:
    """Applies statements. ``joined(name)`` is called for members that take part from now on, ``look(now, name)`` when a
    suspicion should be checked at once."""

    def __init__(self, pool: Pool, joined: Callable[[str], None], look: Callable[[float, str], None]) -> None:
        self._pool, self._joined, self._look = pool, joined, look
        self.suspicions: dict[str, Suspicion] = {}
        self._contested_until = float("-inf")
        self._claimed = 0  # the incarnation that was claimed for this agent's name elsewhere

    def alive(self, now: float, said: Alive) -> None:
        """A member's own word."""
        if said.name == self._pool.me.name:
            self.about_me(now, ALIVE, said.incarnation, said)
            return
        record = self._pool.others.get(said.name)
        if record is None:
            record = Record(said.name, said.address, said.port, said.tags, now=now)
            record.incarnation, record.beat, record.digest = said.incarnation, said.beat, said.digest
            self._pool.add(record, "it said so")
            self._joined(said.name)
        elif self._is_newer(record, said):
            self._revive(now, record, said)
        else:
            self.fresh(now, Fresh(said.name, said.incarnation, said.beat, said.digest), spread=False)
            return
        self._spread(now, record.name, record.statement())

    def _is_newer(self, record: Record, said: Alive) -> bool:
        if said.incarnation != record.incarnation or record.rank != ALIVE:
            return said.incarnation > record.incarnation
        # Two agents with one name and one incarnation: everybody must choose the same.
        return (said.address, said.port) > record.place

    def _revive(self, now: float, record: Record, said: Alive) -> None:
        was_live = record.is_live
        record.incarnation, record.address, record.port = said.incarnation, said.address, said.port
        record.tags, record.beat, record.digest = said.tags, said.beat, said.digest
        self._acquit(record.name)
        self._pool.changes += 1
        self._pool.rank(record, ALIVE, now, "it contradicted")
        if not was_live:
            self._joined(record.name)

    def fresh(self, now: float, said: Fresh, *, spread: bool = True) -> None:
        """A newer health digest."""
        record = self._pool.others.get(said.name)
        if record is None or said.incarnation != record.incarnation or said.beat <= record.beat:
            return
        if said.digest != record.digest:
            self._pool.changes += 1
        record.beat, record.digest = said.beat, said.digest
        if spread:
            self._pool.broadcast(now, (said.name, -1), encode(said))

    def suspect(self, now: float, said: Suspect, *, heard: bool = True) -> None:
        """Somebody got no answer from the member; ``heard`` from another agent."""
        if said.name == self._pool.me.name:
            self.about_me(now, SUSPECT, said.incarnation)
            return
        record = self._pool.others.get(said.name)
        if record is None:
            return
        if (said.incarnation, SUSPECT) > (record.incarnation, record.rank):
            self._begin(now, record, said)
            if heard and self._pool.rng.random() * self._pool.n_live() < self._pool.settings.second_looks:
                self._look(now, said.name)
        elif (said.incarnation, SUSPECT) == (record.incarnation, record.rank):
            suspicion = self.suspicions[said.name]
            if suspicion.confirm(said.by):
                self._pool.timers.set(("suspicion", said.name), suspicion.deadline())
                slot = _FIRST_WITNESS + len(suspicion.witnesses) - 1
                self._pool.broadcast(now, (said.name, slot), encode(said))

    def _begin(self, now: float, record: Record, said: Suspect) -> None:
        settings, n_live = self._pool.settings, self._pool.n_live()
        shortest = settings.suspicion_min_s(n_live)
        suspicion = self.suspicions[record.name] = Suspicion(
            now,
            said.by,
            shortest_s=shortest,
            longest_s=shortest * settings.suspicion_max_factor,
            wanted=max(0, min(settings.confirmations, n_live - 2)),
        )
        self._pool.counters.suspicions += 1
        self._pool.timers.set(("suspicion", record.name), suspicion.deadline())
        record.incarnation = said.incarnation
        if not record.is_live:
            self._joined(record.name)
        self._pool.rank(record, SUSPECT, now, f"{said.by} got no answer from it")
        self._pool.broadcast(now, (record.name, _FIRST_WITNESS), encode(said))

    def expire(self, now: float, name: str) -> None:
        """A suspicion's deadline has passed."""
        if name in self.suspicions:
            self.failed(now, Failed(name, self._pool.others[name].incarnation, self._pool.me.name))

    def restart_suspicions(self, now: float) -> None:
        """Every doubted member gets its full time again, as this agent did not listen itself."""
        for name, suspicion in self.suspicions.items():
            suspicion.started = now
            self._pool.timers.set(("suspicion", name), suspicion.deadline())

    def delay_suspicions(self, by: float) -> None:
        """Every doubted member gets so much more time."""
        for name, suspicion in self.suspicions.items():
            suspicion.started += by
            self._pool.timers.set(("suspicion", name), suspicion.deadline())

    def failed(self, now: float, said: Failed) -> None:
        """Somebody waited in vain for the member's contradiction."""
        if said.name == self._pool.me.name:
            self.about_me(now, FAILED, said.incarnation)
        elif self._end(now, said.name, said.incarnation, FAILED, f"{said.by} declared it failed"):
            self._pool.counters.failures += 1
            self._spread(now, said.name, encode(said))

    def left(self, now: float, said: Left) -> None:
        """The member goes, or somebody says that it is not coming back."""
        rank = PRUNED if said.prune else LEFT
        if said.name == self._pool.me.name:
            self.about_me(now, rank, said.incarnation)
            return
        own_word = said.by == said.name
        if self._end(now, said.name, said.incarnation, rank, "it left" if own_word else f"{said.by} said so"):
            self._spread(now, said.name, encode(said))

    def _end(self, now: float, name: str, incarnation: int, rank: int, reason: str) -> bool:
        record = self._pool.others.get(name)
        if record is None or (incarnation, rank) <= (record.incarnation, record.rank):
            return False
        self._acquit(name)
        record.incarnation = incarnation
        self._pool.rank(record, rank, now, reason)
        return True

    def _acquit(self, name: str) -> None:
        self.suspicions.pop(name, None)
        self._pool.timers.drop(("suspicion", name))

    def _spread(self, now: float, name: str, message: bytes) -> None:
        for slot in range(_FIRST_WITNESS, _FIRST_WITNESS + 1 + self._pool.settings.confirmations):
            self._pool.queue.drop((name, slot))
        self._pool.broadcast(now, (name, _PLAIN), message)

    # --- about this agent itself

    def about_me(self, now: float, rank: int, incarnation: int, alive: Alive | None = None) -> None:
        """Somebody says this of this agent's own name; ``alive`` is the statement where it is one of life."""
        me = self._pool.me
        if incarnation < me.incarnation or (self._pool.leaving and rank >= LEFT):
            return
        if self._pool.leaving:
            me.incarnation = incarnation
            self.farewell(now)
        elif incarnation > me.incarnation and now < self._contested_until:
            return  # it is about the other agent with this name
        elif alive is not None and (alive.address, alive.port) != me.place:
            self._challenge(now, alive)
        elif alive is None or incarnation > me.incarnation or alive.tags != me.tags or alive.beat > me.beat:
            self._refute(now, incarnation, blame=rank in (SUSPECT, FAILED))

    def _refute(self, now: float, incarnation: int, *, blame: bool) -> None:
        me = self._pool.me
        me.incarnation = max(me.incarnation, incarnation) + 1
        if blame:
            # Others do not hear us in time: perhaps we do not hear well either.
            self._pool.awareness.add(1)
            self._pool.counters.refutations += 1
        self._pool.changes += 1
        self._pool.declare_self(now)

    def _challenge(self, now: float, alive: Alive) -> None:
        self._claimed = max(self._claimed, alive.incarnation)
        if now >= self._contested_until and not self._pool.timers.has(("challenge", "")):
            # The timer only keeps one challenge at a time; the driver answers long before.
            self._pool.timers.set(("challenge", ""), now + 10 * self._pool.settings.period_s)
            self._pool.outputs.append(Challenge(alive.address, alive.port))

    def challenged(self, now: float, place: tuple[str, int], instance: int | None) -> None:
        """What came of a challenge: the instance that answered to this agent's name there, or None."""
        self._pool.timers.drop(("challenge", ""))
        if instance is not None and instance != self._pool.instance:
            self._contested_until = now + self._pool.settings.conflict_quiet_s
            self._pool.counters.conflicts += 1
            self._pool.outputs.append(Conflict(*place))
        elif not self._pool.leaving:
            self._refute(now, self._claimed, blame=False)

    def farewell(self, now: float) -> None:
        """Tells everybody that this agent goes."""
        me = self._pool.me
        self._spread(now, me.name, encode(Left(me.name, me.incarnation, me.name)))
