"""What agents say of themselves and think of each other: who is there, where, and who may talk at all."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path

import trio

from nomadpy.agent.join import with_port
from nomadpy.gossip.contract import ALIVE, SUSPECT, Member
from nomadpy.gossip.keyring import Keyring
from nomadpy.model.errors import Forbidden
from nomadpy.model.version import NOMAD_COMPATIBILITY_VERSION
from nomadpy.rpc.handlers import Word
from nomadpy.rpc.peer import Peer
from nomadpy.rpc.peers import NodeQuery
from nomadpy.rpc.tls import RpcTls

log = logging.getLogger(__name__)

BUILD = NOMAD_COMPATIBILITY_VERSION
# What is said of where servers are may be so old.
_PLACES_S = 0.2

PING: Word[NodeQuery, None] = Word("Node.Ping", NodeQuery, type(None))
"""Asked of a node's agent: it answers, and that says enough."""


def is_there(member: Member) -> bool:
    """Whether a member takes part, as far as gossip knows."""
    return member.status in (ALIVE, SUSPECT)


def shown(place: tuple[str, int]) -> str:
    """``host:port``."""
    return with_port(*place)


def place_of(member: Member) -> str:
    """``host:port`` of a member's gossip."""
    return with_port(member.address, member.port)


def rpc_place_of(member: Member) -> str:
    """``host:port`` where a server listens for agents."""
    return with_port(member.tags.get("rpc_addr", member.address), int(member.tags.get("port", "4647")))


class Places:
    """Where the servers that are there listen for agents and for gossip, as leases name them: to look through thousands
    of members for each lease would take longer than all the rest, so they are looked up a few times a second."""

    def __init__(self, servers: Callable[[], list[Member]]) -> None:
        self._servers = servers
        self._known: tuple[list[str], list[str]] = ([], [])
        self._since_s = -math.inf

    def now(self) -> tuple[list[str], list[str]]:
        """``host:port`` of their rpc, sorted, and of their gossip."""
        if trio.current_time() >= self._since_s + _PLACES_S:
            there = [member for member in self._servers() if is_there(member)]
            self._known = sorted(map(rpc_place_of, there)), [place_of(member) for member in there]
            self._since_s = trio.current_time()
        return self._known


def open_keyring(directory: Path, encrypt: str) -> Keyring:
    """The keys of gossip that are stored there, or new ones from the configured key. Raises Invalid, OSError."""
    keyring = Keyring.open(directory / "serf.keyring", encrypt)
    if encrypt and encrypt not in keyring.keys:
        reason = "the stored keys count, and the configured one is not among them: install it, or delete the file"
        log.warning("gossip.key_ignored", extra={"fields": {"path": str(directory / "serf.keyring"), "reason": reason}})
    return keyring


def admission(region: str, tls: RpcTls | None) -> Callable[[Peer], None]:
    """Raises Forbidden for an agent that may not talk to this one: by its certificate, or as one of another region."""

    def admit(peer: Peer) -> None:
        if tls is not None:
            tls.check_peer(peer)
        if peer.region != region:
            raise Forbidden(f"{peer.name} is of region {peer.region}, this agent of {region}; regions are kept apart")

    return admit
