"""The examples in the docstrings of the command line hold."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = (
    "commands",
    "http",
    "jobfile",
    "lookup",
    "overview",
    "template",
    "verbs.operator",
    "verbs.top",
    "views.base",
    "views.explain",
    "views.job",
    "views.plan",
    "views.progress",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"nomadpy.cli.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
