"""Saving, restoring and looking into the state; reading the log of a server that is stopped."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from cluster_builders import make_job, make_node

from nomadpy.raft.raftlog import RaftLog, Snapshots
from nomadpy.state import commands as c
from nomadpy.state.archive import SnapshotMeta, pack
from nomadpy.state.snapshot import freeze, restore
from nomadpy.state.store import StateStore

Run = Callable[..., Any]
ROUTE = "/v1/operator/snapshot"
COMMANDS: tuple[c.Command, ...] = (
    c.InitCluster(cluster_id="c", id_key="0123456789abcdef" * 2, now_ns=1),
    c.RegisterNode(node=make_node(0), now_ns=2),
    c.RegisterJob(job=make_job("web", count=2), now_ns=3),
    c.StageRestore(restore_id="x", offset=0, data=bytes(100)),
)


@pytest.fixture
def archive() -> bytes:
    store = StateStore()
    for index, command in enumerate(COMMANDS, 1):
        store.apply(index, command)
    return pack(SnapshotMeta(id="2-3", index=store.index, term=2, cluster_id="c", schema=1), freeze(store)())


def serve(agent: Any, data: bytes) -> None:
    agent.on("GET", ROUTE, data)
    agent.headers["Digest"] = "sha-256=" + base64.b64encode(hashlib.sha256(data).digest()).decode()


def test_what_is_saved_can_be_looked_into_and_restored(
    nomadpy: Run, agent: Any, archive: bytes, tmp_path: Path
) -> None:
    serve(agent, archive)
    file = tmp_path / "state.snap"
    seen = nomadpy("operator", "snapshot", "save", "-stale", str(file))
    assert (seen.code, seen.out) == (0, f"State file written to {file} (index 4, {len(archive)} bytes)\n")
    assert file.read_bytes() == archive
    assert file.stat().st_mode & 0o777 == 0o600
    assert agent.asked("GET", ROUTE).query == {"stale": ["true"]}

    facts = json.loads(nomadpy("operator", "snapshot", "inspect", "-json", str(file)).out)
    assert (facts["Index"], facts["Term"], facts["ClusterID"]) == (4, 2, "c")
    assert {table["Name"]: table["Count"] for table in facts["Tables"]}["jobs"] == 1
    assert "jobs.versions" in nomadpy("operator", "snapshot", "inspect", str(file)).out

    agent.on("PUT", ROUTE, {"Index": 77})
    seen = nomadpy("operator", "snapshot", "restore", str(file))
    assert (seen.code, seen.out) == (0, "Snapshot of index 4 restored; the cluster goes on at index 77\n")
    assert agent.asked("PUT", ROUTE).body == archive


def test_a_snapshot_that_was_changed_on_the_way_is_not_kept(
    nomadpy: Run, agent: Any, archive: bytes, tmp_path: Path
) -> None:
    serve(agent, archive)
    agent.on("GET", ROUTE, archive[:-1] + b"?")
    file = tmp_path / "state.snap"
    seen = nomadpy("operator", "snapshot", "save", str(file))
    assert seen.code == 1
    assert "did not arrive as it was sent" in seen.err
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_used_is_named(nomadpy: Run, agent: Any, archive: bytes, tmp_path: Path) -> None:
    serve(agent, archive)
    nowhere = tmp_path / "none" / "state.snap"
    assert f"cannot write {nowhere}: No such file" in nomadpy("operator", "snapshot", "save", str(nowhere)).err
    assert f"cannot read {nowhere}: No such file" in nomadpy("operator", "snapshot", "restore", str(nowhere)).err
    cut = tmp_path / "cut.snap"
    cut.write_bytes(archive[:-10])
    for verb in ("restore", "inspect"):
        seen = nomadpy("operator", "snapshot", verb, str(cut))
        assert (seen.code, "the snapshot is cut off" in seen.err) == (1, True)
    assert [one for one in agent.requests if one.method == "PUT"] == []


# --- the log of a stopped server --------------------------------------------------------------------------------------


async def write_log(directory: Path, *, meanwhile: Callable[[], None] = lambda: None, every: int = 1000) -> None:
    store = StateStore()
    log = RaftLog(
        directory,
        lambda index, data: store.apply(index, c.decode(data)),
        name="one",
        snapshots=Snapshots(lambda: freeze(store), lambda index, data: restore(store, index, data), every),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        with trio.fail_after(10):
            while not log.leadership.leading:
                await log.leadership_changed(log.leadership)
            for command in COMMANDS:
                await log.propose(c.encode(command))
        meanwhile()
        nursery.cancel_scope.cancel()


def files(directory: Path) -> dict[str, tuple[bytes, int]]:
    found = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


@pytest.mark.parametrize("place", ["", "server", "server/raft"])
def test_the_log_of_a_stopped_server_is_shown_and_not_touched(nomadpy: Run, tmp_path: Path, place: str) -> None:
    trio.run(write_log, tmp_path / "server" / "raft")
    before = files(tmp_path)
    facts = json.loads(nomadpy("operator", "raft", "info", "-json", str(tmp_path / place)).out)
    assert facts["LastIndex"] == facts["Length"] >= len(COMMANDS)
    assert (facts["FirstIndex"], facts["VotedFor"], facts["CutOffBytes"]) == (1, "one", 0)
    entries = [json.loads(line) for line in nomadpy("operator", "raft", "logs", str(tmp_path / place)).out.splitlines()]
    assert [one["Index"] for one in entries] == list(range(1, facts["LastIndex"] + 1))
    told = [one for one in entries if one["Kind"] == "command"]
    assert [one["Type"] for one in told] == [type(command).__name__ for command in COMMANDS]
    assert told[2]["Fields"]["job"]["ID"] == "web"
    assert told[3]["Fields"]["data"] == "(100 bytes)"
    assert files(tmp_path) == before


def test_a_cut_off_end_is_told(nomadpy: Run, tmp_path: Path) -> None:
    trio.run(write_log, tmp_path)
    (segment,) = (tmp_path / "log").glob("*.wal")
    segment.write_bytes(segment.read_bytes()[:-3])
    facts = json.loads(nomadpy("operator", "raft", "info", "-json", str(tmp_path)).out)
    assert facts["CutOffBytes"] > 0


def test_a_running_server_is_left_alone(nomadpy: Run, tmp_path: Path) -> None:
    seen: list[Any] = []
    trio.run(
        lambda: write_log(tmp_path, meanwhile=lambda: seen.append(nomadpy("operator", "raft", "logs", str(tmp_path))))
    )
    assert seen[0].code == 1
    assert "is in use by a running server; stop it first" in seen[0].err
    assert seen[0].out == ""


def test_a_place_without_a_log_is_named(nomadpy: Run, tmp_path: Path) -> None:
    seen = nomadpy("operator", "raft", "info", str(tmp_path))
    assert seen.code == 1
    assert f"{tmp_path} holds no replicated log" in seen.err
