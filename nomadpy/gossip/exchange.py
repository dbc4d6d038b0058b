"""Anti-entropy: now and then two agents tell each other everything, so that what packets lost is made up for.

The failed are called, too, now and then: after a network that was cut in two has healed, each side counts the other as
failed and would never speak to it again. The dead of an exchange are only suspected by who knows them alive (they may
contradict); who never knew them takes them over with their age, so that no two agents keep reviving what is to be
reaped.
"""

from __future__ import annotations

from nomadpy.gossip.claims import Claims
from nomadpy.gossip.messages import ALIVE, FAILED, LEFT, PRUNED, SUSPECT, Alive, Failed, Left, State, Suspect
from nomadpy.gossip.outputs import CallFor
from nomadpy.gossip.pool import Pool, Record

_REAP_EVERY_S = 60.0


class Exchanges:
    """Full states: made, merged, asked for; and the forgetting of those who are gone for long."""

    def __init__(self, pool: Pool, claims: Claims) -> None:
        self._pool, self._claims = pool, claims
        settings = pool.settings
        self._reap_after = {
            FAILED: settings.reap_failed_s,
            LEFT: settings.reap_left_s,
            PRUNED: settings.reap_pruned_s,
        }

    def states(self, now: float) -> list[State]:
        """Everybody, this agent first."""
        mine = LEFT if self._pool.leaving else ALIVE
        return [
            State(
                record.name,
                mine if record is self._pool.me else record.rank,
                record.incarnation,
                record.address,
                record.port,
                record.tags,
                record.beat,
                record.digest,
                max(0.0, now - record.since),
            )
            for record in self._pool.records()
        ]

    def merge(self, now: float, peer: str, states: list[State]) -> None:
        """Takes over what ``peer`` knows."""
        for state in states:
            if state.name == self._pool.me.name:
                alive = _as_alive(state) if state.rank == ALIVE else None
                self._claims.about_me(now, state.rank, state.incarnation, alive)
            elif state.rank <= SUSPECT:
                self._merge_live(now, peer, state)
            elif state.name in self._pool.others:
                self._merge_gone(now, peer, state)
            else:
                self._adopt(now, state)

    def _merge_live(self, now: float, peer: str, state: State) -> None:
        self._claims.alive(now, _as_alive(state))
        if state.rank == SUSPECT:
            self._claims.suspect(now, Suspect(state.name, state.incarnation, peer))

    def _merge_gone(self, now: float, peer: str, state: State) -> None:
        known = self._pool.others[state.name]
        if state.rank >= LEFT:
            self._claims.left(now, Left(state.name, state.incarnation, peer, state.rank == PRUNED))
        elif known.is_live:
            if state.incarnation > known.incarnation:
                self._claims.alive(now, _as_alive(state))
            self._claims.suspect(now, Suspect(state.name, state.incarnation, peer))
        else:
            self._claims.failed(now, Failed(state.name, state.incarnation, peer))

    def _adopt(self, now: float, state: State) -> None:
        if state.rank == PRUNED or state.age_s >= self._reap_after[state.rank]:
            return
        record = Record(state.name, state.address, state.port, state.tags, now=now - state.age_s)
        record.incarnation, record.rank = state.incarnation, state.rank
        record.beat, record.digest = state.beat, state.digest
        self._pool.add(record, "another agent remembers it")

    def periodic(self, now: float) -> None:
        """Time for an exchange with some other."""
        pool = self._pool
        pool.timers.set(("exchange", ""), now + pool.settings.exchange_interval_s(pool.n_live()))
        self.call_for(1)

    def call_for(self, count: int) -> None:
        """Wishes for exchanges with so many others."""
        self._pool.outputs += [CallFor(record.address, record.port) for record in self._pool.pick(count)]

    def reconnect(self, now: float) -> None:
        """Time to call a failed member, so that about one agent of the pool does for each of them."""
        pool = self._pool
        pool.timers.set(("reconnect", ""), now + pool.settings.reconnect_s)
        failed = [record for record in pool.others.values() if record.rank == FAILED]
        if failed and pool.rng.random() * pool.n_live() < len(failed):
            record = pool.rng.choice(failed)
            pool.outputs.append(CallFor(record.address, record.port))

    def reap(self, now: float) -> None:
        """Forgets those who are gone for long."""
        self._pool.timers.set(("reap", ""), now + _REAP_EVERY_S)
        for record in list(self._pool.others.values()):
            after = self._reap_after.get(record.rank)
            if after is not None and now - record.since >= after:
                self._pool.forget(record, "it is gone for long")


def _as_alive(state: State) -> Alive:
    return Alive(state.name, state.incarnation, state.address, state.port, state.tags, state.beat, state.digest)
