"""Where agents are: ``host:port`` as people write it, and IP addresses."""

from __future__ import annotations

import ipaddress

import trio

from nomadpy.gossip.settings import DEFAULT_PORT
from nomadpy.model.errors import Invalid


def parse(text: str, default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """Host and port of ``host``, ``host:port``, ``[v6]:port`` or a bare IPv6 address. Raises Invalid.

    >>> parse("10.0.0.1"), parse("db.local:5000"), parse("[::1]:5000"), parse("fe80::1")
    (('10.0.0.1', 4648), ('db.local', 5000), ('::1', 5000), ('fe80::1', 4648))
    """
    text = text.strip()
    host, port = text, ""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise Invalid(f"{text!r} is not an address: write [IPv6]:port")
        port = port[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or (port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536)):
        raise Invalid(f"{text!r} is not an address: write host or host:port, with a port of 1 to 65535")
    return host, int(port) if port else default_port


def show(place: tuple[str, int]) -> str:
    """A place as people write it.

    >>> show(("::1", 4648))
    '[::1]:4648'
    """
    host = f"[{place[0]}]" if ":" in place[0] else place[0]
    return f"{host}:{place[1]}"


async def resolve(host: str, port: int) -> list[tuple[str, int]]:
    """Every place that a host stands for. Raises OSError (gaierror) when it is not known."""
    found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_DGRAM)
    return sorted({(str(sockaddr[0]), int(sockaddr[1])) for *_, sockaddr in found})


def advertised(bind: tuple[str, int], advertise: tuple[str, int] | None, port: int) -> tuple[str, int]:
    """What others are told: ``advertise`` (port 0 stands for the bound one) or the bound address. Raises Invalid when
    that is no IP address that others could reach."""
    host, wanted = advertise or (bind[0], 0)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise Invalid(f"the advertised gossip address {host!r} must be an IP address") from None
    if address.is_unspecified:
        raise Invalid(f"gossip is bound to {host}: advertise an address that others can reach (advertise.serf)")
    return str(address), wanted or port
