"""What operators see and set of the servers among themselves: Raft's members, their health, and the autopilot."""

from __future__ import annotations

from msgspec import field

from nomadpy.model.naming import Noun
from nomadpy.model.time import SECOND, DurationText, Moment


class AutopilotConfig(Noun):
    """How the leader looks after the servers; kept in replicated state. Nomad's ``LastContactThreshold`` is 200 ms;
    here it is a second, which is what a follower itself waits before it campaigns. The last three switches are Nomad
    Enterprise's and only stored."""

    cleanup_dead_servers: bool = True
    last_contact_threshold_ns: DurationText = 1 * SECOND
    max_trailing_logs: int = 250
    min_quorum: int = 0
    server_stabilization_time_ns: DurationText = 10 * SECOND
    enable_redundancy_zones: bool = False
    disable_upgrade_migration: bool = False
    enable_custom_upgrades: bool = False
    create_index: int = 0
    modify_index: int = 0

    def problems(self) -> list[str]:
        """What cannot be meant, as sentences."""
        found = []
        if self.last_contact_threshold_ns <= 0:
            found.append("LastContactThreshold must be longer than zero")
        if self.server_stabilization_time_ns < 0:
            found.append("ServerStabilizationTime must not be negative")
        if self.max_trailing_logs < 1:
            found.append("MaxTrailingLogs must be at least 1")
        if self.min_quorum < 0:
            found.append("MinQuorum must not be negative")
        return found


class RaftServer(Noun):
    """A server of the replicated log. ``node`` is ``<name>.<region>`` or ``(unknown)``."""

    id: str = ""
    node: str = "(unknown)"
    address: str = ""
    leader: bool = False
    voter: bool = True
    raft_protocol: str = "3"


class ServerHealth(Noun):
    """How a server is doing, as the leader sees it. ``last_contact_ns`` is the time since it last answered."""

    id: str = ""
    name: str = ""
    address: str = ""
    serf_status: str = ""
    version: str = ""
    leader: bool = False
    last_contact_ns: DurationText = 0
    last_term: int = 0
    last_index: int = 0
    healthy: bool = False
    voter: bool = False
    stable_since_ns: Moment = 0


class OperatorHealthReply(Noun):
    """How the servers are doing together: ``failure_tolerance`` is how many may fail before nothing can be written."""

    healthy: bool = False
    failure_tolerance: int = 0
    servers: tuple[ServerHealth, ...] = ()
    leader: str = ""
    voters: tuple[str, ...] = ()


class PeerAddress(Noun):
    """A server in an answer."""

    id: str = ""
    address: str = ""


class LeadershipTransfer(Noun):
    """What came of a transfer. ``noop``: the server led already."""

    from_: PeerAddress = field(default=PeerAddress(), name="From")
    to: PeerAddress = PeerAddress()
    noop: bool = False
    err: str | None = None
