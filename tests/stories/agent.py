"""A real agent in a process of its own for tests, and what tests ask of it.

Ports are chosen by the system and read from the agent's banner. Everything that waits has a deadline.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

T = TypeVar("T")

READY_S = 30.0
NOMADPY = Path(sys.executable).with_name("nomadpy")
_ADDRESS = re.compile(r"Web API: (https?://[^/\s]+)/")
# What must never stand in an agent's log, whatever it was asked.
FAULTS = ("Traceback", "http.app_failed", "http.connection_failed", "driver.stopped", "never retrieved")


def until(look: Callable[[], T | None], what: str, *, timeout_s: float = 15.0) -> T:
    """What ``look`` returns as soon as it is true. An AssertionError inside counts as "not yet"."""
    deadline = time.monotonic() + timeout_s
    why = ""
    while time.monotonic() < deadline:
        try:
            found = look()
        except AssertionError as error:
            found, why = None, f": {error}"
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {timeout_s} s{why}")


class Agent:
    """One ``nomadpy agent`` process. ``directory`` holds its log, its data and its configuration."""

    def __init__(self, directory: Path, *flags: str, config: str = "", suffix: str = ".hcl", env: Any = None) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.flags = ["-http-port", "0", *flags]
        if config:
            self.config_file = directory / f"agent{suffix}"
            self.config_file.write_text(config)
            self.flags += ["-config", str(self.config_file)]
        self.env = {**os.environ, **(env or {})}
        self.log_file = directory / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.address = ""
        self.http = httpx.Client()
        self._n_starts = 0

    # --- life ------------------------------------------------------------------------------------------------------

    def spawn(self) -> subprocess.Popen[bytes]:
        """Starts the process and does not wait for it."""
        self._n_starts += 1
        self.banner_file = self.directory / f"banner.{self._n_starts}"
        command = [str(NOMADPY), "agent", *self.flags]
        with open(self.log_file, "ab") as log, open(self.banner_file, "wb") as banner:
            self.process = subprocess.Popen(command, stdout=banner, stderr=log, env=self.env, start_new_session=True)
        return self.process

    def start(self) -> Agent:
        """Starts the process and waits until its API answers and its node is ready."""
        process = self.spawn()

        def banner() -> str:
            if process.poll() is not None:
                raise RuntimeError(f"the agent ended with {process.returncode}:\n{self.log()}")
            found = _ADDRESS.search(self.banner_file.read_text())
            return found[1] if found else ""

        self.address = until(banner, "the banner", timeout_s=READY_S)
        self.http.close()
        self.http = httpx.Client(base_url=self.address, timeout=30, verify=False)
        until(self._ready, "an agent that is ready", timeout_s=READY_S)
        return self

    def _ready(self) -> bool:
        try:
            nodes = self.http.get("/v1/nodes").json()
        except httpx.TransportError:
            return False
        return any(node["Status"] == "ready" for node in nodes)

    def end(self, number: int = signal.SIGTERM, *, timeout_s: float = 30.0) -> int:
        """Sends a signal and waits for the end; gives the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def restart(self, number: int = signal.SIGKILL) -> Agent:
        """Ends the process with a signal and starts it again on the same data."""
        self.end(number)
        return self.start()

    def close(self) -> None:
        """Whatever happened, the process is gone afterwards."""
        self.http.close()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)
        self._unmount()

    def clear(self) -> None:
        """Ends everything that a durable agent would leave running."""
        if self.process is None or self.process.poll() is not None:
            return
        for stub in self.get("/v1/jobs", namespace="*"):
            name = quote(stub["ID"], safe="")
            self.http.delete(f"/v1/job/{name}", params={"namespace": stub["Namespace"], "purge": "true"})

        def over() -> bool:
            stubs = self.get("/v1/allocations", namespace="*", task_states="false")
            return all(stub["ClientStatus"] in ("complete", "failed", "lost") for stub in stubs)

        until(over, "the end of all allocations")

    def _unmount(self) -> None:
        """Takes away what allocations had mounted, so that the directory can be removed."""
        points = [line.split(" ")[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for point in sorted(points, reverse=True):
            if point.startswith(f"{self.directory}/"):
                subprocess.run(["umount", "-l", point], check=False, capture_output=True)

    def log(self) -> str:
        """Everything that the agent wrote to standard error."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def faults(self, after: int = 0) -> list[str]:
        """Lines of the log, from a byte on, that no request may cause."""
        return [line for line in self.log()[after:].splitlines() if any(fault in line for fault in FAULTS)]

    # --- asking ----------------------------------------------------------------------------------------------------

    def get(self, path: str, /, status: int = 200, **params: Any) -> Any:
        """The JSON of a read that answers with the status; other kinds of answers are given as text."""
        return self._value(self.http.get(path, params=params), status)

    def put(self, path: str, /, body: Any = None, status: int = 200, **params: Any) -> Any:
        """The JSON of a write."""
        return self._value(self.http.put(path, json=body if body is not None else {}, params=params), status)

    def delete(self, path: str, /, status: int = 200, **params: Any) -> Any:
        """The JSON of a removal."""
        return self._value(self.http.delete(path, params=params), status)

    @staticmethod
    def _value(answer: httpx.Response, status: int) -> Any:
        assert answer.status_code == status, f"{answer.status_code}: {answer.text[:500]}"
        is_json = answer.headers.get("content-type") == "application/json"
        return answer.json() if is_json else answer.text

    # --- jobs ------------------------------------------------------------------------------------------------------

    def run(self, spec: dict[str, Any], **more: Any) -> Any:
        """Registers a job."""
        return self.put("/v1/jobs", {"Job": spec, **more})

    def allocs(self, job_id: str, **params: Any) -> list[dict[str, Any]]:
        """The stubs of a job's allocations, oldest first."""
        found = self.get(f"/v1/job/{job_id}/allocations", **params)
        return sorted(found, key=lambda stub: (stub["CreateIndex"], stub["Name"], stub["ID"]))

    def wait_allocs(self, job_id: str, count: int = 1, status: str = "running", **more: Any) -> list[dict[str, Any]]:
        """The job's allocations once exactly ``count`` of them have the status."""

        def look() -> list[dict[str, Any]]:
            stubs = self.allocs(job_id)
            found = [stub for stub in stubs if stub["ClientStatus"] == status]
            assert len(found) == count, [(s["Name"], s["ClientStatus"], s["DesiredStatus"]) for s in stubs]
            return found or [{}]

        return until(look, f"{count} {status} allocations of {job_id}", **more)

    def logs(self, alloc_id: str, task: str = "main", kind: str = "stdout") -> str:
        """What a task has printed."""
        text = self.get(f"/v1/client/fs/logs/{alloc_id}", task=task, type=kind, plain="true")
        assert isinstance(text, str)
        return text


@contextmanager
def running(directory: Path, *flags: str, **options: Any) -> Iterator[Agent]:
    """An agent that is ready, and gone afterwards."""
    agent = Agent(directory, *flags, **options)
    try:
        yield agent.start()
    finally:
        agent.close()


def durable_config(directory: Path, more: str = "") -> str:
    """A server and a client on the loopback that remember everything under the directory."""
    return f'''
        data_dir = "{directory / "data"}"
        bind_addr = "127.0.0.1"
        log_level = "DEBUG"
        ports {{
          rpc = 0
          serf = 0
        }}
        server {{
          enabled = true
          bootstrap_expect = 1
        }}
        client {{
          enabled = true
          options = {{ "driver.raw_exec.enable" = "true" }}
        }}
        plugin "raw_exec" {{
          config {{ enabled = true }}
        }}
        {more}
    '''


@contextmanager
def durable(directory: Path, more: str = "") -> Iterator[Agent]:
    """A durable agent that is ready, and gone afterwards."""
    with running(directory, config=durable_config(directory, more)) as agent:
        try:
            yield agent
        finally:
            agent.clear()


def task(driver: str = "mock_driver", **changes: Any) -> dict[str, Any]:
    """A task that runs for ever unless told otherwise."""
    config = {"run_for": "1h"} if driver == "mock_driver" else {"command": "/bin/sleep", "args": ["3600"]}
    made = {"Name": "main", "Driver": driver, "Config": config, "Resources": {"CPU": 20, "MemoryMB": 16}}
    return {**made, "KillTimeout": 1_000_000_000, "LogConfig": {"MaxFiles": 1, "MaxFileSizeMB": 2}, **changes}


def shell(script: str, **changes: Any) -> dict[str, Any]:
    """A task that runs a shell script."""
    return task("raw_exec", Config={"command": "/bin/sh", "args": ["-c", script]}, **changes)


def group(*tasks: dict[str, Any], count: int = 1, **changes: Any) -> dict[str, Any]:
    """A group that is not restarted or rescheduled, so that a test sees what happened first."""
    policies = {
        "RestartPolicy": {"Attempts": 0, "Mode": "fail"},
        "ReschedulePolicy": {"Attempts": 0, "Unlimited": False},
        "EphemeralDisk": {"SizeMB": 10},
    }
    return {"Name": "g", "Count": count, "Tasks": list(tasks) or [task()], **policies, **changes}


def job(job_id: str, *tasks: dict[str, Any], type: str = "service", count: int = 1, **changes: Any) -> dict[str, Any]:
    """A job of one group."""
    groups = changes.pop("TaskGroups", None) or [group(*tasks, count=count, **changes.pop("Group", {}))]
    if type in ("system", "sysbatch"):
        for one in groups:
            one.pop("ReschedulePolicy", None)
    return {"ID": job_id, "Name": job_id, "Type": type, "Datacenters": ["dc1"], "TaskGroups": groups, **changes}
