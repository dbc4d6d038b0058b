"""The simulation stands on parts of other tests: the pretend disk, and the independent look at the state."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_TESTS = Path(__file__).parents[1]
for _part in ("raft/engine", "state"):
    if str(_TESTS / _part) not in sys.path:
        sys.path.append(str(_TESTS / _part))


@pytest.fixture(autouse=True, scope="module")
def _own_garbage() -> Iterator[None]:
    """What other tests left is finalised before trio is replaced, and what these leave after it is back. The collector
    does not look at the rest of the test run meanwhile."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    gc.collect()
