"""Who is at the other end of a connection, how patient one is with it, and what is counted."""

from __future__ import annotations

import msgspec


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """Who is at the other end. ``certificate_names`` is proven (empty without TLS), the rest is what it says of itself,
    and ``address`` where its packets come from or go to."""

    role: str = ""
    name: str = ""
    id: str = ""
    region: str = ""
    build: str = ""
    address: str = ""
    certificate_names: frozenset[str] = frozenset()


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How long a peer may be silent, in seconds: it is asked for a sign of life every ``ping_s`` in which nothing came,
    and the connection is closed after ``silence_s``."""

    handshake_s: float = 5.0
    ping_s: float = 5.0
    silence_s: float = 15.0


# The end that accepted leaves the asking to the one that dialed.
ACCEPTED_TIMING = Timing(ping_s=15.0, silence_s=30.0)


class Counters:
    """What connections count; several may share one."""

    def __init__(self) -> None:
        self.n_calls = 0
        self.n_streams = 0
        self.n_malformed = 0
        self.n_refused = 0
        self.n_silent = 0
        self.n_handler_faults = 0
