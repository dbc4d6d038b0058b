"""Who belongs to a log, and how far each of them is, as one server sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from nomadpy.raft.replica import Replica


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """A server of the log. Only a leader knows more than the first two fields: up to where the server is known to hold
    the log (``match_index``, an entry of term ``last_term``), how many entries it lacks, and how many seconds ago it
    last answered (None: never heard; of a new leader, counted from the moment when it began to lead)."""

    server: str
    voter: bool = True
    match_index: int = 0
    last_term: int = 0
    lag: int = 0
    contact_s: float | None = None


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """The servers of a log, sorted by name; ``leader`` is "" while nobody is known to lead. ``index`` is the entry that
    the configuration comes from, 0 for the one that the log began with. ``settled`` is false while a change of the
    voters is under way."""

    leader: str = ""
    leading: bool = False
    term: int = 0
    index: int = 0
    last_index: int = 0
    settled: bool = True
    peers: tuple[Peer, ...] = ()

    @property
    def voters(self) -> tuple[str, ...]:
        """Those whose word counts."""
        return tuple(peer.server for peer in self.peers if peer.voter)

    @property
    def learners(self) -> tuple[str, ...]:
        """Those that are only served; known to the leader alone."""
        return tuple(peer.server for peer in self.peers if not peer.voter)

    def peer(self, server: str) -> Peer | None:
        """One of them."""
        return next((peer for peer in self.peers if peer.server == server), None)


def describe(replica: Replica, now: float) -> Configuration:
    """What a server knows now. Servers that are only being told of their removal do not belong to it any more."""
    newest = replica.wal.configurations[-1][1] if replica.wal.configurations else 0
    learners = replica.learners - replica.farewells.keys()
    return Configuration(
        leader=replica.election.leader or "",
        leading=replica.leadership is not None,
        term=replica.engine.term,
        index=newest,
        last_index=replica.wal.last,
        settled=newest <= replica.commit_index,
        peers=tuple(_peer(replica, name, now) for name in sorted({*replica.voters, *learners})),
    )


def _peer(replica: Replica, name: str, now: float) -> Peer:
    voter, leadership = name in replica.voters, replica.leadership
    if name == replica.name:
        return Peer(
            server=name, voter=voter, match_index=replica.wal.last, last_term=replica.wal.last_term, contact_s=0.0
        )
    if leadership is None or name not in leadership.followers:
        return Peer(server=name, voter=voter)
    match = replica.engine.match_index(name)
    return Peer(
        server=name,
        voter=voter,
        match_index=match,
        last_term=replica.wal.term_at(match) or 0,
        lag=max(0, replica.wal.last - match),
        contact_s=max(0.0, now - leadership.followers[name].heard_at),
    )
