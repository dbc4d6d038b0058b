from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio.testing

from nomadpy.client.allocdir import mounts_below


@pytest.fixture
def jumping_clock() -> trio.testing.MockClock:
    """Jumps once nothing has happened for 20 ms, so that worker threads (disk, directories) are waited for."""
    return trio.testing.MockClock(autojump_threshold=0.02)


@pytest.fixture(autouse=True)
def _no_mounts_left(tmp_path: Path) -> Iterator[None]:
    """A client leaves its running allocations' memory file systems mounted on purpose; a test must not."""
    yield
    for mount in mounts_below(str(tmp_path)):
        subprocess.run(["umount", "-l", mount], check=True)
