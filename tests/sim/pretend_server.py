"""A simulated server: the real ``Server`` on the real ``RaftLog``, with the duties and machines that belong to them.

Pretended are only disk, network and clock. What ``agent.network`` does with sockets is done here with calls: passing
requests on to the leader, the roster of connected nodes, the first configuration.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pretend_trio as trio
from pretend_disk import PretendDirectory
from pretend_gossip import PretendGossip
from pretend_world import Host, World
from virtual_loop import Killed, Process

from nomadpy.agent.late_log import LateLog
from nomadpy.gossip.contract import ALIVE, SUSPECT
from nomadpy.model.errors import NoLeader, NomadError
from nomadpy.model.time import SECOND
from nomadpy.raft.raftlog import RaftLog, Snapshots
from nomadpy.raft.settings import RaftSettings
from nomadpy.rpc import words as w
from nomadpy.rpc.handlers import NotConnected, Word
from nomadpy.rpc.through_leader import ThroughLeader
from nomadpy.server.autopilot import server_members
from nomadpy.server.bootstrap import Ballot, candidates
from nomadpy.server.bootstrapper import Bootstrapper, bootstrap
from nomadpy.server.cluster import RaftCluster
from nomadpy.server.config import ServerConfig
from nomadpy.server.server import Server

RAFT = RaftSettings(
    batch_bytes=40_000, window_bytes=200_000, chunk_bytes=30_000, trailing_entries=8, learner_lag_max=20
).scaled(4)
_HOLD_S = 5.0
_LOOK_S = 0.25
_CALL_S = 5.0
_REACH_S = 1.0


class DyingDisk(PretendDirectory):
    """A disk on which its process may die in the middle of something."""

    def __init__(self, host: ServerHost) -> None:
        super().__init__()
        self._host = host

    def maybe_fail(self, operation: str) -> None:
        """Asked before each write and sync."""
        host, world = self._host, self._host.world
        if host.process is None or not host.process.alive:
            raise Killed
        if world.trouble and world.rng.random() < world.profile.die_on_disk:
            world.note(host.name, f"dies on its disk, at {operation}")
            host.kill()
            raise Killed
        super().maybe_fail(operation)

    def close(self) -> None:
        """The real one lets go of a lock."""


class BallotDisk:
    """Where ballots are stored; always whole, as a renamed file is."""

    def __init__(self, path: Path) -> None:
        self._host = DISKS[path.parts[0]]

    def load(self) -> Ballot:
        """What was stored."""
        stored: Ballot = self._host.ballot
        return stored

    def store(self, ballot: Ballot) -> None:
        """Durable."""
        self._host.ballot = ballot


# The hosts by name, for what the code under test opens by path.
DISKS: dict[str, Any] = {}


def open_directory(path: Path) -> PretendDirectory:
    """In place of ``DiskDirectory``: the folder of a host."""
    directory: PretendDirectory = DISKS[path.parts[0]].disks[path.name]
    return directory


def config_of(host: ServerHost) -> ServerConfig:
    """Timing is Nomad's but where that would be longer than a run."""
    return ServerConfig(
        name=host.name,
        id=host.server_id,
        alone=host.expect == 1,
        rpc_addr=f"{host.name}:4647",
        failover_heartbeat_ttl_ns=60 * SECOND,
        mass_grace_ns=30 * SECOND,
        job_gc_interval_ns=15 * SECOND,
        job_gc_threshold_ns=30 * SECOND,
        eval_gc_threshold_ns=20 * SECOND,
        batch_eval_gc_threshold_ns=40 * SECOND,
        deployment_gc_threshold_ns=30 * SECOND,
    )


class PeerCalls:
    """``rpc.peers.Peers`` as far as ``ThroughLeader`` and the duties need it."""

    def __init__(self, host: ServerHost, process: Process) -> None:
        self._host, self._process = host, process

    async def call(self, server_id: str, word: Word[Any, Any], params: Any, *, timeout_s: float) -> Any:
        """Asks the server with that id."""
        return await self.ask(server_id, lambda other: other.answer(word.name, params), timeout_s)

    async def ask(self, server_id: str, serve: Callable[[Any], Awaitable[Any]], timeout_s: float) -> Any:
        """The same with any question."""
        name = self._host.place_of(server_id)
        if not name:
            raise NotConnected(f"the address of server {server_id} is not known")
        return await self._host.world.call(self._process, name, serve, timeout_s)


class ServerHost(Host):
    """The machine of a server, with what is on its disks."""

    def __init__(self, world: World, name: str, expect: int, checker: Any) -> None:
        super().__init__(world, name)
        self.expect, self.checker = expect, checker
        self.server_id = f"{name}-id"
        self.disks = {"log": DyingDisk(self), "snapshots": DyingDisk(self)}
        self.ballot = Ballot()
        self.known: dict[str, str] = {}
        self.open_calls: dict[Any, None] = {}
        self.roster: dict[str, object] = {}
        self.server: Server
        self.gossip: PretendGossip
        self.raft: RaftLog | None = None
        self._in_cluster = False

    # --- life --------------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Starts the agent on what the disks hold."""
        world = self.world
        world.note(self.name, "boots")
        self.process = process = Process(world.loop, self.name, boot_s=self.boot_s)
        process.on_crash = lambda error: world.crashed(self, error)
        # Some disks are slow, so that syncs happen in a thread, during which the server may die.
        process.thread_s = self.rng.choice((0.001, 0.004, 0.02))  # type: ignore[attr-defined]
        process.sync_s = self.rng.choice((0.0, 0.002))  # type: ignore[attr-defined]
        self.roster, self.open_calls, self.raft = {}, {}, None
        self._in_cluster = False
        world.loop.run_in(process, lambda: self._begin(process))

    def _begin(self, process: Process) -> None:
        rng = random.Random(self.rng.random())
        self.gossip = PretendGossip(self, process, f"{self.name}.global", self._tags(), random.Random(rng.random()))
        log: list[LateLog] = []

        def make_log(apply: Any) -> LateLog:
            async def first() -> RaftLog:
                return await self._begin_log(process, self._noted(apply), rng)

            log.append(LateLog(first))
            return log[0]

        self.server = server = Server(config_of(self), make_log, rng=rng, wall_ns=self.wall_ns, mono_ns=self.mono_ns)
        server.gossip = self.gossip  # type: ignore[assignment]
        server.reach_node = self._reaches
        self.peers = PeerCalls(self, process)
        self.endpoint = ThroughLeader(
            server.nodes,
            server_id=self.server_id,
            leader=self._leader_in_office,
            leader_changed=lambda: server.log.leadership_changed(server.log.leadership),
            peers=self.peers,
            rng=random.Random(rng.random()),
        )
        self.bootstrapper = Bootstrapper(
            self.server_id, self.expect, Path(self.name) / "ballot", rng=random.Random(rng.random())
        )
        process.start(server.run())
        process.start(self.endpoint.run())
        process.start(self._keep_joining())

    def kill(self) -> None:
        """The agent is gone, perhaps with the power."""
        process = self.process
        if process is None:
            return
        world = self.world
        self.process = None
        process.kill()
        world.totals.kills += 1
        power = world.rng.random() < world.profile.power
        world.note(self.name, "loses power" if power else "is killed")
        if power:
            for disk in self.disks.values():
                disk.lose_power(world.rng)
        calls, self.open_calls = self.open_calls, {}
        for call in calls:
            call.reset()

    # --- the log -----------------------------------------------------------------------------------------------------

    async def _begin_log(self, process: Process, apply: Any, rng: random.Random) -> RaftLog:
        first = await bootstrap(self.bootstrapper, members=self._candidates, call=self._call_bootstrap)
        server = self.server
        snapshots = Snapshots(self._freeze, self._restore, self.world.profile.snapshot_entries)
        self.raft = made = RaftLog(
            Path(self.name) / "raft",
            apply,
            name=self.server_id,
            voters=first.voters,
            send=self._send_raft,
            snapshots=snapshots,
            settings=RAFT,
            rng=random.Random(rng.random()),
        )
        server.cluster = RaftCluster(server, made, lambda: server_members(self.gossip.members(), "global"))
        if first.voters:
            self._set_in_cluster()
        return made

    def _noted(self, apply: Any) -> Any:
        def noted(index: int, data: bytes) -> Any:
            outcome = apply(index, data)
            self.checker.applied(self, index, data)
            return outcome

        return noted

    def _freeze(self) -> Any:
        self.world.totals.snapshots += 1
        return self.server.freeze_state()

    def _restore(self, index: int, data: bytes) -> None:
        self.world.totals.installs += 1
        self.server.restore_state(index, data)
        self.checker.restored(self, index)

    def _send_raft(self, recipient: str, message: Any) -> None:
        sender = self.server_id

        def take(host: ServerHost) -> None:
            if host.raft is not None:
                host.raft._in.send_nowait(_arrived(sender, message))
                if not host._in_cluster:
                    host._set_in_cluster()

        if self.process is not None:
            self.world.packet(self.name, recipient.removesuffix("-id"), take)

    # --- who is there ------------------------------------------------------------------------------------------------

    def _tags(self) -> dict[str, str]:
        tags = {"role": "nomad", "region": "global", "id": self.server_id, "rpc_addr": self.name, "port": "4647"}
        tags["expect"] = str(self.expect)
        if self._in_cluster:
            tags["raft"] = "1"
        return tags

    def _set_in_cluster(self) -> None:
        self._in_cluster = True
        self.gossip.set_tags(self._tags())

    def place_of(self, server_id: str) -> str:
        """Where a server is, "" when nobody ever said."""
        for member in self.gossip.members():
            if member.tags.get("id") == server_id:
                self.known[server_id] = self.world.names[member.address]
        return self.known.get(server_id, "")

    def _candidates(self) -> list[Any]:
        return candidates(self.gossip.members(), "global")

    async def _call_bootstrap(self, server_id: str, _method: str, params: dict[str, Any]) -> Any:
        return await self.peers.ask(server_id, lambda other: other.bootstrapper.handle(params), _CALL_S)

    async def _keep_joining(self) -> None:
        """Until all servers are known, and again when none is left."""
        others = [host.address for name, host in self.world.hosts.items() if name.startswith("s") and host is not self]
        while True:
            servers = [m for m in self.gossip.members() if m.is_server]
            alone = sum(m.status in (ALIVE, SUSPECT) for m in servers) < 2
            if alone or len(servers) < self.expect:
                for address in others:
                    self.gossip.call(address, join=True)
            await trio.sleep(1.0 if alone else 5.0)

    def _leader_id(self) -> str:
        return self.server.log.leadership.leader

    def _leader_in_office(self) -> str:
        leader = self._leader_id()
        return "" if leader == self.server_id and not self.server.log.leadership.leading else leader

    # --- what others ask ---------------------------------------------------------------------------------------------

    async def answer(self, word: str, params: Any) -> Any:
        """What another server passes on; it is not passed on again."""
        nodes = self.server.nodes
        match word:
            case w.REGISTER_NODE.name:
                return await nodes.register_node(params)
            case w.HEARTBEAT.name:
                return await nodes.heartbeat(params.node_id, params.secret_id, params.status)
            case w.WAIT_ASSIGNMENTS.name:
                return await nodes.wait_assignments(params.node_id, params.secret_id, params.after, params.wait_s)
            case w.GET_ALLOCS.name:
                return await nodes.get_allocs(params.node_id, params.secret_id, params.alloc_ids)
            case w.UPDATE_ALLOCS.name:
                return await nodes.update_allocs(params.node_id, params.secret_id, params.updates)
        raise AssertionError(word)

    async def serve_node(self, node_id: str, connection: object, method: str, *args: Any) -> Any:
        """What a client asks over its connection."""
        if method in ("wait_assignments", "get_allocs") and self._believes():
            # At once, as to a client that was started anew.
            args = (*args[:2], 0, args[3]) if method == "wait_assignments" else args
            return await getattr(self.server.nodes, method)(*args)
        answer = await getattr(self.endpoint, method)(*args)
        if method in ("register_node", "heartbeat"):
            self.roster[node_id] = connection
        return answer

    def _believes(self) -> bool:
        world = self.world
        return world.trouble and not self.server.leading and world.rng.random() < world.profile.believers

    def connection_ended(self, node_id: str, connection: object) -> None:
        """The end of a node's connection is the first sign that it may be lost."""
        if self.roster.get(node_id) is connection and self.process is not None:
            del self.roster[node_id]
            self.process.start(self._tell_end(node_id))

    async def _tell_end(self, node_id: str) -> None:
        self.gossip.confirm(node_id)
        leader = self._leader_id()
        try:
            if leader == self.server_id:
                await self.note_cut_off(node_id)
            elif leader:
                await self.peers.ask(leader, lambda other: other.note_cut_off(node_id), _CALL_S)
        except NomadError as error:
            self.world.note(self.name, f"could not tell the end of {node_id}: {error.message}")

    async def note_cut_off(self, node_id: str) -> None:
        """Another server saw a connection end, or this one."""
        server = self.server
        if server.leading and node_id not in self.roster:
            server.heartbeats.connection_broke(node_id, server.mono_ns())

    async def _reaches(self, node_id: str) -> bool:
        """See ``agent.network.ServerNetwork.reaches``."""
        with trio.move_on_after(_REACH_S):
            if node_id in self.roster:
                return await self.node_answers(node_id)
            for name in self.world.hosts:
                if name.startswith("s") and name != self.name:
                    try:
                        if await self.peers.ask(f"{name}-id", lambda other: other.node_answers(node_id), _REACH_S):
                            return True
                    except NomadError as error:
                        self.world.note(self.name, f"{name} could not ask {node_id}: {error.message}")
        return False

    async def node_answers(self, node_id: str) -> bool:
        """Whether a node answers over the connection that it holds to this server."""
        if node_id not in self.roster or self.process is None:
            return False
        name = self.checker.clients[node_id].name
        try:
            return bool(await self.world.call(self.process, name, lambda client: client.answer_ping(), _REACH_S))
        except NomadError:
            return False

    async def serve_user(self, act: Callable[[Server], Awaitable[Any]]) -> Any:
        """What a person asks: answered by the leader, wherever that is. Raises NoLeader after a while."""
        deadline = trio.current_time() + _HOLD_S
        while True:
            if self.server.leading:
                return await act(self.server)
            leader = self._leader_id()
            if leader and leader != self.server_id:
                return await self.peers.ask(leader, lambda other: other.serve_passed_on(act), 15.0)
            if trio.current_time() >= deadline:
                raise NoLeader("No cluster leader")
            await trio.sleep(_LOOK_S)

    async def serve_passed_on(self, act: Callable[[Server], Awaitable[Any]]) -> Any:
        """What another server passed on to its leader."""
        if not self.server.leading:
            raise NoLeader("the leader is another one by now")
        return await act(self.server)


def _arrived(sender: str, message: msgspec.Struct) -> Any:
    from nomadpy.raft.raftlog import _Arrived

    return _Arrived(sender, message)  # type: ignore[arg-type]
