"""Dialing another agent's port 4647: TCP, TLS where it is configured, and the byte that says what follows."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

import trio

from nomadpy.model.errors import Forbidden, Invalid, NomadError
from nomadpy.rpc.handlers import NotConnected

RAFT, RPC = b"\x01", b"\x02"
PORT = 4647
CONNECT_TIMEOUT_S = 3.0
# A peer whose machine vanished is noticed within about half a minute even where nothing is said.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4))
_USER_TIMEOUT_MS = 30_000

Dial: TypeAlias = Callable[[str], Awaitable[tuple[trio.abc.Stream, frozenset[str]]]]
"""An address to a stream and the names in the certificate at its other end (none without TLS)."""


class DialingTls(Protocol):
    """What dialing needs of TLS."""

    def wrap_dialed(self, stream: trio.SocketStream) -> trio.SSLStream[trio.SocketStream]:
        """TLS over a stream; no handshake has been made."""

    def check_server(self, names: frozenset[str]) -> None:
        """Raises Forbidden when a certificate with these names is not one of a server."""

    def check_pinned(self, names: frozenset[str], node_name: str) -> None:
        """Raises Forbidden when the certificate is for other servers only."""

    def explain(self, error: BaseException) -> str:
        """Why a handshake failed."""


def split_address(address: str, port: int = PORT) -> tuple[str, int]:
    """Host and port of ``host``, ``host:port``, ``[v6]:port`` or a bare IPv6 address. Raises Invalid."""
    host, colon, digits = address.rpartition(":")
    if not colon or address.endswith("]") or (":" in host.strip("[]") and not host.startswith("[")):
        host, digits = address, str(port)
    if not host.strip("[]") or not digits.isdecimal() or not 0 < int(digits) < 65536:
        raise Invalid(f'"{address}" is not an address: write host:port, such as 10.0.0.1:{port}')
    return host.strip("[]"), int(digits)


def keep_alive(stream: trio.SocketStream) -> None:
    """Lets the kernel notice a machine that vanished."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        stream.setsockopt(socket.IPPROTO_TCP, option, value)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)


def certificate_names(stream: trio.abc.Stream) -> frozenset[str]:
    """The DNS names in the certificate that the other end showed; none without TLS. The handshake must be over."""
    if not isinstance(stream, trio.SSLStream):
        return frozenset()
    certificate = stream.getpeercert() or {}
    return frozenset(name for kind, name in certificate.get("subjectAltName", ()) if kind == "DNS")


class Dialer:
    """Dials servers. ``rpc`` and ``raft`` are the two kinds of connections."""

    def __init__(self, tls: DialingTls | None = None, *, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        self._tls, self._timeout_s = tls, timeout_s

    async def rpc(self, address: str) -> tuple[trio.abc.Stream, frozenset[str]]:
        """A stream for a ``Connection``. Raises NotConnected or Forbidden with the reason."""
        return await self._dial(address, RPC)

    async def raft(self, address: str, *, node_name: str = "") -> trio.abc.Stream:
        """A stream for ``raft.links``. ``node_name`` is the server that should be there: a certificate that is for
        another one is refused. Raises ConnectionError with the reason."""
        try:
            stream, names = await self._dial(address, RAFT)
        except NomadError as error:
            raise ConnectionError(error.message) from error
        if self._tls is not None and node_name:
            try:
                self._tls.check_pinned(names, node_name)
            except Forbidden as error:
                await trio.aclose_forcefully(stream)
                raise ConnectionError(f"{address}: {error.message}") from error
        return stream

    async def _dial(self, address: str, kind: bytes) -> tuple[trio.abc.Stream, frozenset[str]]:
        host, port = split_address(address)
        stream: trio.abc.Stream | None = None
        try:
            with trio.fail_after(self._timeout_s):
                stream = plain = await trio.open_tcp_stream(host, port)
                keep_alive(plain)
                if self._tls is not None:
                    stream = self._tls.wrap_dialed(plain)
                    await stream.do_handshake()
                    self._tls.check_server(certificate_names(stream))
                await stream.send_all(kind)
        except BaseException as error:
            if stream is not None:
                await trio.aclose_forcefully(stream)
            if isinstance(error, Forbidden):
                raise Forbidden(f"{address}: {error.message}") from error
            if isinstance(error, trio.TooSlowError):
                raise NotConnected(f"{address} did not answer within {self._timeout_s:g} s") from error
            if isinstance(error, OSError | ssl.SSLError | trio.BrokenResourceError):
                raise NotConnected(f"cannot connect to {address}: {self._explain(error)}") from error
            raise
        return stream, certificate_names(stream)

    def _explain(self, error: BaseException) -> str:
        return self._tls.explain(error) if self._tls is not None else str(error.__cause__ or error)
