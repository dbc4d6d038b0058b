"""The servers of a region among themselves, as the API and operators see and change them.

``SingleServer`` is for a server whose log has no others; ``RaftCluster`` for one with a replicated log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import trio

from nomadpy.model.autopilot import (
    LeadershipTransfer,
    OperatorHealthReply,
    PeerAddress,
    RaftServer,
    ServerHealth,
)
from nomadpy.model.errors import Conflict, NomadError, Refused, TimedOut, Unavailable
from nomadpy.raft.raftlog import RaftLog
from nomadpy.server.autopilot import Action, Autopilot, ServerMember

if TYPE_CHECKING:
    from nomadpy.server.server import Server

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_HANDOVER_TRIES = 2


class Cluster(Protocol):
    """What routes ask. All but ``servers`` is for the leader; followers raise NoLeader."""

    def servers(self) -> tuple[list[RaftServer], int]:
        """The servers of the log, sorted by id, and the index of the entry that made them so."""

    async def remove_peer(self, server: str) -> None:
        """Removes a server. Raises NomadError (500) with Nomad's text when it is unknown, Conflict when it may not be
        removed now, with the reason."""

    async def transfer_leadership(self, *, server: str = "", address: str = "") -> LeadershipTransfer:
        """Hands the leadership over to the server with that id or address. Raises Refused (400) when it is unknown."""

    def health(self) -> OperatorHealthReply:
        """How the servers are doing."""


def unknown_peer(server: str) -> NomadError:
    """Nomad's words for a peer that is not there."""
    return NomadError(f'id "{server}" was not found in the Raft configuration')


def cluster_of(server: Server) -> Cluster:
    """The cluster that the agent attached as ``server.cluster``; that of a single server where it did not."""
    attached: Cluster | None = getattr(server, "cluster", None)
    return attached or SingleServer(server)


class SingleServer:
    """The cluster of a server that has its log to itself."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def servers(self) -> tuple[list[RaftServer], int]:
        """This one."""
        config = self._server.config
        me = RaftServer(
            id=config.id,
            node=f"{config.name}.{config.region}",
            address=config.rpc_addr,
            leader=self._server.log.is_leader,
        )
        return [me], 0

    async def remove_peer(self, server: str) -> None:
        """Never."""
        await trio.lowlevel.checkpoint()
        if server != self._server.config.id:
            raise unknown_peer(server)
        raise Conflict("the only server of a region cannot be removed")

    async def transfer_leadership(self, *, server: str = "", address: str = "") -> LeadershipTransfer:
        """To itself, which changes nothing."""
        await trio.lowlevel.checkpoint()
        (me,), _ = self.servers()
        _find([me], server, address)
        peer = PeerAddress(id=me.id, address=me.address)
        return LeadershipTransfer(from_=peer, to=peer, noop=True)

    def health(self) -> OperatorHealthReply:
        """Well, as long as it leads."""
        server, (me,) = self._server, self.servers()[0]
        figures = server.log.statistics()
        return OperatorHealthReply(
            healthy=me.leader,
            servers=(
                ServerHealth(
                    id=me.id,
                    name=me.node,
                    address=me.address,
                    serf_status="alive",
                    leader=me.leader,
                    last_term=figures.term,
                    last_index=figures.last_index,
                    healthy=me.leader,
                    voter=True,
                    stable_since_ns=server.started_ns,
                ),
            ),
            leader=me.id if me.leader else "",
            voters=(me.id,),
        )


class RaftCluster:
    """The cluster of a server with a replicated log. ``members`` gives the servers of the region that gossip knows, by
    id. Attach it as ``server.cluster``, and have the leader run ``pilot``."""

    def __init__(self, server: Server, raft: RaftLog, members: Callable[[], dict[str, ServerMember]]) -> None:
        self._server, self._raft, self._members = server, raft, members
        self._autopilot = Autopilot(server.config.id)

    def servers(self) -> tuple[list[RaftServer], int]:
        """Voters and learners, as this server knows them."""
        configuration, members = self._raft.configuration(), self._members()
        found = []
        for peer in configuration.peers:
            member = members.get(peer.server)
            one = RaftServer(id=peer.server, leader=peer.server == configuration.leader, voter=peer.voter)
            if peer.server == self._server.config.id:
                config = self._server.config
                one = one.replace(node=f"{config.name}.{config.region}", address=config.rpc_addr)
            elif member is not None:
                one = one.replace(node=member.name, address=member.address)
            found.append(one)
        return found, configuration.index

    async def remove_peer(self, server: str) -> None:
        """Removes a voter or a learner, dead or alive. One that runs on is not taken in again before it was away."""
        configuration = self._raft.configuration()
        peer = configuration.peer(server)
        if peer is None:
            raise unknown_peer(server)
        if configuration.voters == (server,):
            raise Conflict("the only server of a region cannot be removed")
        if server == configuration.leader:
            text = "transfer the leadership first (operator raft transfer-leadership), then remove it"
            raise Conflict(f"server {server} leads the region; {text}")
        if peer.voter:
            await self._raft.change_voters("remove", server)
        else:
            await self._raft.remove_learner(server)
        self._autopilot.expel(server)
        log.warning("raft.peer_removed", extra={"fields": {"server": server, "by": "operator"}})

    async def transfer_leadership(self, *, server: str = "", address: str = "") -> LeadershipTransfer:
        """Hands over; ``err`` tells why that did not succeed. A successor that has just started may need a while."""
        servers, _ = self.servers()
        to = _find(servers, server, address)
        leader = next((one for one in servers if one.leader), RaftServer())
        answer = LeadershipTransfer(
            from_=PeerAddress(id=leader.id, address=leader.address), to=PeerAddress(id=to.id, address=to.address)
        )
        if to.leader:
            return answer.replace(noop=True)
        if not to.voter:
            raise Refused(f"server {to.id} does not vote, and cannot lead", status=400)
        problem = ""
        for _ in range(_HANDOVER_TRIES):
            try:
                now = await self._raft.transfer_leadership(to.id)
            except TimedOut as error:
                problem = error.message
                continue
            return answer if now.leader == to.id else answer.replace(err=f"server {now.leader} leads now instead")
        return answer.replace(err=problem)

    def health(self) -> OperatorHealthReply:
        """How the servers are doing, as the leader sees it."""
        server = self._server
        return self._autopilot.report(
            trio.current_time(),
            server.wall_ns(),
            self._raft.configuration(),
            self._members(),
            server.store.autopilot_config,
        )

    async def pilot(self) -> None:
        """Looks after the servers until cancelled; to be run by the leader, one run per term."""
        self._autopilot = Autopilot(self._server.config.id)
        while True:
            configuration = self._raft.configuration()
            members, config = self._members(), self._server.store.autopilot_config
            action = self._autopilot.look(trio.current_time(), configuration, members, config)
            if action is not None:
                await self._carry_out(action)
            await trio.sleep(_LOOK_S)

    async def _carry_out(self, action: Action) -> None:
        fields = {"server": action.server, "deed": action.deed, "reason": action.reason}
        try:
            match action.deed:
                case "add-learner":
                    await self._raft.add_learner(action.server)
                case "promote":
                    await self._raft.change_voters("add", action.server)
                case "remove-voter":
                    await self._raft.change_voters("remove", action.server)
                case "remove-learner":
                    await self._raft.remove_learner(action.server)
        except (Refused, Unavailable) as error:
            # The next look decides anew.
            log.warning("autopilot.not_yet", extra={"fields": {**fields, "error": error.message}})
        else:
            log.info("autopilot.changed", extra={"fields": fields})


def _find(servers: list[RaftServer], server: str, address: str) -> RaftServer:
    for one in servers:
        if (server and one.id == server) or (address and one.address == address):
            return one
    what = f'id "{server}"' if server else f'address "{address}"'
    raise Refused(f"{what} was not found in the Raft configuration", status=400)
