"""An agent that is killed with its tasks running: nothing is restarted, and every exit code becomes known."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
from client_world import make_alloc, make_task

from nomadpy.model.alloc import Allocation, AllocUpdate

AGENT = Path(__file__).with_name("lonely_agent.py")


class Agent:
    """The process, and what it told its servers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        (self.directory / "up").unlink(missing_ok=True)
        with open(self.directory / "agent.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(AGENT), str(self.directory)], stdout=log, stderr=log, cwd=AGENT.parent
            )
        self.until((self.directory / "up").exists)

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def latest(self, alloc: Allocation) -> AllocUpdate | None:
        path = self.directory / "reports.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
        reports = [msgspec.msgpack.decode(bytes.fromhex(line.decode()), type=AllocUpdate) for line in lines]
        return next((r for r in reversed(reports) if r.id == alloc.id), None)

    def status(self, alloc: Allocation) -> str:
        report = self.latest(alloc)
        return report.client_status if report else ""

    def until(self, condition: Callable[[], object], timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail("it did not happen in time:\n" + (self.directory / "agent.log").read_text()[-4000:])
            time.sleep(0.05)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    one = Agent(tmp_path)
    yield one
    if one.process is not None and one.process.poll() is None:
        one.process.terminate()
        one.process.wait()
    for process in psutil.process_iter(["cmdline", "environ"]):
        # Executors and tasks outlive their agent by design; the ones name the directory, the others inherit it.
        words = [*(process.info["cmdline"] or []), *(process.info["environ"] or {}).values()]
        if any(str(tmp_path) in word for word in words):
            process.kill()


def sh(script: str) -> dict[str, object]:
    return {"command": "/bin/sh", "args": ["-c", script]}


def test_tasks_survive_a_killed_agent_and_their_exits_are_known(agent: Agent) -> None:
    directory = agent.directory
    wait = f"until [ -e {directory}/go ]; do sleep 0.05; done"
    script = f"echo $$ >> {directory}/$NOMAD_SHORT_ALLOC_ID.pids; echo hello; {wait}"
    allocs = [
        make_alloc(
            make_task(driver="raw_exec", config=sh(f"{script}; exit {code}")), job_type="batch", restart_policy=None
        )
        for code in (0, 7, 0)
    ]
    stays = make_alloc(make_task(driver="raw_exec", config=sh(f"echo $$ >> {directory}/stays.pids; sleep 1000")))
    (directory / "allocs.msgpack").write_bytes(msgspec.msgpack.encode([*allocs, stays]))
    agent.start()
    agent.until(lambda: all(agent.status(a) == "running" for a in [*allocs, stays]))
    agent.kill()
    (directory / "go").touch()
    pids = [int((directory / f"{a.id[:8]}.pids").read_text()) for a in allocs]
    agent.until(lambda: not any(psutil.pid_exists(pid) for pid in pids))
    agent.start()
    agent.until(lambda: [agent.status(a) for a in allocs] == ["complete", "failed", "complete"])
    last = agent.latest(allocs[1])
    assert last is not None
    terminated = next(e for e in last.task_states["web"].events if e.type == "Terminated")
    assert terminated.exit_code == 7
    for alloc in allocs:
        assert len((directory / f"{alloc.id[:8]}.pids").read_text().split()) == 1, "no task was started twice"
        log = directory / "alloc" / alloc.id / "alloc" / "logs" / "web.stdout.0"
        assert log.read_text() == "hello\n"
    (pid,) = (directory / "stays.pids").read_text().split()
    assert psutil.pid_exists(int(pid)), "a healthy task is left alone"
    os.kill(int(pid), signal.SIGKILL)


def test_an_idle_client_costs_next_to_nothing(agent: Agent) -> None:
    allocs = [make_alloc(make_task(driver="raw_exec", config=sh("sleep 1000"))) for _ in range(3)]
    (agent.directory / "allocs.msgpack").write_bytes(msgspec.msgpack.encode(allocs))
    agent.start()
    agent.until(lambda: all(agent.status(a) == "running" for a in allocs))
    assert agent.process is not None
    process = psutil.Process(agent.process.pid)
    before, began = process.cpu_times(), time.monotonic()
    time.sleep(5)  # the measurement itself: what is spent in these seconds
    after, seconds = process.cpu_times(), time.monotonic() - began
    spent = after.user + after.system - before.user - before.system
    assert spent / seconds < 0.005
