"""How servers that know each other only from gossip agree, once, on who votes first: a machine without I/O.

Whoever is the lowest of the servers that say the same ``bootstrap_expect`` proposes a *ballot*: itself and the next
ones, exactly as many as expected, under a fresh cluster id. What every server does with it is durable before it says
so, and only goes forward:

    free ── offer ──▶ promised ── commit ──▶ stored ── majority stored ──▶ decided
     ▲                    │                     │
     └──── the ballot is known to be dead ──────┘

- A promise binds: until its ballot is decided or dead a server promises nothing else.
- The proposer commits only after *all* promised, and stores before it asks others to.
- A ballot is decided when a majority of its voters stored it; the log begins only then.
- It is dead when so many voters refused for ever that no majority is left; or when its proposer did, because it refuses
  only what it has not stored, and then nobody can ever have been asked to store it.

Two ballots that share a voter are therefore never both decided: that voter was released from one because it was dead.
(Servers of two halves that never heard of each other share none: nobody can tell them from two clusters.)

Who is bound asks the other voters every second how far they are, and so finishes what a proposer left: if anybody
stored it, it stores too and passes it on; if for ``PROMISE_S`` nobody did, it asks them to refuse. A minority of the
voters may be gone for good meanwhile.

Where a member of gossip says that it belongs to a cluster already, a server that is not bound does not vote at all: it
joins, with an empty configuration, and waits to be taken in. The member has to confirm that itself: gossip remembers
the servers of a cluster that was lost as a whole for a while, and nobody would take in those that begin anew. Nomad
lets each server decide alone and at the moment when it sees enough others, which can give servers with different views
different first configurations.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Literal

import msgspec

from nomadpy.gossip.contract import ALIVE, SUSPECT, Member
from nomadpy.model.ids import new_uuid

PROMISE_S = 10.0
_ROUND_S = 1.0
# A proposer gives up before those who promised begin to ask for it.
_OFFER_S = 8.0
_PAUSE_S = 2.0

Stage = Literal["free", "promised", "stored", "decided"]
Word = Literal["offer", "commit", "decided", "query", "refuse"]
# "open": neither stored nor refused. "bound": by another ballot. "elsewhere": in a cluster, or waiting for one.
Stance = Literal["promised", "stored", "decided", "open", "refused", "bound", "elsewhere"]


class FirstConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """What a log begins with. No voters: this server waits until a leader takes it in; ``cluster_id`` is then "" until
    one spoke to it."""

    cluster_id: str = ""
    voters: tuple[str, ...] = ()


class Ballot(msgspec.Struct, frozen=True, kw_only=True):
    """What a server must not forget: what it is bound to and how far, and which clusters it will never store."""

    stage: Stage = "free"
    cluster_id: str = ""
    voters: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    @property
    def proposer(self) -> str:
        """Who made it: the lowest of its voters."""
        return self.voters[0] if self.voters else ""

    @property
    def majority(self) -> int:
        """How many voters decide."""
        return len(self.voters) // 2 + 1


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A living server of the region, as gossip shows it. ``in_cluster``: it says that it belongs to a cluster."""

    id: str
    expect: int = 0
    in_cluster: bool = False


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What one server says to another about a ballot."""

    word: Word
    cluster_id: str
    voters: tuple[str, ...] = ()


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer; ``reason`` tells people why not."""

    said: Stance
    reason: str = ""


_VERIFY = Ask(word="query", cluster_id="")


def candidates(members: Iterable[Member], region: str) -> list[Candidate]:
    """The living servers of the region that gossip knows and that may vote (tags ``id``, ``expect``, ``raft``)."""
    found = []
    for member in members:
        tags = member.tags
        if not member.is_server or tags.get("region") != region or member.status not in (ALIVE, SUSPECT):
            continue
        if not tags.get("id") or tags.get("nonvoter"):
            continue
        expect = tags.get("expect", "0")
        found.append(
            Candidate(
                id=tags["id"], expect=int(expect) if expect.isdecimal() else 0, in_cluster=tags.get("raft") == "1"
            )
        )
    return found


class Bootstrap:
    """One server's part. ``ballot`` has to be stored durably, whenever it changed, before anything that was taken from
    ``hear`` or ``take_asks`` leaves this server. ``expect`` is ``bootstrap_expect``; 0 means that this server only
    joins."""

    def __init__(self, own_id: str, expect: int, ballot: Ballot, *, rng: random.Random, now: float) -> None:
        self._id, self._expect, self._rng = own_id, expect, rng
        self.ballot = ballot
        self.joining = False
        # Why there is no configuration yet, for people; sentences that stay the same while the reason does.
        self.problems: tuple[str, ...] = ()
        self._bound_at = now
        self._round_at = now
        self._not_before = self._verify_at = now
        self._promises: set[str] = set()
        self._answers: dict[str, Stance] = {}
        self._asks: list[tuple[str, Ask]] = []
        # Whether this process made the ballot that it is bound to; after a restart it only winds up what is there.
        self._proposing = False

    @property
    def result(self) -> FirstConfiguration | None:
        """What the log begins with, None as long as that is open."""
        if self.ballot.stage != "decided":
            return FirstConfiguration() if self.joining else None
        return FirstConfiguration(cluster_id=self.ballot.cluster_id, voters=self.ballot.voters)

    def next_wake(self) -> float:
        """When ``look`` has something to do though nothing arrives."""
        return self._round_at

    def take_asks(self) -> list[tuple[str, Ask]]:
        """What has to be said, and to whom; unanswered words are said again by later rounds."""
        asks, self._asks = self._asks, []
        return asks

    def learn(self, cluster_id: str) -> None:
        """The cluster that took this server in."""
        if self.joining or (self.ballot.stage == "decided" and not self.ballot.voters):
            self.ballot = Ballot(stage="decided", cluster_id=cluster_id, refused=self.ballot.refused)

    # --- looking around --------------------------------------------------------------------------------------------

    def look(self, seen: Iterable[Candidate], now: float) -> None:
        """Goes on with what gossip shows now; to be called at ``next_wake`` and after every answer."""
        if self.result is not None:
            return
        others = {one.id: one for one in seen if one.id != self._id}
        if self.ballot.stage == "free":
            self._look_free(others, now)
        elif now >= self._round_at:
            self._round_at = now + _ROUND_S * self._rng.uniform(0.8, 1.2)
            self._wind_up(now)

    def _look_free(self, others: dict[str, Candidate], now: float) -> None:
        self._round_at = max(now + _ROUND_S / 4, self._not_before)
        if said := sorted(one.id for one in others.values() if one.in_cluster):
            self.problems = (f"asking {', '.join(said)}, said to belong to a cluster",)
            if now >= self._verify_at:
                self._verify_at = now + _ROUND_S
                self._asks += [(server, _VERIFY) for server in said]
        elif self._expect == 1:
            self.ballot = Ballot(
                stage="decided",
                cluster_id=new_uuid(self._rng),
                voters=(self._id,),
                refused=self.ballot.refused,
            )
        elif self._may_propose(others) and now >= self._not_before:
            ids = sorted([self._id, *(one.id for one in others.values() if one.expect == self._expect)])
            if ids[0] == self._id and len(ids) >= self._expect:
                self._propose(tuple(ids[: self._expect]), now)

    def _may_propose(self, others: dict[str, Candidate]) -> bool:
        odd = sorted(one.id for one in others.values() if one.expect not in (0, self._expect))
        problems = [
            f"server {name} has bootstrap_expect = {others[name].expect}, this one {self._expect}; it must be the same"
            for name in odd
        ]
        same = 1 + sum(one.expect == self._expect for one in others.values())
        if self._expect == 0:
            problems = ["no bootstrap_expect is set, and no server that belongs to a cluster is known yet"]
        elif same < self._expect:
            problems.append(f"{same} of {self._expect} servers that bootstrap_expect asks for are known")
        self.problems = tuple(problems)
        return not problems

    def _propose(self, voters: tuple[str, ...], now: float) -> None:
        self._proposing = True
        self._promises = {self._id}
        self._bind(new_uuid(self._rng), voters, now)
        self._tell(voters, "offer")
        self._round_at = now + _ROUND_S

    # --- what others ask -------------------------------------------------------------------------------------------

    def hear(self, ask: Ask, now: float) -> Answer:
        """The answer to another server."""
        ballot = self.ballot
        bound_by_it = ballot.stage != "free" and ballot.cluster_id == ask.cluster_id
        if ballot.stage == "decided" and bound_by_it:
            return Answer(said="decided")
        # Only what is durable may count as "never" elsewhere; who waits to be taken in just promises nothing new.
        if ballot.stage == "decided" or (self.joining and ask.word == "offer"):
            return Answer(said="elsewhere", reason=f"server {self._id} belongs to a cluster already, or waits for one")
        if ask.word == "offer":
            return self._hear_offer(ask, now)
        if ask.word == "decided":
            return self._hear_decided(ask, bound_by_it)
        if bound_by_it and ballot.stage == "stored":
            return Answer(said="stored")
        if ask.cluster_id in ballot.refused:
            return Answer(said="refused", reason=f"server {self._id} gave that configuration up")
        if ask.word == "commit":
            if not bound_by_it:
                return Answer(said="bound", reason=f"server {self._id} did not promise that configuration")
            self.ballot = msgspec.structs.replace(ballot, stage="stored")
            return Answer(said="stored")
        if ask.word == "refuse":
            self._refuse(ask.cluster_id)
            return Answer(said="refused")
        return Answer(said="open")

    def _hear_offer(self, ask: Ask, now: float) -> Answer:
        ballot, n = self.ballot, len(ask.voters)
        if ballot.stage != "free" and ballot.cluster_id == ask.cluster_id:
            return Answer(said="stored" if ballot.stage == "stored" else "promised")
        if ask.cluster_id in ballot.refused:
            return Answer(said="refused", reason=f"server {self._id} gave that configuration up")
        if ballot.stage != "free":
            return Answer(said="bound", reason=f"server {self._id} is still bound by an earlier proposal")
        if n != self._expect:
            text = f"server {self._id} has bootstrap_expect = {self._expect}, not {n}; it must be the same everywhere"
            return Answer(said="refused", reason=text)
        if self._id not in ask.voters or tuple(sorted(set(ask.voters))) != ask.voters:
            return Answer(said="refused", reason=f"server {self._id} is not one of the proposed voters")
        self._proposing = False
        self._bind(ask.cluster_id, ask.voters, now)
        return Answer(said="promised")

    def _hear_decided(self, ask: Ask, bound_by_it: bool) -> Answer:
        if not bound_by_it:
            return Answer(said="bound", reason=f"server {self._id} is not bound by that configuration")
        self._decide()
        return Answer(said="decided")

    # --- what others answer ----------------------------------------------------------------------------------------

    def on_answer(self, server: str, ask: Ask, answer: Answer, now: float) -> None:
        """Takes the answer to one of ``take_asks``. What is about an earlier ballot is ignored."""
        if ask == _VERIFY:
            self.joining = self.joining or (self.ballot.stage == "free" and answer.said == "elsewhere")
            return
        if self.ballot.stage not in ("promised", "stored") or ask.cluster_id != self.ballot.cluster_id:
            return
        if answer.reason:
            self.problems = (answer.reason,)
        if ask.word == "offer":
            self._on_offer_answer(server, answer, now)
        else:
            self._answers[server] = answer.said
            self._weigh(now)

    def _on_offer_answer(self, server: str, answer: Answer, now: float) -> None:
        if not self._offering:
            return
        if answer.said != "promised":
            self._give_up(now)
            return
        self._promises.add(server)
        if self._promises >= set(self.ballot.voters):
            self.ballot = msgspec.structs.replace(self.ballot, stage="stored")
            self._answers.clear()
            self._tell(self.ballot.voters, "commit")

    @property
    def _offering(self) -> bool:
        ballot = self.ballot
        return self._proposing and ballot.stage == "promised" and ballot.cluster_id not in ballot.refused

    def _weigh(self, now: float) -> None:
        """What the answers so far mean for the ballot that binds this server."""
        ballot = self.ballot
        said = [self._answers.get(voter) for voter in ballot.voters if voter != self._id]
        stored = said.count("stored") + (ballot.stage == "stored")
        never = said.count("refused") + said.count("elsewhere") + (ballot.cluster_id in ballot.refused)
        if "decided" in said or stored >= ballot.majority:
            self._decide()
            return
        if self._is_dead(never):
            self._release(now)
            return
        if stored and ballot.stage == "promised" and ballot.cluster_id not in ballot.refused:
            self.ballot = msgspec.structs.replace(ballot, stage="stored")
            self._tell_open("commit")
            self._weigh(now)

    def _is_dead(self, never: int) -> bool:
        ballot = self.ballot
        return never > len(ballot.voters) - ballot.majority or (
            self._answers.get(ballot.proposer) in ("refused", "elsewhere")
            or (ballot.proposer == self._id and ballot.cluster_id in ballot.refused)
        )

    # --- winding up ------------------------------------------------------------------------------------------------

    def _wind_up(self, now: float) -> None:
        ballot = self.ballot
        if self._offering and now - self._bound_at < _OFFER_S:
            waiting = [voter for voter in ballot.voters if voter not in self._promises]
            self.problems = (f"waiting for the promise of {', '.join(waiting)}",)
            self._tell(waiting, "offer")
        elif ballot.proposer == self._id and ballot.stage == "promised":
            # Given up, or begun by an earlier run of this server: nobody can have been asked to store it.
            self._give_up(now)
        else:
            self._press(now)

    def _press(self, now: float) -> None:
        """One round of asking the other voters how far they are, on the answers of the round before."""
        ballot = self.ballot
        reached = 1 + len(self._answers)
        if ballot.stage == "stored":
            self._tell(ballot.voters, "commit")
        elif now - self._bound_at < PROMISE_S or reached < ballot.majority:
            self._tell(ballot.voters, "query")
        else:
            never = sum(said in ("refused", "elsewhere") for said in self._answers.values())
            if never + 1 > len(ballot.voters) - ballot.majority:
                # This server's own refusal comes last: it is the one that cannot be lost on the way.
                self._refuse(ballot.cluster_id)
                self._weigh(now)
                if self.ballot.stage == "free":
                    return
            self._tell(ballot.voters, "refuse")
        self.problems = (f"asking {', '.join(v for v in ballot.voters if v != self._id)} about an unfinished proposal",)
        self._answers.clear()

    def _give_up(self, now: float) -> None:
        self._refuse(self.ballot.cluster_id)
        self._release(now)

    def _release(self, now: float) -> None:
        self._refuse(self.ballot.cluster_id)
        self.ballot = Ballot(refused=self.ballot.refused)
        self._proposing = False
        self._answers.clear()
        self._not_before = now + _PAUSE_S * self._rng.uniform(0.5, 1.5)
        self._round_at = now

    # --- small steps -----------------------------------------------------------------------------------------------

    def _bind(self, cluster_id: str, voters: tuple[str, ...], now: float) -> None:
        self.ballot = Ballot(stage="promised", cluster_id=cluster_id, voters=voters, refused=self.ballot.refused)
        self._bound_at = self._round_at = now
        self._answers.clear()

    def _refuse(self, cluster_id: str) -> None:
        if cluster_id not in self.ballot.refused:
            self.ballot = msgspec.structs.replace(self.ballot, refused=(*self.ballot.refused, cluster_id))

    def _decide(self) -> None:
        self.ballot = msgspec.structs.replace(self.ballot, stage="decided")
        self.problems = ()
        self._tell(self.ballot.voters, "decided")

    def _tell(self, servers: Iterable[str], word: Word) -> None:
        ask = Ask(word=word, cluster_id=self.ballot.cluster_id, voters=self.ballot.voters)
        self._asks += [(server, ask) for server in servers if server != self._id]

    def _tell_open(self, word: Word) -> None:
        self._tell([voter for voter in self.ballot.voters if self._answers.get(voter) == "open"], word)
