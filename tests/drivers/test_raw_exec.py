from __future__ import annotations

import os
import re
import socket
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from process_bench import ProcessBench, until

from nomadpy.drivers import attempt, cgroups
from nomadpy.drivers.contract import DriverContext
from nomadpy.drivers.executor import procfs
from nomadpy.drivers.raw_exec import RawExecDriver
from nomadpy.model.errors import Fatal

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
needs_cgroups = pytest.mark.skipif(os.geteuid() != 0 or not cgroups.version(), reason="needs root and cgroups")


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[ProcessBench]:
    place = ProcessBench(tmp_path, "raw_exec")
    yield place
    await place.clean()


def program(path: Path, mode: int = 0o755, text: str = "#!/bin/sh\necho from $0\n") -> None:
    path.write_text(text)
    path.chmod(mode)


async def refusal(bench: ProcessBench, config: dict[str, Any], **fields: Any) -> str:
    """Why the task is refused for good."""
    async with bench.running() as driver:
        with pytest.raises(Fatal) as caught:
            await driver.start_task(bench.task(config, **fields))
    return str(caught.value)


# --- whether it is on -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "detected"),
    [
        (DriverContext(), False),
        (DriverContext(plugin_config={"enabled": True}), True),
        (DriverContext(dev_mode=True), True),
        (DriverContext(dev_mode=True, plugin_config={"enabled": False}), False),
        (DriverContext(options={"driver.raw_exec.enable": "1"}), True),
    ],
)
async def test_it_is_off_unless_the_operator_wants_it(context: DriverContext, detected: bool) -> None:
    fingerprint = await RawExecDriver(context).fingerprint()
    assert (fingerprint.detected, fingerprint.healthy) == (detected, detected)
    assert fingerprint.attributes == ({"driver.raw_exec": "1"} if detected else {})
    assert detected or "enabled = true" in fingerprint.health_description


def test_a_misspelt_plugin_option_is_named() -> None:
    with pytest.raises(Fatal, match='unknown option "enable"; did you mean "enabled"'):
        RawExecDriver(DriverContext(plugin_config={"enable": True}))


# --- finding the command ----------------------------------------------------------------------------------------------


async def test_the_tasks_own_files_come_before_path(bench: ProcessBench) -> None:
    async with bench.running():
        task = bench.task({"command": "ls"})
        program(Path(task.dirs.local_dir, "ls"), mode=0o644)
        _, output = await bench.run(task)
        assert output == f"from {task.dirs.local_dir}/ls\n", "it was also made executable"


async def test_a_command_may_be_relative_to_the_task_directory(bench: ProcessBench) -> None:
    async with bench.running():
        task = bench.task({"command": "local/bin/tool"})
        await trio.Path(task.dirs.local_dir, "bin").mkdir()
        program(Path(task.dirs.local_dir, "bin", "tool"))
        result, _ = await bench.run(task)
        assert result.successful()


async def test_a_command_that_is_nowhere_is_named_with_the_path(bench: ProcessBench) -> None:
    text = await refusal(bench, {"command": "no-such-thing"}, env={"PATH": "/opt/x:/usr/bin"})
    assert 'command "no-such-thing" not found' in text
    assert "PATH /opt/x:/usr/bin" in text


async def test_a_command_that_is_not_executable_is_named(bench: ProcessBench, tmp_path: Path) -> None:
    program(tmp_path / "tool", mode=0o644)
    assert "is not executable" in await refusal(bench, {"command": str(tmp_path / "tool")})
    assert "is not executable" in await refusal(bench, {"command": "tool"}, env={"PATH": str(tmp_path)})


async def test_a_script_without_an_interpreter_is_explained(bench: ProcessBench, tmp_path: Path) -> None:
    program(tmp_path / "a", text="echo hello\n")
    assert "#!/bin/sh" in await refusal(bench, {"command": str(tmp_path / "a")})
    program(tmp_path / "b", text="#!/no/such/interpreter\n")
    assert "interpreter or loader is missing" in await refusal(bench, {"command": str(tmp_path / "b")})


async def test_a_directory_is_no_command(bench: ProcessBench) -> None:
    assert "is a directory" in await refusal(bench, {"command": "/usr/bin/"})


# --- options ----------------------------------------------------------------------------------------------------------


async def test_the_work_dir_is_the_task_directory_or_what_is_asked(bench: ProcessBench, tmp_path: Path) -> None:
    async with bench.running():
        task = bench.task({"command": "pwd"})
        assert (await bench.run(task))[1] == f"{task.dirs.task_dir}\n"
        asked = bench.task({"command": "pwd", "work_dir": str(tmp_path)})
        assert (await bench.run(asked))[1] == f"{tmp_path}\n"


async def test_a_work_dir_that_cannot_be_is_named(bench: ProcessBench) -> None:
    assert 'work_dir "/no/such": No such file' in await refusal(bench, {"command": "pwd", "work_dir": "/no/such"})
    assert "work_dir must be absolute" in await refusal(bench, {"command": "pwd", "work_dir": "here"})


async def test_denied_variables_are_dropped(bench: ProcessBench) -> None:
    async with bench.running(plugin_config={"denied_envvars": ["AWS_*"]}):
        task = bench.task({"command": "env", "denied_envvars": ["SECRET?"]})
        task = task.replace(env={**task.env, "AWS_KEY": "1", "SECRET1": "2", "SECRETS": "3", "FINE": "4"})
        _, output = await bench.run(task)
    names = {line.partition("=")[0] for line in output.splitlines()}
    assert "FINE" in names
    assert not names & {"AWS_KEY", "SECRET1", "SECRETS"}


async def test_the_environment_holds_nothing_of_the_agents(bench: ProcessBench) -> None:
    async with bench.running():
        _, output = await bench.run(bench.task({"command": "env"}))
    assert {line.partition("=")[0] for line in output.splitlines()} == {"PATH"}


@needs_root
async def test_another_user_is_taken_on_with_its_groups(bench: ProcessBench) -> None:
    async with bench.running():
        _, output = await bench.run(bench.task({"command": "id"}, user="nobody"))
        assert re.match(r"uid=\d+\(nobody\) gid=\d+\(nogroup\) groups=\d+\(nogroup\)\n", output)


async def test_a_user_that_does_not_exist_is_named(bench: ProcessBench) -> None:
    assert 'user "no-such-user" does not exist' in await refusal(bench, {"command": "id"}, user="no-such-user")


async def test_denied_users_are_refused(bench: ProcessBench) -> None:
    async with bench.running(plugin_config={"denied_host_uids": f"{os.getuid()},65500-65600"}) as driver:
        for user in ("", "65534"):
            with pytest.raises(Fatal, match="denied_host_uids"):
                await driver.start_task(bench.task({"command": "id"}, user=user))


async def test_the_kernels_killer_is_told_its_score(bench: ProcessBench) -> None:
    async with bench.running():
        task = bench.task({"command": "cat", "args": ["/proc/self/oom_score_adj"], "oom_score_adj": 321})
        assert (await bench.run(task))[1] == "321\n"


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"oom_score_adj": -1}, 'option "oom_score_adj" must be 0 or more'),
        ({"cgroup_v1_override": {"pids": "x"}, "cgroup_v2_override": "y"}, "only one of"),
    ],
)
def test_options_that_contradict(config: dict[str, Any], text: str) -> None:
    problems = RawExecDriver(DriverContext()).check_config({"command": "x", **config})
    assert len(problems) == 1
    assert text in problems[0]


async def test_a_nul_character_is_refused(bench: ProcessBench) -> None:
    assert "NUL character" in await refusal(bench, {"command": "echo", "args": ["a\0b"]})


# --- cgroups ----------------------------------------------------------------------------------------------------------


@needs_cgroups
async def test_a_task_has_a_cgroup_that_goes_with_it(bench: ProcessBench) -> None:
    async with bench.running() as driver:
        handle = await bench.start(bench.task({"command": "sleep", "args": ["1000"]}))
        directories = list(handle.state["cgroup"].values())
        assert directories
        assert all(procfs.cgroup_pids(path) == [handle.state["pid"]] for path in directories)
        await driver.destroy_task(handle.task_id, force=True)
        assert not any([await trio.Path(path).exists() for path in directories])


@needs_cgroups
async def test_an_override_is_joined_and_not_emptied(bench: ProcessBench) -> None:
    if cgroups.version() != 1:
        pytest.skip("the host has cgroups v2; this is the override of v1")
    name = f"nomadpy-test-{uuid.uuid4()}"
    group = cgroups.ROOT / "pids" / name
    group.mkdir()
    bystander = await trio.lowlevel.open_process(["sleep", "1000"])
    try:
        (group / "cgroup.procs").write_text(str(bystander.pid))
        async with bench.running() as driver:
            task = bench.task({"command": "cat", "args": ["/proc/self/cgroup"], "cgroup_v1_override": {"pids": name}})
            _, output = await bench.run(task)
            await driver.destroy_task(task.id)
        assert f"pids:/{name}\n" in output
        assert bystander.poll() is None
    finally:
        bystander.kill()
        await bystander.wait()
        await until(lambda: not procfs.cgroup_pids(str(group)), "the group is empty")
        group.rmdir()


async def test_without_cgroups_it_works_and_counts_by_proc(
    bench: ProcessBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cgroups, "create", refuse)
    async with bench.running() as driver:
        task = bench.shell("sleep 1000 & sleep 1000 & wait")
        handle = await bench.start(task)
        assert handle.state["cgroup"] == {}
        usage = await driver.task_stats(task.id)
        while len(usage.pids) < 3:
            await trio.sleep(0.01)
            usage = await driver.task_stats(task.id)
        assert usage.resource_usage.memory_stats.rss > 0
        assert usage.resource_usage.memory_stats.measured == ("RSS",)
        await driver.stop_task(task.id, signal="SIGKILL", timeout_s=5)


async def test_busy_tasks_show_in_percent_and_ticks(bench: ProcessBench) -> None:
    async with bench.running() as driver:
        handle = await bench.start(bench.shell("while :; do :; done"))
        await driver.task_stats(handle.task_id)
        await trio.sleep(0.5)  # The interval that is measured.
        cpu = (await driver.task_stats(handle.task_id)).resource_usage.cpu_stats
    assert 5 < cpu.percent < 130
    assert cpu.total_ticks == pytest.approx(cpu.percent / 100 * 4000 / (os.cpu_count() or 1))


async def test_a_task_that_is_over_before_the_agent_adopts_it_ended_by_itself(
    bench: ProcessBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = attempt.receive

    async def received_late(connection: trio.socket.SocketType) -> bytes:
        body = await received(connection)
        # Nothing more to be read, ever: the executor has gone.
        assert await connection.recv(1, socket.MSG_PEEK) == b""
        return body

    async with bench.running() as driver:
        monkeypatch.setattr(attempt, "receive", received_late)
        handle = await driver.start_task(bench.task({"command": "/bin/sh", "args": ["-c", "exit 7"]}))
        with trio.fail_after(20):
            assert (await driver.wait_task(handle.task_id)).exit_code == 7
