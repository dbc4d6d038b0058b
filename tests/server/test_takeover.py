"""The journal of an earlier version becomes the beginning of the replicated log, whenever the server dies meanwhile."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from cluster_builders import make_job, make_node
from old_journal import write_journal_file

from nomadpy.model.errors import NomadError
from nomadpy.raft.disk import DiskDirectory
from nomadpy.raft.journal import JournalCorrupt
from nomadpy.raft.raftlog import RaftLog, Snapshots
from nomadpy.server.takeover import TAKEN_OVER, take_over_journal
from nomadpy.state import commands as c
from nomadpy.state.snapshot import freeze, restore
from nomadpy.state.store import StateStore

NAME = "5e7be700-0000-0000-0000-000000000001"
COMMANDS: tuple[c.Command, ...] = (
    c.InitCluster(cluster_id="c", id_key="0123456789abcdef" * 2, now_ns=1),
    c.RegisterNode(node=make_node(0), now_ns=2),
    c.RegisterJob(job=make_job("web", count=2), now_ns=3),
)


def write_journal(directory: Path, *commands: c.Command) -> StateStore:
    """What an earlier version would have left, and the state that it had."""
    write_journal_file(directory, [c.encode(command) for command in commands])
    store = StateStore()
    for index, command in enumerate(commands, 1):
        store.apply(index, command)
    return store


async def started(directory: Path, *commands: c.Command) -> StateStore:
    """The state of a server on the replicated log, after it took over and was told more."""
    take_over_journal(directory, name=NAME, tracked_versions=6)
    store = StateStore()
    log = RaftLog(
        directory,
        lambda index, data: store.apply(index, c.decode(data)),
        name=NAME,
        snapshots=Snapshots(lambda: freeze(store), lambda index, data: restore(store, index, data), 1000),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        with trio.fail_after(10):
            while not log.leadership.leading:
                await log.leadership_changed(log.leadership)
            for command in commands:
                await log.propose(c.encode(command))
        nursery.cancel_scope.cancel()
    return store


def said(store: StateStore) -> Any:
    return store.cluster_id, store.jobs.current, list(store.nodes), store.table_index


async def test_the_state_goes_on_where_the_journal_ended(tmp_path: Path) -> None:
    old = write_journal(tmp_path, *COMMANDS)
    assert said(await started(tmp_path)) == said(old)
    assert not (tmp_path / "journal").exists()
    assert (tmp_path / TAKEN_OVER).exists()
    after = await started(tmp_path, c.RegisterJob(job=make_job("later"), now_ns=9))
    assert after.jobs.current["default", "later"].create_index > old.index
    again = await started(tmp_path)
    assert said(again) == said(after)


def test_without_a_journal_nothing_happens(tmp_path: Path) -> None:
    assert not take_over_journal(tmp_path / "none", name=NAME, tracked_versions=6)
    assert list(tmp_path.iterdir()) == []


async def test_an_empty_journal_is_only_put_away(tmp_path: Path) -> None:
    write_journal(tmp_path)
    assert take_over_journal(tmp_path, name=NAME, tracked_versions=6)
    assert not (tmp_path / "snapshots").exists()
    assert (await started(tmp_path, *COMMANDS)).cluster_id == "c"


class Killed(BaseException):
    """The server died."""


def die_at(number: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Has the server die before its ``number``-th step on the disk; the steps that it took."""
    steps: list[str] = []

    def mortal(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def take(*args: Any) -> Any:
            if len(steps) == number:
                raise Killed
            steps.append(name)
            return step(*args)

        return take

    for owner, names in (
        (DiskDirectory, ("open", "rename", "remove", "sync")),
        (os, ("write", "fdatasync", "replace")),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, mortal(name, getattr(owner, name)))
    return steps


async def test_a_server_that_dies_anywhere_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = tmp_path / "written"
    old = write_journal(written, *COMMANDS)
    number = 0
    while True:
        directory = tmp_path / str(number)
        shutil.copytree(written, directory)
        with monkeypatch.context() as patch:
            steps = die_at(number, patch)
            try:
                take_over_journal(directory, name=NAME, tracked_versions=6)
                died = False
            except Killed:
                died = True
        assert said(await started(directory)) == said(old), steps
        if not died:
            break
        number += 1
    assert number > 6


async def test_an_older_version_in_between_is_noticed(tmp_path: Path) -> None:
    write_journal(tmp_path, *COMMANDS)
    await started(tmp_path)
    write_journal(tmp_path, *COMMANDS)
    with pytest.raises(NomadError, match="decide which one is right"):
        take_over_journal(tmp_path, name=NAME, tracked_versions=6)


def test_a_damaged_journal_is_left_as_it_is(tmp_path: Path) -> None:
    write_journal(tmp_path, *COMMANDS)
    path = tmp_path / "journal"
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(JournalCorrupt):
        take_over_journal(tmp_path, name=NAME, tracked_versions=6)
    assert path.read_bytes() == data
    assert not (tmp_path / "snapshots").exists()


def test_a_journal_in_use_is_left_alone(tmp_path: Path) -> None:
    write_journal(tmp_path, *COMMANDS)
    with (tmp_path / "journal").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(NomadError, match="in use by another agent"):
            take_over_journal(tmp_path, name=NAME, tracked_versions=6)
    assert (tmp_path / "journal").exists()
