"""The settings and the counters of the HTTP server."""

from __future__ import annotations

import msgspec

from nomadpy.api._http_machine import Limits

MIB = 1 << 20


class HttpConfig(msgspec.Struct, frozen=True):
    """How the HTTP server behaves; every limit protects the agent's memory or its file descriptors."""

    # A longer request line is 414. Filters travel in it, so it is generous.
    max_request_line_bytes: int = 32 * 1024
    # Names and values together; more is 431. One connection can hold this much before it is refused.
    max_header_bytes: int = 64 * 1024
    # A longer body is 413, at once when Content-Length announces it.
    max_body_bytes: int = 32 * MIB
    # Routes that take whole snapshots: they read their body piece by piece, so memory stays bounded.
    large_body_paths: frozenset[str] = frozenset({"/v1/operator/snapshot"})
    max_large_body_bytes: int = 4096 * MIB
    # The rest of a body that the application did not read is dropped up to here; beyond it the connection
    # closes, which is cheaper than receiving it.
    max_discard_bytes: int = 256 * 1024
    # Reading pauses while this much of a body waits for the application: TCP then slows the sender down.
    max_buffered_body_bytes: int = 256 * 1024
    # Reading pauses while this many pipelined requests wait. One read may bring more than that.
    max_pipelined: int = 16
    # From the first byte of a request to its blank line; slower is 408. Bounds what a slowloris can hold.
    header_timeout_s: float = 10.0
    # Between two pieces of a body; slower is 408.
    body_timeout_s: float = 30.0
    # Between two requests of one connection; then it is closed without a word. Longer than the pools of
    # usual clients keep theirs (Go: 90 s), so that they close first and lose no request to the race.
    idle_timeout_s: float = 120.0
    # One piece of at most 256 KiB must leave within this time, or the reader is taken for dead.
    write_timeout_s: float = 60.0
    tls_handshake_timeout_s: float = 10.0
    # A handler whose client hung up is cancelled after this grace. The grace lets a client that only closed
    # its sending half read a quick answer; blocking queries hold their place this much longer.
    disconnect_grace_s: float = 0.5
    # On shutdown, requests in flight get this long before they are cancelled.
    drain_timeout_s: float = 5.0
    # How long a refused connection is read out, so that the refusal is not lost to a TCP reset.
    linger_timeout_s: float = 1.0
    # 0 means no limit. Beyond it a connection is answered 503.
    max_connections: int = 4096
    # 0 means no limit. Beyond it a connection is answered 429. Unix sockets are not counted.
    max_connections_per_address: int = 100
    # Smaller bodies do not gain from compression.
    compress_min_bytes: int = 1024
    # A longer websocket message is closed with 1009.
    max_websocket_message_bytes: int = 4 * MIB

    def check(self) -> list[str]:
        """Every setting that cannot work, as sentences; empty when all is well."""
        problems = []
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, (int, float)) and value < 0:
                problems.append(f"{name} must not be negative, got {value}")
            elif name.endswith("_timeout_s") and value == 0 and name not in _MAY_BE_ZERO:
                problems.append(f"{name} must be more than zero seconds")
        if self.max_request_line_bytes < 16 or self.max_header_bytes < 64 or self.max_pipelined < 1:
            problems.append("max_request_line_bytes, max_header_bytes or max_pipelined leaves no room to work")
        return problems

    def limits(self) -> Limits:
        """The part that the request machine enforces."""
        return Limits(**{name: getattr(self, name) for name in Limits.__struct_fields__})


_MAY_BE_ZERO = frozenset({"drain_timeout_s", "linger_timeout_s"})


class HttpStatistics(msgspec.Struct, frozen=True):
    """What the HTTP server has done since it started, and holds now (``n_open_*``, ``n_in_flight``)."""

    n_open_connections: int
    n_open_websockets: int
    n_in_flight: int
    n_connections: int
    n_connections_refused: int
    n_requests: int
    n_requests_refused: int
    n_disconnects: int
    n_app_errors: int
    n_bytes_received: int
    n_bytes_sent: int
