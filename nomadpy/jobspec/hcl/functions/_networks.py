"""Functions over IP prefixes."""

from __future__ import annotations

import ipaddress
from decimal import Decimal

from nomadpy.jobspec.hcl.functions._registry import ArgumentError, Parameter, function
from nomadpy.jobspec.hcl.types import NUMBER, STRING
from nomadpy.jobspec.hcl.values import HclList

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PREFIX = Parameter("prefix", STRING)


def _network(prefix: str) -> Network:
    if "/" not in prefix:
        raise ArgumentError(0, f"invalid CIDR address: {prefix[:80]}")
    try:
        return ipaddress.ip_network(prefix, strict=False)
    except ValueError as wrong:
        raise ArgumentError(0, f"invalid CIDR address: {prefix[:80]}") from wrong


def _whole(at: int, number: int | Decimal) -> int:
    if not isinstance(number, int):
        raise ArgumentError(at, "must be a whole number")
    return number


@function("cidrhost", _PREFIX, Parameter("hostnum", NUMBER))
def cidr_host(prefix: str, number: int | Decimal) -> str:
    """The n-th address of a prefix, counted from its end when negative."""
    network, at = _network(prefix), _whole(1, number)
    if not -network.num_addresses <= at < network.num_addresses:
        bits = network.max_prefixlen - network.prefixlen
        raise ArgumentError(1, f"prefix of {network.prefixlen} has only {bits} host bits, too few for host {at}")
    return str(network[at])


@function("cidrnetmask", _PREFIX)
def cidr_netmask(prefix: str) -> str:
    network = _network(prefix)
    if network.version == 6:
        raise ArgumentError(0, "IPv6 addresses cannot have a netmask; use a prefix length")
    return str(network.netmask)


def _subnet(network: Network, length: int, address: int) -> str:
    return f"{ipaddress.ip_address(address) if network.version == 4 else ipaddress.IPv6Address(address)}/{length}"


@function("cidrsubnet", _PREFIX, Parameter("newbits", NUMBER), Parameter("netnum", NUMBER))
def cidr_subnet(prefix: str, new_bits: int | Decimal, number: int | Decimal) -> str:
    """The n-th subnet of a prefix extended by that many bits."""
    network, bits, at = _network(prefix), _whole(1, new_bits), _whole(2, number)
    length = _extended(network, bits, 1)
    if not 0 <= at < 1 << bits:
        raise ArgumentError(2, f"prefix extension of {bits} does not accommodate a subnet numbered {at}")
    size = network.max_prefixlen - length
    return _subnet(network, length, int(network.network_address) + (at << size))


def _extended(network: Network, bits: int, at: int) -> int:
    if bits < 0:
        raise ArgumentError(at, "must extend the prefix by zero or more bits")
    length = network.prefixlen + bits
    if length > network.max_prefixlen:
        room = network.max_prefixlen - network.prefixlen
        raise ArgumentError(at, f"insufficient address space: a /{network.prefixlen} can be extended by {room} bits")
    return length


@function("cidrsubnets", _PREFIX, variadic=Parameter("newbits", NUMBER))
def cidr_subnets(prefix: str, *new_bits: int | Decimal) -> HclList:
    """Consecutive subnets, one for each number of added bits, each at the next address that fits it."""
    network = _network(prefix)
    following, end = int(network.network_address), int(network.broadcast_address) + 1
    subnets: list[str] = []
    for at, given in enumerate(new_bits, start=1):
        bits = _whole(at, given)
        if bits < 1:
            raise ArgumentError(at, "must extend the prefix by at least one bit")
        length = _extended(network, bits, at)
        size = 1 << (network.max_prefixlen - length)
        start = -(-following // size) * size
        if start + size > end:
            raise ArgumentError(at, f"not enough remaining address space for a subnet with a prefix of {length} bits")
        subnets.append(_subnet(network, length, start))
        following = start + size
    return HclList(subnets)
