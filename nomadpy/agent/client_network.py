"""The way of an agent without a server to the servers of its region."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path

import trio

from nomadpy.agent.config import AgentConfig
from nomadpy.agent.join import join_at_start, keep_joining, with_port
from nomadpy.agent.membership import BUILD, PING, admission, is_there, open_keyring
from nomadpy.api.forward import Way
from nomadpy.api.relay import handle_relay, way_over
from nomadpy.gossip.contract import Health, Member
from nomadpy.gossip.driver import Gossiper
from nomadpy.model.errors import NoLeader
from nomadpy.model.ids import EDGE_RNG
from nomadpy.rpc.connection import Connection
from nomadpy.rpc.contract import NodeLease, ServerEndpoint
from nomadpy.rpc.dial import Dialer
from nomadpy.rpc.frames import CLIENT, Hello
from nomadpy.rpc.handlers import Handlers
from nomadpy.rpc.peers import NodeQuery
from nomadpy.rpc.remote import RemoteServers
from nomadpy.rpc.tls import RpcTls

log = logging.getLogger(__name__)

# How long a request waits for a server.
_HOLD_S = 5.0


class ClientNetwork:
    """The way of a client without a server in its agent to the servers."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        node_id: str,
        serf_bind: tuple[str, int],
        serf_addr: str,
        tls: RpcTls | None = None,
        sample: Callable[[], Health] | None = None,
    ) -> None:
        self._config = config
        self.handlers = Handlers()
        self.handlers.on(PING, self._answer_ping)
        host, _, port = serf_addr.rpartition(":")
        tags = {"role": "client", "region": config.region, "dc": config.datacenter, "id": node_id, "name": config.name}
        directory = Path(config.data_dir) / "client"
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.gossip = Gossiper(
            node_id,
            bind=serf_bind,
            advertise=(host.strip("[]"), int(port)),
            tags=tags,
            keyring=open_keyring(directory, config.encrypt),
            accept=self._accept,
            sample=sample,
        )
        hello = Hello(role=CLIENT, name=config.name, id=node_id, region=config.region, build=BUILD)
        given = [with_port(address, 4647) for address in config.client_servers]
        self.remote = RemoteServers(
            given,
            dial=Dialer(tls).rpc,
            hello=hello,
            handlers=self.handlers,
            rng=random.Random(EDGE_RNG.getrandbits(64)),
            admit=admission(config.region, tls),
        )
        self.endpoint: ServerEndpoint = self.remote
        self._gossip_errors: list[str] = []
        self._given = given

    def _accept(self, member: Member) -> str | None:
        region = member.tags.get("region", "")
        if region != self._config.region:
            return f"{member.name} is of region {region}, this agent of {self._config.region}; regions are kept apart"
        return None

    def serve_http(self, router: Way) -> None:
        """What answers requests that servers pass on."""
        self.handlers.add(handle_relay(router))

    async def _answer_ping(self, params: NodeQuery, caller: Connection) -> None:
        await trio.lowlevel.checkpoint()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Holds a connection to some server and gossips until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.gossip.run)
            nursery.start_soon(self.remote.run)
            task_status.started()

    async def join(self) -> None:
        """Adds the servers that ``retry_join`` names."""
        join = self._config.client_join

        async def take(addresses: list[str]) -> tuple[int, list[str]]:
            self._given = list(dict.fromkeys([*self._given, *addresses]))
            self.remote.set_servers(self._given)
            try:
                await self.remote.connected(_HOLD_S)
            except NoLeader as error:
                return 0, [error.message]
            return 1, []

        await join_at_start(join, 4647, take)
        await keep_joining(join, 4647, take, until_alone=trio.sleep_forever)

    async def hear_lease(self, lease: NodeLease) -> None:
        """Joins gossip where the servers say that they gossip."""
        if lease.gossip and not any(m.is_server and is_there(m) for m in self.gossip.members()):
            _, errors = await self.gossip.join(list(lease.gossip))
            if errors and errors != self._gossip_errors:
                log.warning("gossip.not_joined", extra={"fields": {"errors": errors}})
            self._gossip_errors = errors

    async def to_leader(self) -> Way:
        """Any server knows the way."""
        return await self.to_server()

    async def to_server(self) -> Way:
        """The server that this client is connected to. Raises NoLeader."""
        return way_over(await self.remote.connected(_HOLD_S))

    async def to_node(self, node_id: str) -> Way:
        """Servers know where nodes are."""
        return await self.to_server()

    async def to_peer(self, server: str) -> Way:
        """Servers know each other."""
        return await self.to_server()

    def contact(self) -> tuple[bool, int]:
        """The servers say so themselves."""
        return self.remote.connection is not None, 0
