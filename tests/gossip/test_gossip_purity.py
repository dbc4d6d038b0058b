"""The machine of gossip reads no clock, no chance and no socket of its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from test_tidy import PACKAGE, impurities

DRIVERS = {
    "driver",
    "talk",
    "sockets",
    "places",
    "orders",
    "keyring",
    "envelope",
    "health",
    "contract",
    "__init__",
    "complaints",
}
MACHINE = sorted(path for path in (PACKAGE / "gossip").glob("*.py") if path.stem not in DRIVERS)
WORLD = {"trio", "socket", "os", "time", "threading", "logging", "pathlib"}


@pytest.mark.parametrize("path", MACHINE, ids=lambda path: str(path.stem))
def test_the_machine_is_pure(path: Path) -> None:
    text = path.read_text()
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(text))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert impurities(text) == set()
    assert imported & WORLD == set()


def test_the_machine_is_what_is_meant() -> None:
    assert {"swim", "claims", "probing", "exchange", "pool"} <= {path.stem for path in MACHINE}
