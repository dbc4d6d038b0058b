"""The agreement on the first voters: stories, and whole regions with lost messages, crashes and partial views."""

from __future__ import annotations

import heapq
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from nomadpy.gossip.contract import FAILED, Member
from nomadpy.model.errors import Invalid, NotFound
from nomadpy.server.bootstrap import Answer, Ask, Ballot, Bootstrap, Candidate, FirstConfiguration, candidates
from nomadpy.server.bootstrapper import METHOD, BallotFile, Bootstrapper, bootstrap


class Region:
    """Servers in virtual time. Their disks are ``ballots``; a crash may come before or after any write to them."""

    def __init__(self, expects: dict[str, int], seed: int) -> None:
        self.rng, self.now = random.Random(seed), 100.0
        self.expects = expects
        self.ballots = {name: Ballot() for name in expects}
        self.learnt: dict[str, str] = {}
        self.machines: dict[str, Bootstrap] = {}
        self.down: dict[str, float] = {}
        self.sees = {name: set(expects) for name in expects}
        self.loss, self.crash, self.delay_s = 0.0, 0.0, 0.05
        self.cut: set[frozenset[str]] = set()
        self.queue: list[tuple[float, int, Any]] = []
        self.ever_live: dict[str, tuple[str, ...]] = {}
        self.count = 0
        for name in expects:
            self.boot(name)

    def boot(self, name: str) -> None:
        rng = random.Random(self.rng.random())
        self.machines[name] = Bootstrap(name, self.expects[name], self.ballots[name], rng=rng, now=self.now)

    def kill(self, name: str, for_s: float) -> None:
        self.machines.pop(name, None)
        self.down[name] = self.now + for_s

    def save(self, name: str) -> bool:
        """False when the server dies around it; the write may have happened."""
        if self.ballots[name] == self.machines[name].ballot:
            return True
        dies = self.rng.random() < self.crash
        if not dies or self.rng.random() < 0.5:
            self.ballots[name] = self.machines[name].ballot
            self.check()
        if dies:
            self.kill(name, self.rng.uniform(0.5, 30.0))
        return not dies

    def check(self) -> None:
        """Never two ballots with a majority that share a voter; and what is decided has one."""
        by_cluster: dict[str, list[Ballot]] = {}
        for ballot in self.ballots.values():
            if ballot.stage in ("stored", "decided") and ballot.voters:
                by_cluster.setdefault(ballot.cluster_id, []).append(ballot)
        for cluster_id, ballots in by_cluster.items():
            if len(ballots) >= ballots[0].majority:
                self.ever_live[cluster_id] = ballots[0].voters
        live = list(self.ever_live.items())
        for at, (_, voters) in enumerate(live):
            for _, others in live[at + 1 :]:
                assert not set(voters) & set(others), f"two live configurations: {live}"
        for ballot in self.ballots.values():
            assert ballot.stage != "decided" or not ballot.voters or ballot.cluster_id in self.ever_live

    def later(self, event: Any) -> None:
        self.count += 1
        delay = self.rng.expovariate(1 / self.delay_s)
        heapq.heappush(self.queue, (self.now + delay, self.count, event))

    def reachable(self, one: str, other: str) -> bool:
        return frozenset((one, other)) not in self.cut and self.rng.random() >= self.loss

    def gossip(self, name: str) -> list[Candidate]:
        return [
            Candidate(id=other, expect=self.expects[other], in_cluster=self.in_cluster(other))
            for other in sorted(self.sees[name])
            if other in self.machines and frozenset((name, other)) not in self.cut
        ]

    def in_cluster(self, name: str) -> bool:
        return self.ballots[name].stage == "decided" or name in self.learnt

    def tick(self, step_s: float = 0.05) -> None:
        self.now += step_s
        for name in [name for name, at in self.down.items() if self.now >= at]:
            del self.down[name]
            self.boot(name)
        while self.queue and self.queue[0][0] <= self.now:
            kind, sender, recipient, ask, answer = heapq.heappop(self.queue)[2]
            if recipient not in self.machines:
                continue
            if kind == "ask":
                said = self.machines[recipient].hear(ask, self.now)
                if self.save(recipient) and self.reachable(sender, recipient):
                    self.later(("answer", recipient, sender, ask, said))
            else:
                self.machines[recipient].on_answer(sender, ask, answer, self.now)
                self.look(recipient)
        for name in sorted(self.machines):
            if name in self.machines and self.now >= self.machines[name].next_wake():
                self.look(name)

    def look(self, name: str) -> None:
        machine = self.machines[name]
        machine.look(self.gossip(name), self.now)
        asks = machine.take_asks()
        if not self.save(name):
            return
        for recipient, ask in asks:
            if self.reachable(name, recipient):
                self.later(("ask", name, recipient, ask, None))

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds / 0.05)):
            self.tick()

    def results(self) -> dict[str, FirstConfiguration | None]:
        return {name: machine.result for name, machine in self.machines.items()}

    def decided(self) -> set[str]:
        return {result.cluster_id for result in self.results().values() if result is not None and result.voters}


def region(n: int, expect: int, seed: int = 1) -> Region:
    return Region({f"s{number}": expect for number in range(n)}, seed)


# --- stories ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_as_many_as_expected_agree_within_seconds(n: int) -> None:
    servers = region(n, n)
    servers.run(2)
    results = servers.results()
    assert len(set(map(str, results.values()))) == 1
    assert results["s0"] is not None
    assert results["s0"].voters == tuple(sorted(servers.expects))
    assert results["s0"].cluster_id


def test_one_more_than_expected_joins() -> None:
    servers = region(4, 3)
    servers.run(4)
    results = servers.results()
    assert results["s0"] == results["s1"] == results["s2"]
    assert results["s3"] == FirstConfiguration()
    servers.machines["s3"].learn("the cluster")
    assert servers.machines["s3"].result == FirstConfiguration(cluster_id="the cluster")


def test_too_few_wait_and_say_so() -> None:
    servers = region(2, 3)
    servers.run(30)
    assert set(servers.results().values()) == {None}
    assert servers.machines["s0"].problems == ("2 of 3 servers that bootstrap_expect asks for are known",)


def test_different_numbers_are_told_and_nothing_begins() -> None:
    servers = Region({"a": 3, "b": 3, "c": 3, "d": 5}, 1)
    servers.run(30)
    assert set(servers.results().values()) == {None}
    assert "server d has bootstrap_expect = 5, this one 3" in servers.machines["a"].problems[0]
    assert "server a has bootstrap_expect = 3, this one 5" in servers.machines["d"].problems[0]


def test_who_is_asked_for_another_number_refuses_with_a_sentence() -> None:
    machine = Bootstrap("b", 5, Ballot(), rng=random.Random(1), now=0.0)
    answer = machine.hear(Ask(word="offer", cluster_id="x", voters=("a", "b", "c")), 0.0)
    assert answer.said == "refused"
    assert "server b has bootstrap_expect = 5, not 3" in answer.reason


@pytest.mark.parametrize("voters", [("a", "c", "d"), ("c", "b", "a"), ("a", "b", "b")])
def test_an_offer_that_cannot_be_is_refused(voters: tuple[str, ...]) -> None:
    machine = Bootstrap("b", 3, Ballot(), rng=random.Random(1), now=0.0)
    assert machine.hear(Ask(word="offer", cluster_id="x", voters=voters), 0.0).said == "refused"
    assert machine.ballot.stage == "free"


def test_without_bootstrap_expect_a_server_only_joins() -> None:
    servers = Region({"a": 0, "b": 0}, 1)
    servers.run(20)
    assert set(servers.results().values()) == {None}
    assert "no bootstrap_expect" in servers.machines["a"].problems[0]
    servers.ballots["b"] = Ballot(stage="decided", cluster_id="there")
    servers.boot("b")
    servers.run(2)
    assert servers.results()["a"] == FirstConfiguration()


def test_servers_that_begin_anew_do_not_wait_for_those_that_were_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = region(3, 3)
    gossip, forgotten_at = servers.gossip, servers.now + 3.0

    def remembering(name: str) -> list[Candidate]:
        lost = [Candidate(id="lost", expect=3, in_cluster=True)] if servers.now < forgotten_at else []
        return [*gossip(name), *lost]

    monkeypatch.setattr(servers, "gossip", remembering)
    servers.run(2)
    assert set(servers.results().values()) == {None}
    assert servers.machines["s0"].problems == ("asking lost, said to belong to a cluster",)
    servers.run(5)
    assert [result is not None and len(result.voters) for result in servers.results().values()] == [3, 3, 3]


def test_a_promise_holds_against_another_proposer() -> None:
    machine = Bootstrap("c", 3, Ballot(), rng=random.Random(1), now=0.0)
    assert machine.hear(Ask(word="offer", cluster_id="x", voters=("a", "b", "c")), 0.0).said == "promised"
    assert machine.hear(Ask(word="offer", cluster_id="y", voters=("b", "c", "d")), 60.0).said == "bound"
    assert machine.hear(Ask(word="commit", cluster_id="y", voters=("b", "c", "d")), 60.0).said == "bound"
    again = Bootstrap("c", 3, machine.ballot, rng=random.Random(1), now=99.0)
    assert again.hear(Ask(word="offer", cluster_id="y", voters=("b", "c", "d")), 99.0).said == "bound"
    assert again.hear(Ask(word="commit", cluster_id="x", voters=("a", "b", "c")), 99.0).said == "stored"


def test_a_proposer_that_dies_for_ever_after_the_promises_holds_nobody_up() -> None:
    servers = region(4, 3)
    while servers.ballots["s1"].stage == "free" or servers.ballots["s2"].stage == "free":
        servers.tick(0.005)
    assert servers.ballots["s0"].stage == "promised"
    servers.kill("s0", 1e9)
    servers.run(60)
    results = servers.results()
    assert results["s1"] is not None
    assert results["s1"].voters == ("s1", "s2", "s3")
    assert len(set(map(str, results.values()))) == 1


def test_what_a_dead_proposer_committed_to_one_is_finished_by_that_one() -> None:
    servers = region(4, 3)
    while servers.ballots["s1"].stage != "stored":
        servers.tick(0.001)
    cluster_id = servers.ballots["s1"].cluster_id
    servers.kill("s0", 1e9)
    servers.queue.clear()
    servers.run(60)
    assert servers.decided() == {cluster_id}
    assert servers.results()["s3"] == FirstConfiguration()


def test_a_restarted_proposer_that_committed_nothing_starts_anew() -> None:
    servers = region(3, 3)
    servers.tick(0.01)
    first = servers.ballots["s0"].cluster_id
    servers.kill("s0", 1.0)
    servers.queue.clear()
    servers.run(30)
    assert len(servers.decided()) == 1
    assert first not in servers.decided()


def test_a_damaged_ballot_stops_the_server(tmp_path: Path) -> None:
    path = tmp_path / "bootstrap.json"
    path.write_text("{")
    with pytest.raises(Invalid, match="is damaged"):
        BallotFile(path).load()


def test_gossip_shows_who_may_vote() -> None:
    def server(name: str, **tags: str) -> Member:
        return Member(name=name, tags={"role": "nomad", "region": "global", "id": name, "expect": "3", **tags})

    members = [
        server("a"),
        server("b", raft="1"),
        server("c", region="elsewhere"),
        server("d", nonvoter="1"),
        server("e", expect="many"),
        server("f").replace(status=FAILED),
        Member(name="client", tags={"role": "client", "id": "x"}),
    ]
    assert candidates(members, "global") == [
        Candidate(id="a", expect=3),
        Candidate(id="b", expect=3, in_cluster=True),
        Candidate(id="e", expect=0),
    ]


# --- many courses of events -------------------------------------------------------------------------------------------


def _cause_trouble(servers: Region) -> None:
    rng, names = servers.rng, sorted(servers.expects)
    if rng.random() < 0.02 and servers.machines:
        servers.kill(rng.choice(sorted(servers.machines)), rng.uniform(0.2, 40.0))
    if rng.random() < 0.05:
        name = rng.choice(names)
        servers.sees[name] = {other for other in names if rng.random() < 0.7} | {name}
    if rng.random() < 0.03:
        servers.cut.clear()
    elif rng.random() < 0.03:
        half = {name for name in names if rng.random() < 0.5}
        servers.cut |= {frozenset((one, other)) for one in half for other in names if other not in half}


@pytest.mark.parametrize(("n", "expect"), [(2, 2), (3, 3), (4, 3), (5, 3), (5, 5), (7, 5)])
def test_never_two_clusters_and_always_one_in_the_end(n: int, expect: int) -> None:
    for seed in range(30):
        servers = region(n, expect, seed)
        servers.loss, servers.crash = servers.rng.choice([0.0, 0.1, 0.4]), servers.rng.choice([0.0, 0.1, 0.3])
        servers.delay_s = servers.rng.choice([0.02, 0.3, 3.0])
        for _ in range(servers.rng.randrange(20, 400)):
            servers.tick(servers.rng.choice([0.01, 0.1, 0.5]))
            _cause_trouble(servers)
        servers.loss = servers.crash = 0.0
        servers.delay_s = 0.05
        servers.cut.clear()
        servers.sees = {name: set(servers.expects) for name in servers.expects}
        servers.down = dict.fromkeys(servers.down, servers.now)
        servers.run(60)
        results = servers.results()
        assert len(results) == n, f"seed {seed}"
        assert None not in results.values(), f"seed {seed}: {results} {servers.ballots}"
        assert len(servers.decided()) == 1, f"seed {seed}: {results}"


def test_a_minority_that_is_gone_for_good_holds_nobody_up_at_any_moment() -> None:
    for seed in range(80):
        servers = region(4, 3, seed)
        servers.delay_s = 0.1
        for _ in range(servers.rng.randrange(1, 80)):
            servers.tick(0.01)
        servers.kill(servers.rng.choice(["s0", "s1", "s2"]), 1e9)
        servers.run(90)
        assert len(servers.decided()) == 1, f"seed {seed}: {servers.ballots}"
        assert None not in servers.results().values(), f"seed {seed}: {servers.ballots}"


def test_a_split_in_the_middle_of_an_agreement_makes_one_cluster() -> None:
    """Those on the larger side could agree anew among themselves, were it not for the one that promised before."""
    for seed in range(120):
        servers = region(5, 3, seed)
        servers.delay_s = 0.1
        for _ in range(servers.rng.randrange(1, 80)):
            servers.tick(0.01)
        apart = {"s0", servers.rng.choice(["s1", "s2"])}
        servers.cut = {frozenset((one, other)) for one in apart for other in servers.expects if other not in apart}
        servers.run(60)
        servers.cut.clear()
        servers.run(30)
        assert len(servers.decided()) == 1, f"seed {seed}: {servers.ballots}"
        assert None not in servers.results().values(), f"seed {seed}: {servers.ballots}"


# --- with files and tasks ---------------------------------------------------------------------------------------------


async def test_three_with_files_agree_and_remember(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.05  # syncs happen in threads, for which time has to stand still
    names = ("a", "b", "c")
    for name in names:
        (tmp_path / name).mkdir()
    servers = {n: Bootstrapper(n, 3, tmp_path / n / "bootstrap.json", rng=random.Random(n)) for n in names}

    async def call(server: str, method: str, params: dict[str, Any]) -> Any:
        assert method == METHOD
        if server not in servers:
            raise NotFound(server)
        return await servers[server].handle(msgspec.msgpack.decode(msgspec.msgpack.encode(params)))

    found: dict[str, FirstConfiguration] = {}

    async def start(name: str) -> None:
        seen = [Candidate(id=other, expect=3) for other in names]
        found[name] = await bootstrap(servers[name], members=lambda: seen, call=call)

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(start, name)
    assert len({one.cluster_id for one in found.values()}) == 1
    again = Bootstrapper("a", 3, tmp_path / "a" / "bootstrap.json", rng=random.Random(1))
    assert again.result == found["b"]
    with pytest.raises(Invalid, match="not a question"):
        await again.handle({"word": "sing"})
    answer = await again.handle({"word": "offer", "cluster_id": "x", "voters": ["a"]})
    assert msgspec.convert(answer, Answer).said == "elsewhere"
