"""The UDP socket and the TCP listener of an agent, on one port."""

from __future__ import annotations

import errno
import socket

import trio

_BUFFER_BYTES = 1 << 20
_TRIES = 20
_BACKLOG = 128


def open_both(host: str, port: int) -> tuple[socket.socket, trio.SocketListener]:
    """Both, bound to the same address; port 0 finds one that is free for both. Raises OSError."""
    for attempt in range(_TRIES):
        packets = _bound(host, port, socket.SOCK_DGRAM)
        try:
            listener = _bound(host, packets.getsockname()[1], socket.SOCK_STREAM)
        except OSError as error:
            packets.close()
            if port or error.errno != errno.EADDRINUSE or attempt + 1 == _TRIES:
                raise
            continue
        listener.listen(_BACKLOG)
        return packets, trio.SocketListener(trio.socket.from_stdlib_socket(listener))
    raise OSError(errno.EADDRINUSE, "no port is free for both UDP and TCP")


def _bound(host: str, port: int, kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, kind)
    try:
        sock.setblocking(False)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            # A burst of news must not be lost while this agent is busy.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock
