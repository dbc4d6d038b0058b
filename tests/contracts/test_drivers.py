"""The drivers of this package before the exam that each has to pass."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import driver_exam as exam
import pytest
from driver_exam import *  # noqa: F403 - the tests of the exam and its fixtures

from nomadpy.drivers.contract import Driver, DriverContext, TaskDirs
from nomadpy.drivers.exec import ExecDriver
from nomadpy.drivers.java import JavaDriver
from nomadpy.drivers.mock import MockDriver
from nomadpy.drivers.raw_exec import RawExecDriver


class MockBench:
    """Tasks that exist in memory."""

    name = "mock_driver"
    can: frozenset[str] = frozenset()
    memory_mb = 64

    def make(self, data_dir: Path) -> Driver:
        return MockDriver(DriverContext(data_dir=str(data_dir)))

    def prepare(self, dirs: TaskDirs) -> None:
        """Nothing is needed."""

    def forever(self) -> dict[str, Any]:
        return {"run_for": "1h"}

    def exits(self, code: int) -> dict[str, Any]:
        return {"exit_code": code}

    def runs_for(self, seconds: float, code: int) -> dict[str, Any]:
        return {"run_for": f"{seconds}s", "exit_code": code}

    def prints(self, text: str) -> dict[str, Any]:
        return {"stdout_string": f"{text}\n"}

    def bad(self) -> dict[str, Any]:
        return {"run_four": "1s"}


class ShellBench(MockBench):
    """Tasks that are scripts of a POSIX shell."""

    can = exam.EVERYTHING

    def shell(self, script: str) -> dict[str, Any]:
        """The config that runs ``script``."""
        return {"command": "/bin/sh", "args": ["-c", script]}

    def forever(self) -> dict[str, Any]:
        return {"command": "sleep", "args": ["1000"]}

    def exits(self, code: int) -> dict[str, Any]:
        return self.shell(f"exit {code}")

    def runs_for(self, seconds: float, code: int) -> dict[str, Any]:
        return self.shell(f"sleep {seconds}; exit {code}")

    def prints(self, text: str) -> dict[str, Any]:
        return {"command": "echo", "args": [text]}

    def bad(self) -> dict[str, Any]:
        return {"comand": "sleep"}

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
        return {"command": "awk", "args": [f'BEGIN {{ for (i = 1; i <= {lines}; i++) printf "%-99d\\n", i }}']}

    def leaves_child(self, path_in_task: str) -> dict[str, Any]:
        script = f"while :; do echo beat >> {path_in_task}; sleep 0.1; done"
        return self.shell(f"setsid sh -c '{script}' & while [ ! -s {path_in_task} ]; do sleep 0.02; done")

    def path_in_task(self, name: str) -> str:
        return f"/alloc/{name}"

    def impossible(self) -> dict[str, Any]:
        return {"command": "does-not-exist"}


class RawExecBench(ShellBench):
    name = "raw_exec"
    # It has no limits; and without cgroups, which take root, a child may escape.
    can = exam.EVERYTHING - {exam.HOG} - (set() if os.geteuid() == 0 else {exam.CHILD})

    def make(self, data_dir: Path) -> Driver:
        return RawExecDriver(DriverContext(plugin_config={"enabled": True}, data_dir=str(data_dir)))

    def path_in_task(self, name: str) -> str:
        return f"../alloc/{name}"


class ExecBench(ShellBench):
    name = "exec"

    def make(self, data_dir: Path) -> Driver:
        return ExecDriver(DriverContext(data_dir=str(data_dir)))


class JavaBench(MockBench):
    """Tasks that are one small class, compiled once."""

    name = "java"
    can = exam.EVERYTHING
    memory_mb = 128

    def make(self, data_dir: Path) -> Driver:
        return JavaDriver(DriverContext(data_dir=str(data_dir)))

    def prepare(self, dirs: TaskDirs) -> None:
        shutil.copy(compiled_exam(), dirs.local_dir)

    def mode(self, mode: str, *args: object) -> dict[str, Any]:
        """The config that runs one mode of Exam.java."""
        return {
            "class": "Exam",
            "class_path": "local",
            "args": [mode, *(str(arg) for arg in args)],
            "jvm_options": ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx600m", "-Dsun.jnu.encoding=UTF-8"],
        }

    def forever(self) -> dict[str, Any]:
        return self.mode("forever")

    def exits(self, code: int) -> dict[str, Any]:
        return self.mode("exit", 0, code)

    def runs_for(self, seconds: float, code: int) -> dict[str, Any]:
        return self.mode("exit", seconds, code)

    def prints(self, text: str) -> dict[str, Any]:
        return self.mode("print", text)

    def bad(self) -> dict[str, Any]:
        return {"jar_pth": "a.jar"}

    def complains(self, text: str) -> dict[str, Any]:
        return self.mode("complain", text)

    def prints_env(self, name: str) -> dict[str, Any]:
        return self.mode("env", name)

    def traps(self, signal: str) -> dict[str, Any]:
        return self.mode("trap", signal)

    def stubborn(self) -> dict[str, Any]:
        return self.mode("stubborn")

    def hogs(self, megabytes: int) -> dict[str, Any]:
        return self.mode("hog", megabytes)

    def floods(self, lines: int) -> dict[str, Any]:
        return self.mode("flood", lines)

    def leaves_child(self, path_in_task: str) -> dict[str, Any]:
        return self.mode("child", path_in_task)

    def path_in_task(self, name: str) -> str:
        return f"/alloc/{name}"

    def impossible(self) -> dict[str, Any]:
        return {"jar_path": "local/does-not-exist.jar"}


@functools.cache
def compiled_exam() -> Path:
    """The class file of Exam.java, made once."""
    directory = tempfile.mkdtemp(prefix="nomadpy-exam-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    source = Path(__file__).with_name("Exam.java")
    subprocess.run(["javac", "-nowarn", "-d", directory, str(source)], check=True, capture_output=True, timeout=120)
    return Path(directory, "Exam.class")


@pytest.fixture(
    params=[
        MockBench(),
        RawExecBench(),
        pytest.param(ExecBench(), marks=pytest.mark.exec),
        pytest.param(JavaBench(), marks=[pytest.mark.java, pytest.mark.exec]),
    ],
    ids=lambda bench: bench.name,
)
def bench(request: pytest.FixtureRequest) -> exam.DriverBench:
    chosen: exam.DriverBench = request.param
    return chosen
