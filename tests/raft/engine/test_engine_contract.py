"""What each private name of pysyncobj that the engine uses has to be and do. Another version has to pass this first."""

from __future__ import annotations

import inspect
import os
import pickle
import re
from typing import Any

import pysyncobj.pickle
import pysyncobj.syncobj as stock_module
import pytest
from pretend_disk import PretendDirectory
from pysyncobj import SyncObj
from sim import run_seed

from nomadpy.model.errors import Bug
from nomadpy.raft import engine as engine_module
from nomadpy.raft.engine import ATTRIBUTES, CALLED_METHODS, PATCHED_MODULE_NAMES, REPLACED_METHODS, Engine, Role
from nomadpy.raft.wal import Wal


def make(peers: str = "bc", applied: list[bytes] | None = None) -> tuple[Engine, Wal]:
    wal = Wal(PretendDirectory(), log_id=bytes(16))
    target = applied if applied is not None else []
    return Engine("a", tuple(peers), wal, apply=target.append, batch_bytes=1000), wal


def lead(engine: Engine) -> None:
    engine.start_election()
    engine.deliver("b", {"type": "response_vote", "term": engine.term})
    assert engine.role is Role.LEADER


def test_the_installed_version_is_the_pinned_one() -> None:
    engine_module.check_pysyncobj.__wrapped__()


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "VERSION", "0.3.18")
    with pytest.raises(Bug, match=r"0\.3\.18 is installed"):
        engine_module.check_pysyncobj.__wrapped__()


def test_a_changed_source_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "SOURCE_SHA256", "0" * 64)
    with pytest.raises(Bug, match="was changed"):
        engine_module.check_pysyncobj.__wrapped__()


@pytest.mark.parametrize("name", [*REPLACED_METHODS, *CALLED_METHODS])
def test_the_methods_exist(name: str) -> None:
    assert callable(SyncObj.__dict__[name])


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_the_attributes_exist(name: str) -> None:
    assert name in make()[0]._inner.__dict__


@pytest.mark.parametrize("name", PATCHED_MODULE_NAMES)
def test_the_patched_names_are_looked_up_in_the_module(name: str) -> None:
    assert f"{name}(" in inspect.getsource(SyncObj)
    assert hasattr(stock_module, name)


def test_no_other_private_name_is_used() -> None:
    source = inspect.getsource(engine_module)
    declared = {*REPLACED_METHODS, *CALLED_METHODS, *ATTRIBUTES}
    used = set(re.findall(r"_SyncObj__[A-Za-z]+", source))
    assert used == {name for name in declared if name.startswith("_SyncObj__")}
    package = os.path.dirname(engine_module.__file__ or "")
    for name in sorted(os.listdir(package)):
        if name.endswith(".py") and name != "engine.py":
            with open(os.path.join(package, name)) as file:
                text = file.read()
            assert "_SyncObj__" not in text
            assert "import pysyncobj" not in text
            assert "from pysyncobj" not in text


def test_an_election_asks_for_votes_in_the_next_term() -> None:
    engine, wal = make()
    engine.start_election()
    assert (engine.role, engine.term, wal.voted_for) == (Role.CANDIDATE, 1, "a")
    assert [(peer, message["type"]) for peer, message in engine.take_sent()] == [
        ("b", "request_vote"),
        ("c", "request_vote"),
    ]


def test_a_leader_appends_an_entry_of_its_term_and_commits_by_majority() -> None:
    applied: list[bytes] = []
    engine, wal = make(applied=applied)
    lead(engine)
    assert wal.entries[-1] == (b"\x01", 2, 1)
    wal.append(b"\0x", 3, 1)
    engine.tick()
    assert engine.commit_index == 1
    engine.deliver("c", {"type": "next_node_idx", "next_node_idx": 4, "reset": False, "success": True})
    engine.tick()
    assert (engine.commit_index, engine.applied_index, engine.match_index("c")) == (3, 3, 3)
    assert applied == [b"\x01", b"\0x"]


def test_entries_of_an_earlier_term_commit_only_with_one_of_this_term() -> None:
    engine, wal = make()
    wal.append(b"\0old", 2, 1)
    wal.set_state(1, None)
    lead(Engine("z", ("b",), Wal(PretendDirectory(), log_id=bytes(16)), apply=lambda _data: None, batch_bytes=9))
    engine.adopt_term(1)
    lead(engine)
    engine.deliver("c", {"type": "next_node_idx", "next_node_idx": 3, "reset": False, "success": True})
    engine.tick()
    assert engine.commit_index == 1
    engine.deliver("c", {"type": "next_node_idx", "next_node_idx": 4, "reset": False, "success": True})
    engine.tick()
    assert engine.commit_index == 3


def test_a_higher_term_is_adopted_without_a_vote() -> None:
    engine, wal = make()
    lead(engine)
    engine.take_sent()
    engine.adopt_term(9)
    assert (engine.role, engine.term, wal.voted_for) == (Role.FOLLOWER, 9, None)
    assert engine.take_sent() == []


def test_a_paused_peer_is_sent_nothing_and_batches_are_bounded() -> None:
    engine, wal = make()
    lead(engine)
    engine.take_sent()
    for index in range(3, 13):
        wal.append(bytes(300), index, 1)
    engine.pause("b")
    engine.send_appends()
    sent = engine.take_sent()
    assert {peer for peer, _ in sent} == {"c"}
    assert [len(message["entries"]) for _, message in sent] == [4, 4, 2]
    engine.resume("b")
    engine.send_appends()
    assert {peer for peer, _ in engine.take_sent()} == {"b", "c"}


def test_learners_are_served_and_not_counted() -> None:
    engine, wal = make("bc")
    lead(engine)
    engine.add_learner("z")
    engine.take_sent()
    wal.append(b"\0x", 3, 1)
    engine.send_appends()
    assert [peer for peer, _ in engine.take_sent()] == ["b", "c", "z"]
    engine.deliver("z", {"type": "next_node_idx", "next_node_idx": 4, "reset": False, "success": True})
    engine.tick()
    assert (engine.match_index("z"), engine.commit_index) == (3, 1)
    engine.remove_learner("z")
    engine.send_appends()
    assert [peer for peer, _ in engine.take_sent()] == ["b", "c"]


def test_voters_can_be_added_and_removed() -> None:
    engine, _ = make("b")
    lead(engine)
    engine.take_sent()
    engine.add_voter("d")
    engine.send_appends()
    assert [peer for peer, _ in engine.take_sent()] == ["b", "d"]
    engine.deliver("b", {"type": "next_node_idx", "next_node_idx": 3, "reset": False, "success": True})
    engine.remove_voter("d")
    engine.tick()
    assert engine.commit_index == 2


def test_time_does_not_pass_inside() -> None:
    engine, _ = make()
    for _ in range(100):
        engine.tick()
    assert engine.role is Role.FOLLOWER
    assert engine.take_sent() == []
    assert stock_module.monotonicTime() == 0.0


def test_nothing_is_pickled_or_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    def trap(*_: Any, **__: Any) -> Any:
        raise AssertionError("pickle or fork was used")

    for module in (pickle, pysyncobj.pickle):
        for name in ("dumps", "loads", "dump", "load"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, trap)
    monkeypatch.setattr(os, "fork", trap)
    for seed in range(6):
        assert run_seed(seed, profile="members").acknowledged > 0
