"""The servers that the client of an agent talks to, as operators see and change them."""

from __future__ import annotations

from collections.abc import Callable

from nomadpy.agent.join import with_port
from nomadpy.model.errors import Invalid
from nomadpy.rpc.remote import RemoteServers

_RPC_PORT = 4647


class OwnServer:
    """Those of a client that lives in one agent with a server: it asks that one, which passes on what it has to."""

    def __init__(self, known: Callable[[], list[str]], own: str) -> None:
        self._known, self._own = known, own

    def servers(self) -> tuple[str, ...]:
        """All servers that are there, the own one first."""
        return tuple(dict.fromkeys((self._own, *self._known())))

    def set_servers(self, addresses: list[str]) -> None:
        """Never."""
        raise Invalid("this client lives in one agent with a server and uses that one: it cannot be told others")


class OtherServers:
    """Those of a client whose agent has no server."""

    def __init__(self, remote: RemoteServers) -> None:
        self._remote = remote

    def servers(self) -> tuple[str, ...]:
        """All that are known, the one in use first."""
        return self._remote.servers()

    def set_servers(self, addresses: list[str]) -> None:
        """Replaces them; a connection that works is kept. Raises Invalid when one is no address."""
        self._remote.set_servers([_address(address) for address in addresses])


def _address(text: str) -> str:
    address = with_port(text.strip(), _RPC_PORT)
    host, _, port = address.rpartition(":")
    if not host.strip("[]") or any(char in host for char in "/@ \t") or not 0 < int(port) < 65536:
        raise Invalid(f'"{text}" is no address of a server: host or host:port is')
    return address
