"""The rows of the schema tables, for tests that go through all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from nomadpy.jobspec.schema.job import JOB
from nomadpy.jobspec.schema.rows import Block


def blocks(block: Block = JOB, path: str = "job") -> Iterator[tuple[str, Block]]:
    """Every block below one, each once for each way to reach it."""
    yield path, block
    for child in block.children.values():
        yield from blocks(child.block, f"{path}.{child.name}")


def unique(kind: type) -> list[Any]:
    found = {}
    for path, block in blocks():
        for row in (*block.attributes.values(), *block.children.values()):
            if isinstance(row, kind):
                found.setdefault((id(block), row.name), pytest.param(block, row, id=f"{path}.{row.name}"))
    return list(found.values())
