"""Which nodes are lost, as stories in virtual time: nodes that die and return, networks and servers that stop."""

from __future__ import annotations

import random

import pytest

from nomadpy.gossip.contract import ALIVE, FAILED, SUSPECT
from nomadpy.model.time import MILLISECOND, SECOND
from nomadpy.server.config import ServerConfig
from nomadpy.server.heartbeat import Heartbeats
from nomadpy.server.lost_nodes import LostNodes

# What our gossip needs: a probe that fails, and a suspicion that nobody contradicts.
_SUSPECT_NS = 500 * MILLISECOND
_FAIL_NS = 2300 * MILLISECOND
_STEP_NS = 50 * MILLISECOND


class Story:
    """A leader, its nodes, and what gossip comes to think of them."""

    def __init__(self, n_nodes: int, *, gossip: bool = True, seed: int = 1, **config: int) -> None:
        self.now = 1000 * SECOND
        self.names = [f"n{number:02d}" for number in range(n_nodes)]
        self.config = ServerConfig().replace(**config)
        self.beats = Heartbeats(self.config, random.Random(seed))
        self.judge = LostNodes(self.config, self.beats, self.now)
        self.has_gossip = gossip
        self.silent_since: dict[str, int] = {}
        # Deaf nodes live and beat, but gossip cannot reach them.
        self.deaf_since: dict[str, int] = {}
        self.next_beat: dict[str, int] = {}
        self.lost: dict[str, int] = {}
        self.probed: set[str] = set()
        # By how much later than others gossip notices that a node is silent.
        self.noticed_late: dict[str, int] = {}
        # The node in the leader's own agent.
        self.own = ""
        self.held = 0
        for name in self.names:
            self.beat(name)
        self.run(4)

    def beat(self, name: str) -> None:
        ttl_s = self.beats.renew(name, self.now)
        self.next_beat[name] = self.now + int(ttl_s * SECOND)

    def silence(self, *names: str) -> None:
        for name in names:
            self.silent_since[name] = self.now

    def back(self, *names: str) -> None:
        for name in names:
            del self.silent_since[name]
            self.lost.pop(name, None)
            self.beat(name)

    def gossip(self) -> dict[str, str]:
        said = {}
        for name in {**self.deaf_since, **self.silent_since}:
            age = self.now - min(self.deaf_since.get(name, self.now), self.silent_since.get(name, self.now))
            # Probes come one after the other, so that not all are suspected in the same moment.
            late = (self.names.index(name) % 5) * 100 * MILLISECOND + self.noticed_late.get(name, 0)
            said[name] = FAILED if age >= _FAIL_NS + late else SUSPECT if age >= _SUSPECT_NS + late else ALIVE
        return said if self.has_gossip else {}

    def answered(self, name: str) -> float | None:
        """Who is there answers at once when it is probed, and now and then without."""
        if not self.has_gossip or name == self.own:
            return None
        gone = min(self.deaf_since.get(name, self.now), self.silent_since.get(name, self.now))
        return (self.now - gone) / SECOND if gone < self.now else 0.0

    def look(self) -> None:
        nodes = frozenset(self.names) - self.lost.keys()
        verdict = self.judge.look(self.now, nodes, self.gossip(), self.answered)
        self.lost.update({one.node_id: self.now for one in verdict.lost})
        self.probed.update(verdict.probe)
        self.held = verdict.held

    def run(self, seconds: float) -> None:
        end = self.now + int(seconds * SECOND)
        while self.now < end:
            self.now += _STEP_NS
            for name in self.names:
                if name not in self.silent_since and self.now >= self.next_beat[name]:
                    self.beat(name)
            self.look()

    def stopped(self, seconds: float) -> None:
        """The whole process stands still: it hears nothing, and its own gossip neither."""
        self.now += int(seconds * SECOND)
        self.silent_since = {name: since + int(seconds * SECOND) for name, since in self.silent_since.items()}


@pytest.mark.parametrize("n_nodes", [2, 3, 4, 10])
def test_one_node_that_died_is_lost_within_seconds(n_nodes: int) -> None:
    story = Story(n_nodes)
    story.silence("n01")
    died = story.now
    story.run(3.5)
    assert list(story.lost) == ["n01"]
    assert story.lost["n01"] - died < 3.5 * SECOND
    story.run(120)
    assert list(story.lost) == ["n01"]


def test_others_are_probed_before_the_verdict() -> None:
    story = Story(10)
    story.silence("n01")
    story.run(3.5)
    assert story.probed
    assert "n01" not in story.probed


@pytest.mark.parametrize("n_nodes", [2, 3])
def test_nobody_is_lost_before_others_answered(n_nodes: int) -> None:
    """All fall silent, but gossip of an agent with bad local health takes much longer to notice the second one."""
    story = Story(n_nodes)
    story.noticed_late = dict.fromkeys(story.names[1:], 8 * SECOND)
    story.silence(*story.names)
    story.run(12)
    assert story.held
    story.back(*story.names)
    story.run(60)
    assert story.lost == {}


def test_a_node_that_gossip_hears_again_later_than_others_is_not_lost() -> None:
    story = Story(2)
    story.noticed_late = {"n01": 60 * SECOND}
    story.silence(*story.names)
    story.run(12)
    story.back("n01")
    story.run(5)
    story.back("n00")
    story.run(60)
    assert story.lost == {}


def test_a_node_that_does_not_return_with_the_others_is_lost_soon() -> None:
    story = Story(2)
    story.noticed_late = {"n01": 60 * SECOND}
    story.silence(*story.names)
    story.run(12)
    story.back("n01")
    story.run(8)
    assert list(story.lost) == ["n00"]


def test_the_node_beside_the_leader_is_no_witness() -> None:
    story = Story(3)
    story.own = "n00"
    story.noticed_late = {"n02": 8 * SECOND}
    story.silence("n01", "n02")
    story.run(6)
    assert story.lost == {}


def test_one_of_two_is_lost_where_the_other_one_is_beside_the_leader() -> None:
    story = Story(2)
    story.own = "n00"
    story.silence("n01")
    story.run(3.5)
    assert list(story.lost) == ["n01"]


def test_without_gossip_the_lease_decides() -> None:
    story = Story(4, gossip=False)
    story.silence("n01")
    silent = story.now
    story.run(9)
    assert story.lost == {}
    story.run(25)
    assert list(story.lost) == ["n01"]
    assert story.lost["n01"] - silent > 10 * SECOND


def test_an_agent_that_gossips_but_does_not_beat_is_lost_by_its_lease() -> None:
    story = Story(4, gossip=False)
    story.silence("n02")
    story.run(35)
    assert list(story.lost) == ["n02"]


def test_what_gossip_cannot_reach_but_is_heard_stays() -> None:
    story = Story(4)
    story.deaf_since["n01"] = story.now
    # It asks for something while it is suspected.
    story.run(1.5)
    story.beats.heard("n01", story.now)
    story.run(300)
    assert story.lost == {}


def test_a_broken_connection_ends_the_doubt() -> None:
    story = Story(4)
    story.deaf_since["n01"] = story.now
    story.run(1.5)
    story.beats.heard("n01", story.now)
    story.run(5)
    assert story.lost == {}
    story.silence("n01")
    story.beats.connection_broke("n01", story.now)
    story.run(2)
    assert story.lost == {"n01": story.lost["n01"]}


def test_a_broken_connection_alone_is_no_death() -> None:
    story = Story(4)
    story.beats.connection_broke("n01", story.now)
    story.run(60)
    assert story.lost == {}


def test_a_lost_node_that_returns_while_gossip_misses_it_is_not_lost_again() -> None:
    story = Story(4)
    story.silence("n01")
    story.run(5)
    assert list(story.lost) == ["n01"]
    story.deaf_since["n01"] = story.silent_since["n01"]
    story.back("n01")
    story.run(300)
    assert story.lost == {}


@pytest.mark.parametrize("n_nodes", [1, 2, 3, 5, 10, 40])
@pytest.mark.parametrize("gossip", [True, False])
@pytest.mark.parametrize("seed", range(1, 9))
def test_half_a_minute_without_network_loses_nobody(n_nodes: int, gossip: bool, seed: int) -> None:
    story = Story(n_nodes, gossip=gossip, seed=seed)
    story.run(seed * 2.5)
    story.silence(*story.names)
    story.run(30)
    assert story.lost == {}
    assert story.held or not gossip
    story.back(*story.names)
    story.run(120)
    assert story.lost == {}


def test_the_servers_own_client_does_not_make_the_others_lost() -> None:
    """Two of three nodes, because the third one is the server's own machine."""
    story = Story(3)
    story.silence("n01", "n02")
    story.run(30)
    assert story.lost == {}
    story.back("n01", "n02")
    story.run(60)
    assert story.lost == {}


@pytest.mark.parametrize("n_nodes", [1, 2, 5, 12])
def test_who_does_not_return_is_lost_after_the_grace(n_nodes: int) -> None:
    story = Story(n_nodes)
    story.silence(*story.names)
    story.run(59)
    assert story.lost == {}
    story.run(40)
    assert sorted(story.lost) == story.names


def test_those_that_stay_away_are_lost_when_the_others_are_back() -> None:
    story = Story(10)
    story.silence(*story.names)
    story.run(20)
    assert story.held
    story.back(*story.names[2:])
    story.run(3)
    assert sorted(story.lost) == ["n00", "n01"]


def test_a_rack_of_less_than_a_third_is_lost_at_once() -> None:
    story = Story(12)
    story.silence(*story.names[:4])
    story.run(4)
    assert len(story.lost) == 4


def test_a_server_that_stood_still_loses_nobody() -> None:
    story = Story(5)
    story.run(17)
    story.stopped(20)
    # The others' beats come a little later: they try again after a while.
    story.next_beat = dict.fromkeys(story.names, story.now + 8 * SECOND)
    story.look()
    assert story.lost == {}
    story.run(120)
    assert story.lost == {}


def test_what_gossip_said_before_the_stop_counts_anew() -> None:
    story = Story(5)
    story.silence("n01")
    story.run(2.5)
    story.stopped(20)
    story.look()
    assert story.lost == {}
    story.run(2.9)
    assert story.lost == {}
    story.run(30)
    assert list(story.lost) == ["n01"]


def test_many_short_stops_do_not_keep_the_dead_alive_for_ever() -> None:
    story = Story(5)
    story.silence("n01")
    for _ in range(4):
        story.run(1)
        story.stopped(2)
    story.run(10)
    assert list(story.lost) == ["n01"]


def failover(story: Story, *, long_failed: tuple[str, ...] = ()) -> None:
    """Another server leads: it knows what gossip says, and gives long leases."""
    story.beats = Heartbeats(story.config, random.Random(9))
    story.beats.expect([name for name in story.names if name not in story.lost], story.now)
    story.judge = LostNodes(story.config, story.beats, story.now, long_failed=long_failed)


@pytest.mark.parametrize("before_s", [0.0, 1.0, 2.5])
def test_a_node_that_died_around_a_failover_is_lost_within_seconds(before_s: float) -> None:
    story = Story(4)
    story.silence("n01")
    story.run(before_s)
    failover(story)
    story.run(2.9)
    assert story.lost == {}, "the new leader looks for itself first"
    story.run(2)
    assert list(story.lost) == ["n01"]


def test_who_speaks_to_the_new_leader_lives() -> None:
    story = Story(4)
    story.deaf_since["n01"] = story.now - 10 * SECOND
    failover(story)
    story.run(2)
    story.beats.heard("n01", story.now)
    story.run(60)
    assert story.lost == {}


def test_whom_gossip_could_not_reach_for_long_is_left_to_its_lease_by_a_new_leader() -> None:
    story = Story(4)
    story.deaf_since["n01"] = story.now - 100 * SECOND
    story.next_beat["n01"] = story.now + 15 * SECOND
    failover(story, long_failed=("n01",))
    story.run(60)
    assert story.lost == {}


def test_a_node_that_beats_while_it_is_held_back_gets_a_new_lease() -> None:
    story = Story(2, gossip=False)
    story.silence(*story.names)
    story.run(40)
    assert story.held == 2
    # It asks for its work, but its next beat is still to come.
    story.beats.heard("n00", story.now)
    story.run(1)
    assert story.beats.has_lease("n00")
    assert story.lost == {}
    assert story.beats.has_lease("n01"), "it may be back in a moment, too"
    story.run(120)
    assert sorted(story.lost) == story.names, "asking alone is no beat"


def test_a_verdict_is_given_once() -> None:
    story = Story(3)
    story.silence("n01")
    nodes = frozenset(story.names)
    verdicts = []
    for _ in range(200):
        story.now += _STEP_NS
        verdicts += story.judge.look(story.now, nodes, story.gossip()).lost
        for name in ("n00", "n02"):
            story.beats.heard(name, story.now)
    assert [one.node_id for one in verdicts] == ["n01"]


def test_the_next_look_is_never_far() -> None:
    story = Story(3)
    verdict = story.judge.look(story.now, frozenset(story.names), {})
    assert story.now < verdict.wake_ns <= story.now + SECOND


def test_a_node_whose_beat_is_late_but_that_asks_for_other_things_is_not_lost() -> None:
    """After a long silence of the servers a client's next beat may be half a minute away; it polls and reports."""
    story = Story(4, gossip=False)
    story.silence("n01")
    for _ in range(30):
        story.run(4)
        story.beats.heard("n01", story.now)
    assert not story.lost
    story.run(90)
    assert set(story.lost) == {"n01"}
