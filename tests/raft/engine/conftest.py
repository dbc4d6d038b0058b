"""What the tests of the replicated log share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pysyncobj.syncobj as stock_module
import pytest
from hand import StockCluster


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> StockCluster:
    """A cluster of unmodified pysyncobj servers, not started yet, with a clock of its own."""
    cluster = StockCluster()
    monkeypatch.setattr(stock_module, "monotonicTime", lambda: cluster.now)
    return cluster


@pytest.fixture(autouse=True)
def _quiet_pysyncobj() -> Iterator[None]:
    """It logs the very faults that these tests provoke."""
    logging.getLogger("pysyncobj").setLevel(logging.CRITICAL + 1)
    yield
    logging.getLogger("pysyncobj").setLevel(logging.NOTSET)
