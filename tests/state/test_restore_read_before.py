"""Whether a server had read the state before the entry that restores it makes no difference to what comes of it."""

from __future__ import annotations

import hashlib

from cluster_builders import make_job
from state_checker import check_store
from state_world import World

from nomadpy.state import commands as c
from nomadpy.state.apply.restore import read_staged
from nomadpy.state.snapshot import freeze
from nomadpy.state.store import Prepared, StateStore


def tell(store: StateStore, command: c.Command) -> c.Outcome:
    return store.apply(store.log_index + 1, command)


def stage(store: StateStore, data: bytes, restore_id: str = "x") -> None:
    half = len(data) // 2
    tell(store, c.StageRestore(restore_id=restore_id, data=data[:half]))
    assert store.staged is not None
    assert not store.staged.complete
    tell(store, c.StageRestore(restore_id=restore_id, offset=half, data=data[half:], last=True))
    assert store.staged is not None
    assert store.staged.complete


def restore(data: bytes, restore_id: str = "x") -> c.RestoreState:
    return c.RestoreState(restore_id=restore_id, sha256=hashlib.sha256(data).hexdigest(), era=7)


def saved_state() -> bytes:
    world = World(3)
    for job_id in ("web", "db"):
        world.register(make_job(job_id, count=4))
        world.run(job_id)
    return freeze(world.store)()


def stored(store: StateStore) -> bytes:
    return freeze(store)()


def test_read_before_or_in_the_entry() -> None:
    data, outcomes, states = saved_state(), [], []
    for before in (False, True):
        world = World(1)
        stage(world.store, data)
        if before:
            assert world.store.staged is not None
            world.store.prepared = read_staged(world.store.staged, tracked_versions=6)
        outcomes.append(tell(world.store, restore(data)))
        states.append(stored(world.store))
        assert world.store.prepared is None
        assert world.store.staged is None
        check_store(world.store)
    assert outcomes[0].ok
    assert outcomes[0] == outcomes[1]
    assert states[0] == states[1]


def test_what_was_read_of_another_restore_does_not_count() -> None:
    data = saved_state()
    digest = hashlib.sha256(data).hexdigest()
    for prepared in (
        Prepared(restore_id="other", sha256=digest, state=StateStore()),
        Prepared(restore_id="x", sha256="00", state=StateStore()),
    ):
        world = World(1)
        stage(world.store, data)
        world.store.prepared = prepared
        assert tell(world.store, restore(data)).ok
        assert world.store.job("default", "web") is not None


def test_what_was_read_goes_with_what_was_put_aside() -> None:
    data = saved_state()
    for last in (c.AbandonRestore(restore_id="x"), c.StageRestore(restore_id="y", data=b"y")):
        world = World(1)
        stage(world.store, data)
        assert world.store.staged is not None
        world.store.prepared = read_staged(world.store.staged, tracked_versions=6)
        tell(world.store, last)
        assert world.store.prepared is None
        assert not tell(world.store, restore(data)).ok
