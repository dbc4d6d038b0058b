"""What agents say of themselves and think of each other: who is there, where, and who may talk at all."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

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
