"""An agent is killed while its tasks run: they go on, the next agent finds them, and knows of what ended meanwhile."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from agent import Agent, durable, job, shell, task, until


def events(agent: Agent, stub: dict[str, Any]) -> list[str]:
    found = agent.get(f"/v1/allocation/{stub['ID']}")["TaskStates"]["main"]["Events"]
    return [event["Type"] for event in found]


def started_at(agent: Agent, stub: dict[str, Any]) -> Any:
    return agent.get(f"/v1/allocation/{stub['ID']}")["TaskStates"]["main"]["StartedAt"]


def counting(path: Path) -> str:
    """A script that leaves a line for each start of itself, and ends when told."""
    return f"echo start >> {path}/starts; while [ ! -e {path}/end ]; do sleep 0.1; done; exit $(cat {path}/end)"


def test_what_runs_goes_on(tmp_path: Path) -> None:
    with durable(tmp_path) as agent:
        agent.run(job("x", shell(counting(tmp_path))))
        (before,) = agent.wait_allocs("x")
        since = started_at(agent, before)
        agent.restart()
        (after,) = agent.wait_allocs("x")
        assert after["ID"] == before["ID"]
        assert started_at(agent, after) == since
        assert (tmp_path / "starts").read_text() == "start\n"
        assert events(agent, after).count("Started") == 1
        agent.delete("/v1/job/x")
        agent.wait_allocs("x", 1, "complete")
        assert not agent.faults()


@pytest.mark.parametrize(("code", "status"), [("0", "complete"), ("7", "failed")])
def test_what_ended_meanwhile_is_known(tmp_path: Path, code: str, status: str) -> None:
    with durable(tmp_path) as agent:
        agent.run(job("x", shell(counting(tmp_path)), type="batch"))
        agent.wait_allocs("x")
        agent.end(signal.SIGKILL)
        (tmp_path / "end").write_text(code)
        agent.start()
        (stub,) = agent.wait_allocs("x", 1, status)
        last = agent.get(f"/v1/allocation/{stub['ID']}")["TaskStates"]["main"]["Events"]
        ended = next(event for event in last if event["Type"] == "Terminated")
        assert ended["ExitCode"] == int(code)
        assert (tmp_path / "starts").read_text() == "start\n"
        until(lambda: agent.get("/v1/job/x")["Status"] == "dead", "the end of the job")
        assert not agent.faults()


def test_everything_that_was_answered_is_remembered(tmp_path: Path) -> None:
    with durable(tmp_path) as agent:
        agent.put("/v1/namespace", {"Name": "team"})
        agent.run(job("kept", task("raw_exec"), Meta={"a": "b"}))
        agent.run(job("kept", task("raw_exec"), Meta={"a": "c"}))
        agent.wait_allocs("kept")
        node = agent.get("/v1/nodes")[0]["ID"]
        before = agent.get("/v1/job/kept/versions")["Versions"]
        index = int(agent.http.get("/v1/jobs").headers["X-Nomad-Index"])
        agent.restart()
        assert agent.get("/v1/job/kept/versions")["Versions"] == before
        assert agent.get("/v1/namespace/team")["Name"] == "team"
        assert agent.get("/v1/nodes")[0]["ID"] == node
        assert int(agent.http.get("/v1/jobs").headers["X-Nomad-Index"]) >= index
        agent.delete("/v1/job/kept")
        agent.wait_allocs("kept", 1, "complete")


def test_many_kills_in_a_row(tmp_path: Path) -> None:
    with durable(tmp_path) as agent:
        agent.run(job("x", shell(counting(tmp_path)), count=3))
        before = {stub["ID"] for stub in agent.wait_allocs("x", 3)}
        for _ in range(3):
            agent.restart()
        assert {stub["ID"] for stub in agent.wait_allocs("x", 3)} == before
        assert (tmp_path / "starts").read_text() == "start\n" * 3
        agent.delete("/v1/job/x")
        agent.wait_allocs("x", 3, "complete")


def test_a_job_that_was_stopped_right_before_is_stopped(tmp_path: Path) -> None:
    with durable(tmp_path) as agent:
        agent.run(job("x", shell(counting(tmp_path))))
        agent.wait_allocs("x")
        agent.delete("/v1/job/x")
        agent.restart()
        agent.wait_allocs("x", 1, "complete")
        assert agent.get("/v1/job/x")["Status"] == "dead"


OTHERS = [
    pytest.param(
        "docker", {"image": "busybox:nomadpy", "command": "sleep", "args": ["1000"]}, marks=pytest.mark.docker
    ),
    pytest.param("exec", {"command": "/bin/sleep", "args": ["1000"]}, marks=pytest.mark.exec),
]


@pytest.mark.parametrize(("driver", "config"), OTHERS)
def test_other_drivers_go_on_too(tmp_path: Path, driver: str, config: Any) -> None:
    with durable(tmp_path) as agent:
        agent.run(job("x", task(driver, Config=config, Resources={"CPU": 50, "MemoryMB": 64})))
        (before,) = agent.wait_allocs("x", timeout_s=40)
        since = started_at(agent, before)
        agent.restart()
        (after,) = agent.wait_allocs("x", timeout_s=40)
        assert (after["ID"], started_at(agent, after)) == (before["ID"], since)
        assert events(agent, after).count("Started") == 1
        agent.delete("/v1/job/x")
        agent.wait_allocs("x", 1, "complete", timeout_s=40)


@pytest.mark.java
def test_a_java_program_goes_on_too(tmp_path: Path) -> None:
    import shutil
    import subprocess

    if shutil.which("javac") is None or shutil.which("jar") is None:
        pytest.skip("no javac or jar to build a program with")
    source = tmp_path / "Main.java"
    source.write_text(
        "public class Main { public static void main(String[] a) throws Exception"
        ' { System.out.println("up"); Thread.sleep(1000000); } }'
    )
    subprocess.run(["javac", "-d", str(tmp_path), str(source)], check=True, capture_output=True)
    jar = tmp_path / "main.jar"
    subprocess.run(["jar", "cfe", str(jar), "Main", "-C", str(tmp_path), "Main.class"], check=True, capture_output=True)
    before_it = shell(f"cp {jar} $NOMAD_ALLOC_DIR/data/", Name="copy", Lifecycle={"Hook": "prestart"})
    config = {"class": "Main", "class_path": "${NOMAD_ALLOC_DIR}/data/main.jar"}
    program = task("java", Config=config, Resources={"CPU": 50, "MemoryMB": 256})
    with durable(tmp_path) as agent:
        agent.run(job("x", before_it, program))
        (before,) = agent.wait_allocs("x", timeout_s=40)
        until(lambda: agent.logs(before["ID"]) == "up\n", "the program", timeout_s=30)
        since = started_at(agent, before)
        agent.restart()
        (after,) = agent.wait_allocs("x", timeout_s=40)
        assert started_at(agent, after) == since
        agent.delete("/v1/job/x")
        agent.wait_allocs("x", 1, "complete", timeout_s=40)
