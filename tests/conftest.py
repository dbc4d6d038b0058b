"""What a test needs from the machine (marks docker, java, exec): skipped with the reason where it is missing.

``NOMADPY_TEST_REQUIRE`` names marks, separated by commas, or ``all``: a test so marked then fails instead of being
skipped, whoever skips it. Continuous integration sets ``all``, so that a silent gap cannot look like success.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Generator

import pytest


@functools.cache
def missing_docker() -> str | None:
    """Why no Docker test can run here, or None."""
    if shutil.which("docker") is None:
        return "no docker command"
    asked = subprocess.run(
        ["docker", "image", "inspect", "busybox:nomadpy"], capture_output=True, text=True, timeout=30, check=False
    )
    return None if asked.returncode == 0 else f"{asked.stderr.strip()} (scripts/setup-test-machine helps)"


@functools.cache
def missing_java() -> str | None:
    """Why no Java test can run here, or None."""
    return None if shutil.which("java") else "no java command (scripts/setup-test-machine helps)"


@functools.cache
def missing_exec() -> str | None:
    """Why no test of the exec driver can run here, or None."""
    if os.geteuid() != 0:
        return "not root"
    return None if os.path.isdir("/sys/fs/cgroup") else "no cgroups under /sys/fs/cgroup"


NEEDS: dict[str, Callable[[], str | None]] = {"docker": missing_docker, "java": missing_java, "exec": missing_exec}


def required(item: pytest.Item) -> bool:
    """Whether this test must not be skipped."""
    names = set(os.environ.get("NOMADPY_TEST_REQUIRE", "").split(","))
    marks = {mark.name for mark in item.iter_markers()}.intersection(NEEDS)
    return bool(marks) and ("all" in names or bool(marks.intersection(names)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name, missing in NEEDS.items():
        if item.get_closest_marker(name) and (reason := missing()):
            pytest.skip(f"{name}: {reason}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and required(item):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"may not be skipped here (NOMADPY_TEST_REQUIRE): {reason}"
    return report
