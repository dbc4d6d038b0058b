"""What one agent knows and what it has under way: the ground that the parts of the machine stand on."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator

import msgspec

from nomadpy.gossip import contract, health
from nomadpy.gossip.broadcasts import Broadcasts, Subject
from nomadpy.gossip.contract import Member
from nomadpy.gossip.messages import ALIVE, FAILED, PAYLOAD_BYTES_MAX, PRUNED, SUSPECT, Alive, encode, join
from nomadpy.gossip.outputs import Changed, Output, Send
from nomadpy.gossip.settings import GossipSettings
from nomadpy.gossip.suspicion import Awareness
from nomadpy.gossip.timers import Timers

STATUSES = (contract.ALIVE, contract.SUSPECT, contract.FAILED, contract.LEFT, "")
"""A rank's word; the pruned have none, they are only remembered lest somebody brings them back."""

# What a payload's array header may take.
_HEADER_BYTES = 3


class Record:
    """One member as this agent knows it."""

    __slots__ = ("acked_at", "address", "beat", "digest", "incarnation", "name", "port", "rank", "since", "tags")

    def __init__(self, name: str, address: str, port: int, tags: dict[str, str], *, now: float = 0.0) -> None:
        self.name, self.address, self.port, self.tags = name, address, port, tags
        self.incarnation = 0
        self.rank = ALIVE
        self.beat = 0
        self.digest = b""
        self.since = now
        # When it last answered a probe of this agent, be it through a helper.
        self.acked_at = float("-inf")

    @property
    def place(self) -> tuple[str, int]:
        """Where it is reached."""
        return self.address, self.port

    @property
    def is_live(self) -> bool:
        """Whether it takes part: alive, or only suspected."""
        return self.rank <= SUSPECT

    def statement(self) -> bytes:
        """Its own word, encoded, for passing on."""
        return encode(Alive(self.name, self.incarnation, self.address, self.port, self.tags, self.beat, self.digest))

    def member(self) -> Member:
        """It as the rest of the agent sees it."""
        return Member(
            name=self.name,
            address=self.address,
            port=self.port,
            status=STATUSES[self.rank],
            incarnation=self.incarnation,
            tags=self.tags,
            health=health.unpack(self.digest),
            since=self.since,
        )


class Counters(msgspec.Struct):
    """How often things happened since the start."""

    probes: int = 0
    probes_failed: int = 0
    suspicions: int = 0
    failures: int = 0
    refutations: int = 0
    pauses: int = 0
    conflicts: int = 0
    garbage: int = 0
    misdirected: int = 0


class Pool:
    """The members, this agent's own record, what is to be passed on, deadlines and wishes."""

    def __init__(self, me: Record, settings: GossipSettings, rng: random.Random) -> None:
        self.me, self.settings, self.rng = me, settings, rng
        self.instance = rng.getrandbits(63)
        self.others: dict[str, Record] = {}
        self.queue = Broadcasts()
        self.timers = Timers()
        self.awareness = Awareness(settings.awareness_max)
        self.counters = Counters()
        self.outputs: list[Output] = []
        self.leaving = False
        self.changes = 0
        self._live: list[Record] | None = None

    def live(self) -> list[Record]:
        """The others that take part, in the order they became known. Not to be changed."""
        if self._live is None:
            self._live = [record for record in self.others.values() if record.is_live]
        return self._live

    def n_live(self) -> int:
        """How many take part, this agent among them."""
        return len(self.live()) + 1

    def pick(self, count: int, *, but: Collection[str] = ()) -> list[Record]:
        """Up to ``count`` live others, by chance."""
        live = self.live()
        if but:
            live = [record for record in live if record.name not in but]
        return self.rng.sample(live, min(count, len(live)))

    def listeners(self, now: float) -> list[Record]:
        """Who is sent news: the live, and the failed for a while."""
        after = now - self.settings.gossip_to_failed_s
        if all(record.is_live for record in self.others.values()):
            return self.live()
        return [r for r in self.others.values() if r.is_live or (r.rank == FAILED and r.since > after)]

    def add(self, record: Record, reason: str) -> None:
        """A member that was not known."""
        self.others[record.name] = record
        self._live = None
        self.note(record.name, "", STATUSES[record.rank], reason)

    def rank(self, record: Record, rank: int, now: float, reason: str) -> None:
        """Gives a member another rank."""
        if record.rank == rank:
            return
        old, record.rank, record.since = record.rank, rank, now
        self._live = None
        self.note(record.name, STATUSES[old], STATUSES[rank], reason)

    def forget(self, record: Record, reason: str) -> None:
        """Drops a member altogether."""
        del self.others[record.name]
        self._live = None
        if record.rank != PRUNED:
            self.note(record.name, STATUSES[record.rank], "", reason)

    def note(self, name: str, old: str, new: str, reason: str) -> None:
        """Counts a change and has it logged."""
        self.changes += 1
        self.outputs.append(Changed(name, old, new, reason))

    def broadcast(self, now: float, subject: Subject, message: bytes) -> None:
        """Has a message passed on; soon, and piggybacked on whatever is sent before."""
        self.queue.put(subject, message)
        if not self.timers.has(("gossip", "")) and self.others:
            self.timers.set(("gossip", ""), now + self.settings.gossip_s * self.rng.uniform(0.1, 1.0))

    def declare_self(self, now: float) -> None:
        """Has this agent's own statement passed on."""
        self.broadcast(now, (self.me.name, 0), self.me.statement())

    def send(self, place: tuple[str, int], messages: list[bytes]) -> None:
        """A packet with these messages and as much news as fits."""
        room = PAYLOAD_BYTES_MAX - _HEADER_BYTES - sum(map(len, messages))
        if len(self.queue):
            messages = messages + self.queue.take(room, self.settings.transmit_limit(self.n_live()))
        if messages:
            self.outputs.append(Send(place[0], place[1], join(messages)))

    def records(self) -> Iterator[Record]:
        """Everybody, this agent first."""
        yield self.me
        yield from self.others.values()
