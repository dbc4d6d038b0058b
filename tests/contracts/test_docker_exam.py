"""The docker driver before the exam that each driver has to pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import driver_exam as exam
import pytest
from driver_exam import *  # noqa: F403 - the tests of the exam and its fixtures

from nomadpy.drivers.contract import Driver, DriverContext, TaskDirs
from nomadpy.drivers.docker import DockerDriver

pytestmark = pytest.mark.docker


class DockerExamBench:
    """Tasks that are shell scripts in a container of busybox."""

    name = "docker"
    can = exam.EVERYTHING
    memory_mb = 64

    def make(self, data_dir: Path) -> Driver:
        return DockerDriver(DriverContext(plugin_config={"gc": [{"image": False}]}, data_dir=str(data_dir)))

    def prepare(self, dirs: TaskDirs) -> None:
        """A container brings what it needs."""

    def run(self, *words: str) -> dict[str, Any]:
        return {"image": "busybox:nomadpy", "command": words[0], "args": list(words[1:])}

    def shell(self, script: str) -> dict[str, Any]:
        return self.run("/bin/sh", "-c", script)

    def forever(self) -> dict[str, Any]:
        # The first process of a container ignores signals that it has no handler for.
        return self.shell("trap 'exit 143' TERM INT; while :; do sleep 0.1; done")

    def exits(self, code: int) -> dict[str, Any]:
        return self.shell(f"exit {code}")

    def runs_for(self, seconds: float, code: int) -> dict[str, Any]:
        return self.shell(f"sleep {seconds}; exit {code}")

    def prints(self, text: str) -> dict[str, Any]:
        return self.run("echo", text)

    def bad(self) -> dict[str, Any]:
        return {"image": "busybox:nomadpy", "comand": "sleep"}

    def complains(self, text: str) -> dict[str, Any]:
        return self.shell(f"echo {text} >&2")

    def prints_env(self, name: str) -> dict[str, Any]:
        return self.shell(f'printf "%s\\n" "${name}"')

    def traps(self, signal: str) -> dict[str, Any]:
        return self.shell(f"trap 'echo caught; exit 7' {signal}; echo ready; while :; do sleep 0.05; done")

    def stubborn(self) -> dict[str, Any]:
        return self.shell("trap '' INT TERM; echo ready; while :; do sleep 0.05; done")

    def hogs(self, megabytes: int) -> dict[str, Any]:
        return self.shell(f"head -c {megabytes}m /dev/zero | tail")

    def floods(self, lines: int) -> dict[str, Any]:
        return self.run("awk", f'BEGIN {{ for (i = 1; i <= {lines}; i++) printf "%-99d\\n", i }}')

    def leaves_child(self, path_in_task: str) -> dict[str, Any]:
        script = f"while :; do echo beat >> {path_in_task}; sleep 0.1; done"
        return self.shell(f"setsid sh -c '{script}' & while [ ! -s {path_in_task} ]; do sleep 0.02; done")

    def path_in_task(self, name: str) -> str:
        return f"/alloc/{name}"

    def impossible(self) -> dict[str, Any]:
        return self.run("does-not-exist")


@pytest.fixture
def bench() -> exam.DriverBench:
    return DockerExamBench()
