from __future__ import annotations

import pytest
import trio.testing


@pytest.fixture
def jumping_clock() -> trio.testing.MockClock:
    """Jumps once nothing has happened for 20 ms, so that worker threads (disk, directories) are waited for."""
    return trio.testing.MockClock(autojump_threshold=0.02)
