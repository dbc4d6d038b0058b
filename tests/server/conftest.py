"""A clock that jumps, and a running server; a test that wants the second has to ask for the first as well."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio.testing
from server_world import World, running

# What writes journals of earlier versions.
sys.path.append(str(Path(__file__).resolve().parent.parent / "raft"))


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0.0)


@pytest.fixture
async def world(autojump_clock: trio.testing.MockClock) -> AsyncIterator[World]:
    async with running() as world:
        yield world
