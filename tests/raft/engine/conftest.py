"""What the tests of the replicated log share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pysyncobj.syncobj as stock_module
import pytest
from hand import StockCluster
from pysyncobj.journal import FileJournal


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> Iterator[StockCluster]:
    """A cluster of unmodified pysyncobj servers, not started yet, with a clock of its own."""
    cluster = StockCluster()
    monkeypatch.setattr(stock_module, "monotonicTime", lambda: cluster.now)
    yield cluster
    for server in cluster.made:
        server.destroy()


@pytest.fixture
def stock_journal() -> Iterator[Callable[[Path], FileJournal]]:
    """Opens journals of pysyncobj and closes them in the end."""
    opened = []

    def open_journal(path: Path) -> FileJournal:
        opened.append(FileJournal(str(path)))
        return opened[-1]

    yield open_journal
    for journal in opened:
        journal._destroy()


@pytest.fixture(autouse=True)
def _quiet_pysyncobj() -> Iterator[None]:
    """It logs the very faults that these tests provoke."""
    logging.getLogger("pysyncobj").setLevel(logging.CRITICAL + 1)
    yield
    logging.getLogger("pysyncobj").setLevel(logging.NOTSET)
