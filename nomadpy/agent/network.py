"""What an agent with a server and the others of its region have to do with each other: gossip, the port for agents, the
replicated log, and the ways that requests take."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from nomadpy.agent.config import AgentConfig
from nomadpy.agent.join import join_at_start, keep_joining
from nomadpy.agent.known_servers import KnownServer, KnownServers
from nomadpy.agent.late_log import LateLog
from nomadpy.agent.membership import (
    BUILD,
    PING,
    Places,
    admission,
    is_there,
    open_keyring,
    place_of,
    rpc_place_of,
    shown,
)
from nomadpy.api.forward import Way
from nomadpy.api.relay import handle_relay, way_over
from nomadpy.gossip.contract import Health, Member
from nomadpy.gossip.driver import Gossiper
from nomadpy.model.errors import Forbidden, NoLeader, NomadError, NotFound
from nomadpy.model.naming import Noun
from nomadpy.model.time import SECOND
from nomadpy.model.version import NOMAD_COMPATIBILITY_VERSION
from nomadpy.raft.contract import Apply, Log
from nomadpy.raft.links import Links
from nomadpy.raft.raftlog import RaftLog, Snapshots
from nomadpy.raft.settings import RaftSettings
from nomadpy.rpc.connection import Connection
from nomadpy.rpc.dial import Dialer
from nomadpy.rpc.frames import SERVER, Hello
from nomadpy.rpc.handlers import Handlers, Word
from nomadpy.rpc.listener import Listener, ListenerConfig, ListenerStatistics
from nomadpy.rpc.peers import NodeQuery, Peers, Roster, server_of_node
from nomadpy.rpc.through_leader import ThroughLeader
from nomadpy.rpc.tls import RpcTls
from nomadpy.rpc.words import serve_servers
from nomadpy.server.autopilot import server_members
from nomadpy.server.bootstrap import candidates
from nomadpy.server.bootstrapper import METHOD, Bootstrapper, bootstrap
from nomadpy.server.cluster import RaftCluster
from nomadpy.server.server import Server
from nomadpy.server.takeover import TAKEN_OVER, take_over_journal

log = logging.getLogger(__name__)

# How long a request waits for a leader (Nomad: rpc_hold_timeout).
_HOLD_S = 5.0
_LOOK_S = 0.05
_CALL_S = 5.0
_REACH_S = 1.0

BOOTSTRAP: Word[dict[str, Any], dict[str, Any]] = Word("Server.Bootstrap", dict[str, Any], dict[str, Any])


class CutOff(Noun):
    """Parameters of ``Server.NodeCutOff``: the connection of a node to a server ended."""

    node_id: str = ""


CUT_OFF: Word[CutOff, None] = Word("Server.NodeCutOff", CutOff, type(None))
REACH: Word[NodeQuery, bool] = Word("Server.ReachNode", NodeQuery, bool)


class ServerNetwork:
    """Built before the server, whose log it makes; ``attach`` gives it the server, then ``run`` may run."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        server_id: str,
        listeners: list[trio.SocketListener],
        rpc_addr: str,
        serf_bind: tuple[str, int],
        serf_addr: str,
        tls: RpcTls | None = None,
        sample: Callable[[], Health] | None = None,
    ) -> None:
        self._config, self.server_id, self._tls = config, server_id, tls
        self.rpc_addr = rpc_addr
        self._node_id = ""
        self._directory = Path(config.data_dir) / "server"
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._known = KnownServers(self._directory / "servers.json")
        self._in_cluster, self._cluster_id = False, ""
        self._strangers: set[str] = set()
        host, _, port = serf_addr.rpartition(":")
        self.gossip = Gossiper(
            f"{config.name}.{config.region}",
            bind=serf_bind,
            advertise=(host.strip("[]"), int(port)),
            tags=self._tags(),
            keyring=open_keyring(self._directory, config.encrypt),
            accept=self._accept,
            sample=sample,
        )
        self.handlers = Handlers()
        self.roster = Roster()
        self._dialer = Dialer(tls)
        hello = Hello(role=SERVER, name=config.name, id=server_id, region=config.region, build=BUILD)
        admit = admission(config.region, tls)
        self.peers = Peers(
            address_of=self.address_of, dial=self._dialer.rpc, hello=hello, handlers=self.handlers, admit=admit
        )
        self._listener = Listener(
            listeners,
            hello=hello,
            handlers=self.handlers,
            raft=self._serve_raft,
            tls=tls,
            admit=admit,
            config=ListenerConfig(
                handshake_s=config.rpc_handshake_timeout_ns / SECOND,
                connections_per_address=config.rpc_max_conns_per_client,
            ),
        )
        self._links: Links | None = None
        self._log: LateLog | None = None
        self._server: Server | None = None
        self._bootstrapper: Bootstrapper | None = None
        self._router: Way | None = None
        self._nursery: trio.Nursery | None = None
        self._places = Places(self.servers)
        self.endpoint: ThroughLeader

    # --- the log ---------------------------------------------------------------------------------------------------

    def make_log(self, apply: Apply) -> Log:
        """The replicated log of the server; it begins when it is known who votes first."""

        async def first() -> RaftLog:
            return await self._begin_log(apply)

        self._log = LateLog(first)
        return self._log

    def _take_over(self) -> bool:
        """Takes over what an earlier version stored; whether that is or was so. Such a server was a cluster of its
        own."""
        assert self._server is not None
        raft = self._directory / "raft"
        tracked = self._server.config.job_tracked_versions
        return take_over_journal(raft, name=self.server_id, tracked_versions=tracked) or (raft / TAKEN_OVER).exists()

    async def _begin_log(self, apply: Apply) -> RaftLog:
        assert self._bootstrapper is not None
        first = await bootstrap(self._bootstrapper, members=self._candidates, call=self._call_bootstrap)
        config, server = self._config, self._server
        assert server is not None
        made = RaftLog(
            self._directory / "raft",
            apply,
            name=self.server_id,
            voters=first.voters,
            send=self._send_raft,
            snapshots=Snapshots(
                server.freeze_state, server.restore_state, config.raft_snapshot_threshold, server.prepare_state
            ),
            settings=raft_settings(config),
        )
        self._links = Links(
            self.server_id,
            connect=self._connect_raft,
            receive=made.receive,
            lost=made.connection_reset,
            cluster_id=first.cluster_id,
            learn=self._learn_cluster,
        )
        assert self._nursery is not None
        await self._nursery.start(self._links.run)
        server.cluster = RaftCluster(server, made, lambda: server_members(self.servers(), config.region))
        if first.cluster_id:
            self._set_in_cluster(first.cluster_id)
        return made

    async def _learn_cluster(self, cluster_id: str) -> None:
        assert self._bootstrapper is not None
        await self._bootstrapper.learn(cluster_id)
        self._set_in_cluster(cluster_id)

    def _set_in_cluster(self, cluster_id: str) -> None:
        self._in_cluster, self._cluster_id = True, cluster_id
        self.gossip.set_tags(self._tags())

    def _send_raft(self, recipient: str, message: Any) -> None:
        if self._links is not None:
            self._links.send(recipient, message)

    async def _connect_raft(self, server_id: str) -> trio.abc.Stream:
        address = self.address_of(server_id)
        if address is None:
            raise OSError(f"the address of server {server_id} is not known")
        try:
            return await self._dialer.raft(address)
        except NomadError as error:
            raise OSError(error.message) from error

    async def _serve_raft(self, stream: trio.abc.Stream, names: frozenset[str], address: str) -> None:
        if self._links is None:
            await trio.aclose_forcefully(stream)
            return

        def allowed(server_id: str) -> bool:
            if not self._is_known(server_id):
                return False
            try:
                if self._tls is not None:
                    self._tls.check_pinned(names, self._name_of(server_id))
            except Forbidden as error:
                log.warning("raft.stream_refused", extra={"fields": {"address": address, "error": error.message}})
                return False
            return True

        await self._links.serve(stream, allowed=allowed)

    # --- who is there ----------------------------------------------------------------------------------------------

    def servers(self) -> list[Member]:
        """The servers of the region and cluster that gossip knows, whatever their status."""
        region = self._config.region
        known = (m for m in self.gossip.members() if m.is_server and m.tags.get("region") == region)
        return [m for m in known if not self._is_of_another_cluster(m)]

    def _is_of_another_cluster(self, member: Member) -> bool:
        """Whether it is a server that began or joined another cluster. Who belongs to none yet may become ours."""
        other = member.tags.get("cluster", "")
        return bool(other and self._cluster_id) and other != self._cluster_id

    def address_of(self, server_id: str) -> str | None:
        """Where a server listens for agents; None when nobody ever said, or another one lives there now, as after its
        disk was replaced: that one would get what is meant for both, over connections that cut each other off."""
        servers = self.servers()
        known = self._known.servers.get(server_id)
        place = next((rpc_place_of(m) for m in servers if m.tags.get("id") == server_id), known.rpc if known else None)
        tenants = (m.tags.get("id") for m in servers if is_there(m) and rpc_place_of(m) == place)
        return place if all(tenant == server_id for tenant in tenants) else None

    def _is_known(self, server_id: str) -> bool:
        in_log = self._log is not None and self._log.log is not None
        return self.address_of(server_id) is not None or (
            in_log and self._log.log.configuration().peer(server_id) is not None  # type: ignore[union-attr]
        )

    def _name_of(self, server_id: str) -> str:
        return next((m.name.partition(".")[0] for m in self.servers() if m.tags.get("id") == server_id), "")

    def _candidates(self) -> list[Any]:
        return candidates(self.gossip.members(), self._config.region)

    def _accept(self, member: Member) -> str | None:
        region = member.tags.get("region", "")
        if region != self._config.region:
            return f"{member.name} is of region {region}, this agent of {self._config.region}; regions are kept apart"
        if self._is_of_another_cluster(member):
            return (
                f"{member.name} belongs to cluster {member.tags['cluster']}, this agent to {self._cluster_id}: two "
                "clusters never become one; a server that is to change over has to start with an empty data_dir and "
                "without a bootstrap_expect of its own"
            )
        return None

    def _tags(self) -> dict[str, str]:
        config = self._config
        host, _, port = self.rpc_addr.rpartition(":")
        tags = {
            "role": "nomad",
            "region": config.region,
            "dc": config.datacenter,
            "id": self.server_id,
            "rpc_addr": host.strip("[]"),
            "port": port,
            "build": NOMAD_COMPATIBILITY_VERSION,
            "vsn": "1",
            "raft_vsn": "3",
        }
        if config.bootstrap_expect:
            tags["expect"] = str(config.bootstrap_expect)
        if config.bootstrap_expect == 1:
            tags["bootstrap"] = "1"
        if config.non_voting_server:
            tags["nonvoter"] = "1"
        if self._in_cluster:
            tags["raft"] = "1"
        if self._cluster_id:
            tags["cluster"] = self._cluster_id
        if config.client_enabled and self._node_id:
            tags["node"] = self._node_id
        return tags

    def set_node_id(self, node_id: str) -> None:
        """The client in the same agent is this node: one member stands for both."""
        self._node_id = node_id
        self.gossip.set_tags(self._tags())

    # --- running ---------------------------------------------------------------------------------------------------

    def attach(self, server: Server) -> None:
        """The server whose log this made."""
        self._server = server
        server.gossip = self.gossip
        server.known_servers = self.rpc_addresses
        server.gossip_servers = lambda: self._places.now()[1]
        self.endpoint = ThroughLeader(
            server.nodes,
            server_id=self.server_id,
            leader=self._leader_in_office,
            leader_changed=lambda: server.log.leadership_changed(server.log.leadership),
            peers=self.peers,
            rng=server.rng,
        )
        self.handlers.add(serve_servers(self.endpoint, passed_on=server.nodes, on_node=self._on_node))
        self.handlers.add(self.roster.handlers())
        self.handlers.on(BOOTSTRAP, self._answer_bootstrap)
        self.handlers.on(CUT_OFF, self._answer_cut_off)
        self.handlers.on(REACH, self._answer_reach)
        server.reach_node = self.reaches

    def serve_http(self, router: Way) -> None:
        """What answers requests that other agents pass on."""
        self._router = router
        self.handlers.add(handle_relay(router))

    def rpc_addresses(self) -> list[str]:
        """Where the servers that are there listen for agents."""
        return self._places.now()[0]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listens and gossips until cancelled. Raises Invalid when a port cannot be bound."""
        # A large journal takes a while to read; the rest belongs to the event loop.
        expect = 1 if await trio.to_thread.run_sync(self._take_over) else self._config.bootstrap_expect
        path = self._directory / "first-configuration.json"
        self._bootstrapper = Bootstrapper(self.server_id, expect, path, rng=random.SystemRandom())
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self.peers.run)
            nursery.start_soon(self.endpoint.run)
            await nursery.start(self._listener.run)
            await nursery.start(self.gossip.run)
            nursery.start_soon(self._remember_servers)
            task_status.started()

    async def join(self) -> None:
        """Looks for the other servers until cancelled."""
        port = self._config.ports.serf
        others = [known.gossip for one, known in self._known.servers.items() if one != self.server_id and known.gossip]
        if others:
            await self.gossip.join(others)
        await join_at_start(self._config.server_join, port, self.gossip.join)
        await keep_joining(self._config.server_join, port, self._join_others, until_alone=self._until_alone)

    async def _join_others(self, addresses: list[str]) -> tuple[int, list[str]]:
        """All servers of a new cluster may be given the same address; one of them finds itself there, and waits."""
        others = [address for address in addresses if address != shown(self.gossip.place)]
        if others:
            return await self.gossip.join(others)
        changes = 0
        while sum(map(is_there, self.servers())) < 2:
            changes = await self.gossip.wait_changes(changes)
        return 1, []

    async def _until_alone(self) -> None:
        """Until fewer servers are known than should be: those of a new cluster may have met in two halves."""
        changes = 0
        while sum(map(is_there, self.servers())) >= max(2, self._config.bootstrap_expect):
            changes = await self.gossip.wait_changes(changes)

    async def _remember_servers(self) -> None:
        changes = 0
        while True:
            self._tell_strangers()
            there = [m for m in self.servers() if is_there(m)]
            self._known.update({m.tags["id"]: KnownServer(rpc=rpc_place_of(m), gossip=place_of(m)) for m in there})
            changes = await self.gossip.wait_changes(changes)
            await trio.sleep(_LOOK_S)

    def _tell_strangers(self) -> None:
        """Servers that were met before they belonged to a cluster, and then began another one."""
        for member in self.gossip.members():
            if member.is_server and self._is_of_another_cluster(member) and member.name not in self._strangers:
                self._strangers.add(member.name)
                log.error("servers.other_cluster", extra={"fields": {"reason": self._accept(member)}})

    # --- what other agents say -------------------------------------------------------------------------------------

    async def _call_bootstrap(self, server_id: str, method: str, params: dict[str, Any]) -> Any:
        assert method == METHOD
        return await self.peers.call(server_id, BOOTSTRAP, params, timeout_s=_CALL_S)

    async def _answer_bootstrap(self, params: dict[str, Any], caller: Connection) -> dict[str, Any]:
        assert self._bootstrapper is not None
        return await self._bootstrapper.handle(params)

    def _on_node(self, node_id: str, connection: Connection) -> None:
        known = self.roster.get(node_id) is connection
        self.roster.put(node_id, connection)
        if not known and self._nursery is not None:
            self._nursery.start_soon(self._tell_end, node_id, connection)

    async def _tell_end(self, node_id: str, connection: Connection) -> None:
        """The end of a node's connection is the first sign that it may be lost."""
        await connection.closed()
        if self.roster.get(node_id) is not None:
            return
        self.gossip.confirm(node_id)
        leader = self._leader_id()
        try:
            if leader == self.server_id:
                self._note_cut_off(node_id)
            elif leader:
                await self.peers.call(leader, CUT_OFF, CutOff(node_id=node_id), timeout_s=_CALL_S)
        except NomadError as error:
            log.debug("node.end_not_told", extra={"fields": {"node": node_id, "error": error.message}})

    async def _answer_cut_off(self, params: CutOff, caller: Connection) -> None:
        if caller.peer.role == SERVER:
            self.gossip.confirm(params.node_id)
            self._note_cut_off(params.node_id)

    async def reaches(self, node_id: str) -> bool:
        """Whether a node answers over the connection that it holds to this server or to another one: what gossip cannot
        reach, behind a firewall, may well be alive."""
        with trio.move_on_after(_REACH_S):
            if self.roster.get(node_id) is not None:
                return await self._answers(node_id)
            others = [m.tags["id"] for m in self.servers() if is_there(m) and m.tags.get("id") != self.server_id]
            server_id = await server_of_node(self.peers, others, node_id, timeout_s=_REACH_S)
            if server_id:
                try:
                    return await self.peers.call(server_id, REACH, NodeQuery(node_id=node_id), timeout_s=_REACH_S)
                except NomadError as error:
                    log.debug("node.not_reached", extra={"fields": {"node": node_id, "error": error.message}})
        return False

    async def _answer_reach(self, params: NodeQuery, caller: Connection) -> bool:
        if caller.peer.role != SERVER:
            raise Forbidden("only servers may ask whether a node answers")
        return await self._answers(params.node_id)

    async def _answers(self, node_id: str) -> bool:
        connection = self.roster.get(node_id)
        if connection is None:
            return False
        try:
            await connection.call(PING, NodeQuery(node_id=node_id), timeout_s=_REACH_S)
        except NomadError as error:
            log.debug("node.no_answer", extra={"fields": {"node": node_id, "error": error.message}})
            return False
        return True

    def _note_cut_off(self, node_id: str) -> None:
        server = self._server
        if server is not None and server.leading and self.roster.get(node_id) is None:
            server.heartbeats.connection_broke(node_id, server.mono_ns())

    # --- the ways of requests (api.forward.Forwarding) ---------------------------------------------------------------

    def _leader_id(self) -> str:
        return self._log.leadership.leader if self._log is not None else ""

    def _leader_in_office(self) -> str:
        """The same, but not this server itself before its state holds what former leaders acknowledged."""
        leader = self._leader_id()
        return "" if leader == self.server_id and self._log is not None and not self._log.leadership.leading else leader

    def leader_address(self) -> str:
        """Where the leader listens for agents, "" when nobody is known to lead."""
        leader = self._leader_id()
        return (self.rpc_addr if leader == self.server_id else self.address_of(leader) or "") if leader else ""

    async def to_leader(self) -> Way:
        """The leader's router, which may be our own. Raises NoLeader."""
        problem = "No cluster leader"
        with trio.move_on_after(_HOLD_S):
            while True:
                leader = self._leader_id()
                if self._server is not None and self._server.leading and self._router is not None:
                    return self._router
                if leader and leader != self.server_id:
                    try:
                        return way_over(await self.peers.connection(leader))
                    except NomadError as error:
                        problem = f"No path to the leader: {error.message}"
                await trio.sleep(_LOOK_S)
        raise NoLeader(problem)

    async def to_server(self) -> Way:
        """This agent has a server."""
        return await self.to_leader()

    async def to_node(self, node_id: str) -> Way:
        """Over the connection that the node holds to this server or to another one."""
        connection = self.roster.get(node_id)
        if connection is not None:
            return way_over(connection)
        others = [m.tags["id"] for m in self.servers() if is_there(m) and m.tags.get("id") != self.server_id]
        server_id = await server_of_node(self.peers, others, node_id)
        if not server_id:
            raise NotFound("No path to node")
        return way_over(await self.peers.connection(server_id))

    async def to_peer(self, server: str) -> Way:
        """Another server by its member's name, its node name or its id; ``leader`` is whoever leads."""
        if server == "leader":
            return await self.to_leader()
        for member in self.servers():
            server_id = member.tags.get("id", "")
            if server in (member.name, member.name.rpartition(".")[0], server_id) and server_id != self.server_id:
                return way_over(await self.peers.connection(server_id))
        raise NomadError(f"unknown Nomad server {server}")

    def listener_statistics(self) -> ListenerStatistics:
        """What happened on the port for agents."""
        return self._listener.statistics()

    def contact(self) -> tuple[bool, int]:
        """Whether a leader is known, and milliseconds since it was heard."""
        raft = self._log.log if self._log is not None else None
        if raft is None:
            return False, 0
        return bool(raft.leadership.leader), int(raft.leader_silence_s() * 1000)


def raft_settings(config: AgentConfig) -> RaftSettings:
    """The log's timing and sizes as configured."""
    return RaftSettings(trailing_entries=config.raft_trailing_logs).scaled(config.raft_multiplier)
