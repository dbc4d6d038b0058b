"""Whom the leader takes in, lets vote and lets go: stories in virtual time."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from nomadpy.gossip.contract import Member
from nomadpy.model.autopilot import AutopilotConfig
from nomadpy.model.errors import Conflict, NoLeader, NomadError, Refused, TimedOut
from nomadpy.model.time import HOUR, MILLISECOND, SECOND
from nomadpy.raft.configuration import Configuration, Peer
from nomadpy.raft.contract import Apply, Leadership
from nomadpy.raft.messages import Message, decode, encode
from nomadpy.raft.raftlog import RaftLog
from nomadpy.raft.settings import RaftSettings
from nomadpy.server.autopilot import LONG_GONE_S, Action, Autopilot, ServerMember, server_members
from nomadpy.server.cluster import RaftCluster, SingleServer
from nomadpy.server.config import ServerConfig
from nomadpy.server.server import Server


class Story:
    """A leader ``a`` that does what its autopilot says; removed and promoted servers take effect at once."""

    def __init__(self, voters: str, *, members: str = "", **config: object) -> None:
        self.now = 1000.0
        self.voters, self.learners = list(voters), list[str]()
        self.members = {name: ServerMember(id=name, name=f"{name}.global") for name in members or voters}
        self.behind: dict[str, int] = {}
        self.contact: dict[str, float] = {}
        self.config = AutopilotConfig().replace(**config)
        self.pilot = Autopilot("a")
        self.done: list[tuple[str, str]] = []
        self.at: dict[tuple[str, str], float] = {}
        self.settled = True

    def configuration(self) -> Configuration:
        def peer(name: str) -> Peer:
            alive = name in self.members and self.members[name].is_alive
            lag = self.behind.get(name, 0)
            return Peer(
                server=name,
                voter=name in self.voters,
                match_index=1000 - lag,
                last_term=3,
                lag=lag,
                contact_s=self.contact.get(name, 0.05 if alive else 60.0),
            )

        names = sorted([*self.voters, *self.learners])
        return Configuration(
            leader="a", leading=True, term=3, last_index=1000, settled=self.settled, peers=tuple(map(peer, names))
        )

    def say(self, name: str, status: str) -> None:
        self.members[name] = ServerMember(id=name, name=f"{name}.global", status=status)

    def look(self) -> Action | None:
        return self.pilot.look(self.now, self.configuration(), self.members, self.config)

    def run(self, seconds: float) -> list[tuple[str, str]]:
        """What was done meanwhile, in order."""
        self.done = []
        end = self.now + seconds
        while self.now < end:
            self.now += 1.0 if seconds < 1000 else 60.0
            action = self.look()
            if action is not None:
                self._do(action)
        return self.done

    def _do(self, action: Action) -> None:
        self.done.append((action.deed, action.server))
        self.at[action.deed, action.server] = self.now
        match action.deed:
            case "add-learner":
                self.learners.append(action.server)
            case "promote":
                self.learners.remove(action.server)
                self.voters.append(action.server)
            case "remove-voter":
                self.voters.remove(action.server)
            case "remove-learner":
                self.learners.remove(action.server)


def test_when_all_is_well_nothing_is_done() -> None:
    assert Story("abc").run(100) == []


def test_a_newcomer_learns_and_votes_after_the_stabilization_time() -> None:
    story = Story("abc", members="abcd")
    begun = story.now
    assert story.run(30) == [("add-learner", "d"), ("promote", "d")]
    assert story.at["promote", "d"] - begun >= 10


def test_two_newcomers_of_a_single_server_vote_at_once() -> None:
    story = Story("a", members="abc")
    assert story.run(6) == [("add-learner", "b"), ("add-learner", "c"), ("promote", "b"), ("promote", "c")]


def test_one_newcomer_of_a_single_server_has_to_be_stable() -> None:
    story = Story("a", members="ab")
    assert story.run(8) == [("add-learner", "b")]
    assert story.run(8) == [("promote", "b")]


def test_a_newcomer_that_lags_or_flaps_does_not_vote() -> None:
    story = Story("abc", members="abcd")
    story.behind["d"] = 251
    assert story.run(60) == [("add-learner", "d")]
    story.behind["d"] = 250
    story.run(9)
    story.contact["d"] = 1.5
    story.run(1)
    del story.contact["d"]
    assert story.run(9) == []
    assert story.run(5) == [("promote", "d")]


def test_a_nonvoter_and_a_dead_server_are_not_taken_in() -> None:
    story = Story("abc")
    story.members["d"] = ServerMember(id="d", nonvoter=True)
    story.say("e", "failed")
    assert story.run(60) == []


def test_who_left_is_removed_at_once() -> None:
    story = Story("abc")
    story.say("b", "left")
    assert story.run(2) == [("remove-voter", "b")]
    story.say("c", "left")
    assert story.run(2) == [("remove-voter", "c")]


def test_one_of_three_that_failed_keeps_its_place() -> None:
    story = Story("abc")
    story.say("b", "failed")
    assert story.run(71 * 3600) == []
    story.say("b", "alive")
    assert story.run(60) == []


def test_a_replacement_votes_first_then_the_dead_one_goes() -> None:
    story = Story("abc")
    story.say("b", "failed")
    story.run(3600)
    story.say("d", "alive")
    assert story.run(60) == [("add-learner", "d"), ("promote", "d"), ("remove-voter", "b")]
    assert sorted(story.voters) == ["a", "c", "d"]


def test_a_wiped_server_that_nobody_in_gossip_speaks_for_is_replaced_too() -> None:
    story = Story("abc")
    del story.members["b"]
    story.say("b2", "alive")
    assert story.run(60) == [("add-learner", "b2"), ("promote", "b2"), ("remove-voter", "b")]


def test_who_is_gone_for_days_goes_where_three_remain() -> None:
    story = Story("abcde")
    story.say("b", "failed")
    assert story.run(LONG_GONE_S - 3600) == []
    assert story.run(2 * 3600) == [("remove-voter", "b")]
    three = Story("abc")
    three.say("b", "failed")
    assert three.run(2 * LONG_GONE_S) == []


def test_the_quorum_is_never_risked() -> None:
    story = Story("abcd")
    story.say("b", "failed")
    story.contact = {"c": 30.0, "d": 30.0}
    assert story.run(3600) == [], "of three that would remain, two have to be well"
    del story.contact["c"]
    assert story.run(5) == [("remove-voter", "b")]


def test_min_quorum_and_the_switch_keep_the_dead() -> None:
    for config in ({"min_quorum": 4}, {"cleanup_dead_servers": False}):
        story = Story("abcd", **config)
        story.say("b", "failed")
        assert story.run(3600) == []


def test_nothing_is_begun_while_a_change_is_under_way_or_by_a_follower() -> None:
    story = Story("abc", members="abcd")
    story.settled = False
    assert story.run(20) == []
    configuration = Configuration(leader="b", peers=(Peer(server="a"), Peer(server="b")))
    assert Autopilot("a").look(1.0, configuration, story.members, story.config) is None


def test_whom_an_operator_removed_is_not_taken_in_before_it_was_away() -> None:
    story = Story("abc")
    story.voters.remove("c")
    story.pilot.expel("c")
    assert story.run(600) == []
    story.say("c", "failed")
    assert story.run(5) == []
    story.say("c", "alive")
    assert story.run(30) == [("add-learner", "c"), ("promote", "c")]


def test_a_learner_that_is_gone_is_dropped_and_taken_in_again() -> None:
    story = Story("abc", members="abcd")
    story.run(2)
    story.say("d", "failed")
    assert story.run(20) == [("remove-learner", "d")]
    story.say("d", "alive")
    assert story.run(3) == [("add-learner", "d")]


def test_the_report_counts_what_may_fail() -> None:
    story = Story("abc")
    story.run(5)
    story.say("c", "failed")
    report = story.pilot.report(story.now, 10**18, story.configuration(), story.members, story.config)
    assert (report.healthy, report.failure_tolerance, report.leader) == (False, 0, "a")
    assert report.voters == ("a", "b", "c")
    states = {one.id: (one.healthy, one.serf_status, one.voter) for one in report.servers}
    assert states == {"a": (True, "alive", True), "b": (True, "alive", True), "c": (False, "failed", True)}
    assert report.servers[1].stable_since_ns == 10**18 - 4 * SECOND
    assert report.servers[2].stable_since_ns == 0
    assert report.servers[1].last_contact_ns == 50 * MILLISECOND
    story.say("c", "alive")
    assert story.pilot.report(story.now, 0, story.configuration(), story.members, story.config).failure_tolerance == 1


def test_a_member_that_moved_counts_where_it_lives() -> None:
    def member(name: str, status: str, **tags: str) -> Member:
        return Member(
            name=name,
            address="10.0.0.9",
            status=status,
            tags={"role": "nomad", "region": "global", "id": "x", "port": "4647", **tags},
        )

    found = server_members(
        [
            member("new.global", "alive", rpc_addr="10.0.0.2", build="1.0"),
            member("old.global", "failed"),
            member("far.west", "alive", region="west", id="y"),
            member("six.global", "alive", id="z", rpc_addr="fd00::1"),
            Member(name="client", tags={"role": "client", "id": "c"}),
        ],
        "global",
    )
    assert sorted(found) == ["x", "z"]
    assert (found["x"].name, found["x"].address, found["x"].version) == ("new.global", "10.0.0.2:4647", "1.0")
    assert found["z"].address == "[fd00::1]:4647"


# --- with real logs ---------------------------------------------------------------------------------------------------


class Region:
    """Servers with replicated logs in one process, and the gossip that is pretended between them."""

    def __init__(self, directory: Path, nursery: trio.Nursery) -> None:
        self.directory, self.nursery = directory, nursery
        self.members: dict[str, ServerMember] = {}
        self.servers: dict[str, Server] = {}
        self.logs: dict[str, RaftLog] = {}
        self.clusters: dict[str, RaftCluster] = {}
        self._wires: dict[str, trio.MemorySendChannel[tuple[str, bytes]]] = {}

    async def start(self, name: str, voters: tuple[str, ...] | None) -> None:
        def send(recipient: str, message: Message) -> None:
            if recipient in self._wires:
                self._wires[recipient].send_nowait((name, encode(message)))

        def make_log(apply: Apply) -> RaftLog:
            self.logs[name] = RaftLog(
                self.directory / name, apply, name=name, voters=voters, send=send, settings=RaftSettings().scaled(0.3)
            )
            return self.logs[name]

        config = ServerConfig(id=name, name=name, alone=False, rpc_addr=f"127.0.0.1:{4647 + len(self.servers)}")
        server = self.servers[name] = Server(config, make_log, rng=random.Random(name))
        self.members[name] = ServerMember(id=name, name=f"{name}.global", address=config.rpc_addr)
        self.clusters[name] = RaftCluster(server, self.logs[name], lambda: self.members)
        incoming, outgoing = trio.open_memory_channel[tuple[str, bytes]](math.inf)
        self._wires[name] = incoming
        await self.nursery.start(server.run)
        self.nursery.start_soon(self._carry, name, outgoing)

    async def _carry(self, name: str, outgoing: trio.MemoryReceiveChannel[tuple[str, bytes]]) -> None:
        async for sender, data in outgoing:
            await self.logs[name].receive(sender, decode(data))


@contextlib.asynccontextmanager
async def region(directory: Path) -> AsyncIterator[Region]:
    async with trio.open_nursery() as nursery:
        yield Region(directory, nursery)
        nursery.cancel_scope.cancel()


async def until(condition: object) -> None:
    with trio.fail_after(30):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110 - it is about other tasks and the disk
            await trio.sleep(0.01)


async def test_a_single_server_grows_to_three_and_hands_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with region(tmp_path) as servers:
        await servers.start("a", ("a",))
        await until(lambda: servers.servers["a"].leading)
        servers.nursery.start_soon(servers.clusters["a"].pilot)
        await servers.start("b", ())
        await servers.start("c", ())
        cluster = servers.clusters["a"]
        await until(lambda: servers.logs["a"].configuration().voters == ("a", "b", "c"))
        await until(lambda: cluster.health().healthy)
        assert cluster.health().failure_tolerance == 1
        found, index = servers.clusters["b"].servers()
        assert [(one.id, one.leader, one.voter) for one in found] == [
            ("a", True, True),
            ("b", False, True),
            ("c", False, True),
        ]
        assert index > 0
        with pytest.raises(Conflict, match="server a leads the region; transfer the leadership first"):
            await cluster.remove_peer("a")
        with pytest.raises(NomadError, match='id "z" was not found in the Raft configuration'):
            await cluster.remove_peer("z")
        with pytest.raises(Refused, match=r'address "1\.2\.3\.4:5" was not found'):
            await cluster.transfer_leadership(address="1.2.3.4:5")
        assert (await cluster.transfer_leadership(server="a")).noop
        hand_over, late = servers.logs["a"].transfer_leadership, [True]

        async def not_at_once(server: str) -> Leadership:
            if late:
                late.clear()
                raise TimedOut("it may be too far behind")
            return await hand_over(server)

        monkeypatch.setattr(servers.logs["a"], "transfer_leadership", not_at_once)
        answer = await cluster.transfer_leadership(address=servers.members["b"].address)
        assert (answer.from_.id, answer.to.id, answer.noop, answer.err) == ("a", "b", False, None)
        await until(lambda: servers.servers["b"].leading)
        with pytest.raises(NoLeader):
            await cluster.remove_peer("c")
        await servers.clusters["b"].remove_peer("c")
        assert servers.logs["b"].configuration().voters == ("a", "b")
        await until(lambda: servers.logs["c"].configuration().voters == ("a", "b"))


async def test_the_only_server_stays(tmp_path: Path) -> None:
    async with region(tmp_path) as servers:
        await servers.start("a", ("a",))
        await until(lambda: servers.servers["a"].leading)
        for cluster in (servers.clusters["a"], SingleServer(servers.servers["a"])):
            with pytest.raises(Conflict, match="the only server of a region cannot be removed"):
                await cluster.remove_peer("a")
            assert (await cluster.transfer_leadership(server="a")).noop
            report = cluster.health()
            assert (report.healthy, report.failure_tolerance, report.voters) == (True, 0, ("a",))
            (server,), _ = cluster.servers()
            assert (server.id, server.node, server.leader, server.voter) == ("a", "a.global", True, True)


def test_a_configuration_that_cannot_be_meant() -> None:
    assert AutopilotConfig().problems() == []
    bad = AutopilotConfig(
        last_contact_threshold_ns=0, server_stabilization_time_ns=-HOUR, max_trailing_logs=0, min_quorum=-1
    )
    assert len(bad.problems()) == 4
