"""Blocked evaluations, leases and waiting: machines without I/O."""

from __future__ import annotations

import random

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from nomadpy.model.evaluation import Evaluation
from nomadpy.model.time import MINUTE, SECOND
from nomadpy.server.blocked import BlockedEvals
from nomadpy.server.config import ServerConfig
from nomadpy.server.heartbeat import Heartbeats
from nomadpy.server.watch import Watch


def blocked(name: str, job: str = "job", *, at: int = 10, **changes: object) -> Evaluation:
    made = Evaluation(id=name, namespace="default", job_id=job, status="blocked", create_index=at, snapshot_index=at)
    return made.replace(**changes)


def names(evaluations: list[Evaluation]) -> list[str]:
    return sorted(evaluation.id for evaluation in evaluations)


def test_room_wakes_those_whom_it_could_help() -> None:
    held = BlockedEvals()
    held.block(blocked("yes", "a", class_eligibility={"c1": True, "c2": False}))
    held.block(blocked("no", "b", class_eligibility={"c1": False, "c2": False}))
    held.block(blocked("escaped", "c", class_eligibility={"c1": False}, escaped_computed_class=True))
    assert names(held.unblock(["c2"], 11)) == ["escaped"]
    assert names(held.unblock(["c1"], 12)) == ["yes"]
    assert names(held.unblock(["never seen"], 13)) == ["no"]
    assert held.statistics().blocked == 0


def test_room_that_appeared_meanwhile_sends_an_evaluation_straight_back() -> None:
    held = BlockedEvals()
    held.unblock(["c1"], 20)
    late = blocked("late", at=20)
    assert held.block(late) is None
    early = blocked("early", "other", at=19)
    assert held.block(early) == early
    ruled_out = blocked("ruled out", "third", at=19, class_eligibility={"c1": False})
    assert held.block(ruled_out) is None
    assert (held.statistics().blocked, held.statistics().escaped) == (2, 0)


def test_a_job_has_one_blocked_evaluation_and_the_older_is_to_be_cancelled() -> None:
    held = BlockedEvals()
    held.block(blocked("old", at=5))
    held.block(blocked("new", at=9))
    held.block(blocked("older", at=3))
    assert names(held.take_duplicates()) == ["old", "older"]
    assert held.take_duplicates() == []
    assert names(held.unblock(["c"], 20)) == ["new"]


def test_a_newer_look_counts_more_than_a_later_birth() -> None:
    held = BlockedEvals()
    held.block(blocked("looked again", at=5, snapshot_index=30))
    held.block(blocked("born later", at=9))
    assert names(held.unblock(["c"], 40)) == ["looked again"]


def test_what_ended_is_forgotten() -> None:
    held = BlockedEvals()
    held.block(blocked("e"))
    held.forget("default", "job", "another")
    assert held.statistics().blocked == 1
    held.forget("default", "job", "e")
    assert held.unblock(["c"], 20) == []


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["block", "room", "end"]), st.booleans()), max_size=40)
)
def test_blocked_evaluations_are_never_lost(history: list[tuple[str, str, bool]]) -> None:
    held, open_ = BlockedEvals(), dict[str, Evaluation]()
    for index, (job, event, eligible) in enumerate(history):
        if event == "block":
            made = blocked(f"e{index}", job, at=index, class_eligibility={"c": eligible})
            assert held.block(made) is None
            open_[job] = made
        elif event == "end" and job in open_:
            held.forget("default", job, open_.pop(job).id)
        elif event == "room":
            woken = held.unblock(["c"], index)
            assert names(woken) == names([e for e in open_.values() if e.class_eligibility["c"]])
            open_ = {job: e for job, e in open_.items() if not e.class_eligibility["c"]}
        assert held.statistics().blocked == len(open_)


def leases(**config: object) -> Heartbeats:
    return Heartbeats(ServerConfig().replace(**config), random.Random(1))


def test_a_lease_lasts_its_ttl_and_some_grace() -> None:
    beats = leases()
    ttl_s = beats.renew("n", 0)
    assert 10 <= ttl_s <= 20
    due = beats.next_deadline()
    assert due == int(ttl_s * SECOND) + 10 * SECOND
    assert beats.expired(due - 1) == []
    assert beats.expired(due) == ["n"]
    assert beats.expired(due + MINUTE) == []
    assert beats.next_deadline() is None


def test_many_nodes_beat_less_often() -> None:
    beats = leases()
    for number in range(2000):
        ttl_s = beats.renew(f"n{number}", 0)
    assert 40 <= ttl_s <= 80
    assert beats.n_active() == 2000


def test_a_beat_replaces_the_lease_before_it() -> None:
    beats = leases()
    beats.expect(["n", "m"], 0)
    beats.renew("n", 0)
    assert beats.next_deadline() is not None
    assert beats.expired(31 * SECOND) == ["n"]
    beats.forget("m")
    assert beats.expired(10 * MINUTE) == []
    assert beats.n_active() == 0


def test_a_new_leader_gives_everyone_time() -> None:
    beats = leases()
    beats.expect(["a", "b"], 7)
    assert beats.expired(5 * MINUTE) == []
    assert sorted(beats.expired(5 * MINUTE + 7)) == ["a", "b"]


async def test_waiting_for_tables(autojump_clock: trio.testing.MockClock) -> None:
    watch, woken = Watch(), []

    async def wait(name: str, *tables: str) -> None:
        await watch.changed(*tables)
        woken.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "jobs", "jobs")
        nursery.start_soon(wait, "both", "jobs", "nodes")
        nursery.start_soon(wait, "nodes", "nodes")
        await trio.testing.wait_all_tasks_blocked()
        assert watch.n_waiters() == 4
        watch.publish(["allocs", "jobs"])
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(woken) == ["both", "jobs"]
        assert watch.n_waiters() == 1
        nursery.cancel_scope.cancel()
    assert watch.n_waiters() == 0
