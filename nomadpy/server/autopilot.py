"""How the leader looks after the other servers: whom it takes in, lets vote, and lets go. A machine without I/O.

Every look makes at most one change, and none while another is under way:

1. **Take in.** A living server of the region that is not in the configuration is served as a learner.
2. **Let vote.** A learner that was healthy (gossip reaches it, it answers, it lacks few entries) for the whole
   ``ServerStabilizationTime`` becomes a voter. While fewer than three vote, learners that together make it three are
   promoted as soon as they are healthy: until then the region survives no failure at all, so waiting protects nothing.
   (One alone is not: two voters are worse than one, because either one's failure stops them.)
3. **Let go who left.** A server that said goodbye is removed at once.
4. **Let go who died** (``CleanupDeadServers``), later than Nomad, which removes a failed server as soon as a majority
   is left. A removed server that comes back has to be taken in again; if another one fails before that, three servers
   that shrank to two stand still, where three with the dead one back would not. So a failed voter is removed

   - when it is surplus: with an even number of voters (its replacement was promoted, four of three) one fewer bears as
     many failures, and the dead one is the one to go; after the stabilization time;
   - when it did not come back for ``LONG_GONE_S`` and at least three remain.

   And never when ``MinQuorum`` voters would not remain, or when those that remain had no healthy majority.

An operator's removal holds: that server is not taken in again before it was restarted or away.

Source: Nomad's autopilot for names, defaults and the report.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from nomadpy.gossip.contract import ALIVE, FAILED, LEFT, SUSPECT, Member
from nomadpy.model.autopilot import AutopilotConfig, OperatorHealthReply, ServerHealth
from nomadpy.model.time import SECOND
from nomadpy.raft.configuration import Configuration, Peer

LONG_GONE_S = 72 * 3600.0
_VOTERS_WANTED = 3

Deed = Literal["add-learner", "promote", "remove-voter", "remove-learner"]


class Action(msgspec.Struct, frozen=True):
    """One change of the configuration, and why, for people."""

    deed: Deed
    server: str
    reason: str


class ServerMember(msgspec.Struct, frozen=True, kw_only=True):
    """A server of the region as gossip shows it."""

    id: str
    name: str = ""
    address: str = ""
    status: str = ALIVE
    version: str = ""
    nonvoter: bool = False

    @property
    def is_alive(self) -> bool:
        """Whether gossip reaches it, as far as it knows."""
        return self.status in (ALIVE, SUSPECT)


def server_members(members: Iterable[Member], region: str) -> dict[str, ServerMember]:
    """The servers of a region by id. Of two members with one id (renamed, or moved) the one that lives counts."""
    found: dict[str, ServerMember] = {}
    for member in members:
        tags = member.tags
        server_id = tags.get("id", "")
        if not member.is_server or tags.get("region") != region or not server_id:
            continue
        if server_id in found and found[server_id].is_alive:
            continue
        host = tags.get("rpc_addr") or member.address
        found[server_id] = ServerMember(
            id=server_id,
            name=member.name,
            address=f"[{host}]:{tags.get('port', '')}" if ":" in host else f"{host}:{tags.get('port', '')}",
            status=member.status,
            version=tags.get("build", ""),
            nonvoter=bool(tags.get("nonvoter")),
        )
    return found


class Autopilot:
    """The judgement of one leader during its term. Times are monotonic seconds."""

    def __init__(self, own_id: str) -> None:
        self._id = own_id
        self._healthy_since: dict[str, float] = {}
        self._gone_since: dict[str, float] = {}
        self._expelled: set[str] = set()

    def expel(self, server: str) -> None:
        """An operator removed it: it is not taken in again as long as it just goes on running."""
        self._expelled.add(server)

    def look(
        self, now: float, configuration: Configuration, members: dict[str, ServerMember], config: AutopilotConfig
    ) -> Action | None:
        """Notes how everybody is doing; the one change to be made now, if any."""
        self._note(now, configuration, members, config)
        if not configuration.leading or not configuration.settled:
            return None
        return (
            self._let_go_who_left(configuration, members)
            or self._let_vote(now, configuration, members, config)
            or self._let_go_who_died(now, configuration, members, config)
            or self._take_in(now, configuration, members, config)
        )

    def report(
        self, now: float, wall_ns: int, configuration: Configuration, members: dict[str, ServerMember],
        config: AutopilotConfig,
    ) -> OperatorHealthReply:  # fmt: skip
        """How the servers are doing."""
        self._note(now, configuration, members, config)
        servers = tuple(self._health(now, wall_ns, peer, configuration, members) for peer in configuration.peers)
        voters = configuration.voters
        return OperatorHealthReply(
            healthy=bool(servers) and all(server.healthy for server in servers),
            failure_tolerance=max(0, self._healthy_of(voters) - (len(voters) // 2 + 1)),
            servers=servers,
            leader=configuration.leader,
            voters=voters,
        )

    # --- how they are doing ----------------------------------------------------------------------------------------

    def _note(
        self, now: float, configuration: Configuration, members: dict[str, ServerMember], config: AutopilotConfig
    ) -> None:
        self._expelled = {server for server in self._expelled if server in members and members[server].is_alive}
        known = {peer.server for peer in configuration.peers}
        for table in (self._healthy_since, self._gone_since):
            for server in [server for server in table if server not in known]:
                del table[server]
        for peer in configuration.peers:
            member = members.get(peer.server)
            if self._is_healthy(peer, member, config):
                self._healthy_since.setdefault(peer.server, now)
            else:
                self._healthy_since.pop(peer.server, None)
            # Only gossip says that one is gone: what does not answer may be slow, or just behind a bad link.
            if peer.server != self._id and (member is None or member.status in (FAILED, LEFT)):
                self._gone_since.setdefault(peer.server, now)
            else:
                self._gone_since.pop(peer.server, None)

    def _is_healthy(self, peer: Peer, member: ServerMember | None, config: AutopilotConfig) -> bool:
        if peer.server == self._id:
            return True
        if member is None or not member.is_alive or peer.contact_s is None:
            return False
        in_touch = peer.contact_s * SECOND <= config.last_contact_threshold_ns
        return in_touch and peer.match_index > 0 and peer.lag <= config.max_trailing_logs

    def _healthy_of(self, servers: Iterable[str]) -> int:
        return sum(server in self._healthy_since for server in servers)

    def _health(
        self, now: float, wall_ns: int, peer: Peer, configuration: Configuration, members: dict[str, ServerMember]
    ) -> ServerHealth:
        member = members.get(peer.server)
        since = self._healthy_since.get(peer.server)
        return ServerHealth(
            id=peer.server,
            name=member.name if member else "(unknown)",
            address=member.address if member else "",
            serf_status=member.status if member else "none",
            version=member.version if member else "",
            leader=peer.server == configuration.leader,
            last_contact_ns=int((peer.contact_s or 0.0) * SECOND),
            last_term=peer.last_term,
            last_index=peer.match_index,
            healthy=since is not None,
            voter=peer.voter,
            stable_since_ns=wall_ns - int((now - since) * SECOND) if since is not None else 0,
        )

    # --- what to do ------------------------------------------------------------------------------------------------

    def _take_in(
        self, _now: float, configuration: Configuration, members: dict[str, ServerMember], _config: AutopilotConfig
    ) -> Action | None:
        for server, member in sorted(members.items()):
            wanted = member.is_alive and not member.nonvoter and server not in self._expelled
            if wanted and configuration.peer(server) is None:
                return Action("add-learner", server, "a server of this region that does not belong to the log yet")
        for server in configuration.learners:
            if server in self._gone_since:
                return Action("remove-learner", server, "it is gone, and did not vote")
        return None

    def _let_vote(
        self, now: float, configuration: Configuration, members: dict[str, ServerMember], config: AutopilotConfig
    ) -> Action | None:
        ready = [
            server
            for server in configuration.learners
            if server in self._healthy_since and not members[server].nonvoter and server not in self._expelled
        ]
        n_voters = len(configuration.voters)
        if n_voters < _VOTERS_WANTED <= n_voters + len(ready):
            return Action("promote", ready[0], f"{n_voters} voters bear no failure, and there are enough for three")
        for server in ready:
            if now - self._healthy_since[server] >= config.server_stabilization_time_ns / SECOND:
                return Action("promote", server, "it was healthy for the stabilization time")
        return None

    def _let_go_who_left(self, configuration: Configuration, members: dict[str, ServerMember]) -> Action | None:
        for server in configuration.voters:
            member = members.get(server)
            gone = member is not None and member.status == LEFT and server != self._id
            if gone and self._bears_removal(configuration, server, 0):
                return Action("remove-voter", server, "it left")
        return None

    def _let_go_who_died(
        self, now: float, configuration: Configuration, members: dict[str, ServerMember], config: AutopilotConfig
    ) -> Action | None:
        if not config.cleanup_dead_servers:
            return None
        voters = configuration.voters
        gone = [server for server in voters if server in self._gone_since]
        for server in sorted(gone, key=lambda name: (self._gone_since[name], name)):
            gone_s = now - self._gone_since[server]
            if not self._bears_removal(configuration, server, config.min_quorum):
                continue
            if len(voters) % 2 == 0 and gone_s >= config.server_stabilization_time_ns / SECOND:
                return Action("remove-voter", server, f"it is gone, and {len(voters) - 1} voters bear as many failures")
            if gone_s >= LONG_GONE_S and len(voters) - 1 >= _VOTERS_WANTED:
                return Action("remove-voter", server, f"it has been gone for {gone_s / 3600:.0f} hours")
        return None

    def _bears_removal(self, configuration: Configuration, server: str, min_quorum: int) -> bool:
        rest = [voter for voter in configuration.voters if voter != server]
        return len(rest) >= max(1, min_quorum) and 2 * self._healthy_of(rest) > len(rest)
