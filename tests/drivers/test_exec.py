from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from process_bench import ProcessBench, until

from nomadpy.drivers import exec as exec_driver
from nomadpy.drivers.contract import DriverContext, Mount, TaskLimits
from nomadpy.drivers.exec import ExecDriver
from nomadpy.drivers.executor import procfs
from nomadpy.model.errors import Fatal, NomadError


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[ProcessBench]:
    place = ProcessBench(tmp_path, "exec")
    yield place
    await place.clean()


def zombies() -> set[str]:
    """Ended children of this process that nobody has waited for."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {pid for pid in children if not procfs.alive(int(pid))}


@pytest.fixture(scope="module", autouse=True)
def zombies_before() -> set[str]:
    """Those that tests of other files left behind."""
    return zombies()


async def output(bench: ProcessBench, script: str, config: dict[str, Any] | None = None, **fields: Any) -> str:
    """What a script prints inside."""
    async with bench.running():
        result, text = await bench.run(bench.shell(script, config=config or {}, **fields))
    assert result.successful(), result
    return text


async def test_without_root_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exec_driver.os, "geteuid", lambda: 1000)
    fingerprint = await ExecDriver(DriverContext()).fingerprint()
    assert not fingerprint.detected
    assert "root" in fingerprint.health_description


@pytest.mark.exec
async def test_the_root_holds_the_task_and_the_system_only(bench: ProcessBench) -> None:
    names = set((await output(bench, "ls /")).split())
    assert {"alloc", "local", "secrets", "tmp", "bin", "usr", "etc", "dev", "proc"} <= names
    assert not names & {"root", "home", "work", "var"}


@pytest.mark.exec
async def test_the_system_is_read_only_and_the_task_is_not(bench: ProcessBench) -> None:
    script = "id -un; touch /usr/x /etc/x 2>/dev/null || echo no; touch /local/a /alloc/b /tmp/c && echo yes"
    assert await output(bench, script) == "nobody\nno\nyes\n"


@pytest.mark.exec
async def test_even_root_inside_cannot_write_the_system_or_see_the_agents_files(bench: ProcessBench) -> None:
    script = "touch /usr/x 2>/dev/null || echo no; mount -o remount,rw /usr 2>/dev/null || echo no; ls -A /private"
    assert await output(bench, script, user="root") == "no\nno\n"


@pytest.mark.exec
async def test_other_processes_are_invisible_by_default(bench: ProcessBench) -> None:
    count = "ls /proc | grep -c '^[0-9]'"
    assert int(await output(bench, count)) <= 5
    assert int(await output(bench, count, {"pid_mode": "host"})) > 5


@pytest.mark.exec
async def test_orphans_are_reaped(bench: ProcessBench) -> None:
    script = "(sleep 0.05 &) ; sleep 0.5; grep -l 'State:.Z' /proc/[0-9]*/status 2>/dev/null; echo done"
    assert await output(bench, script) == "done\n"


@pytest.mark.exec
async def test_capabilities_are_few_and_can_be_changed(bench: ProcessBench) -> None:
    show = "grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status | tr -s '\\t\\n' '  '"
    assert await output(bench, show) == "CapEff: 0000000000000400 CapBnd: 00000000a80405fb NoNewPrivs: 1 "
    assert "CapEff: 00000000a80405fb" in await output(bench, show, user="root")
    dropped = await output(bench, show, {"cap_drop": ["all"], "cap_add": ["CHOWN"]})
    assert dropped == "CapEff: 0000000000000001 CapBnd: 0000000000000001 NoNewPrivs: 1 "


@pytest.mark.exec
async def test_capabilities_beyond_the_nodes_are_refused(bench: ProcessBench) -> None:
    async with bench.running() as driver:
        with pytest.raises(Fatal, match="allow_caps: sys_admin"):
            await driver.start_task(bench.shell("true", config={"cap_add": ["sys_admin"]}))
        with pytest.raises(Fatal, match='unknown capability "fly"'):
            await driver.start_task(bench.shell("true", config={"cap_drop": ["fly"]}))


@pytest.mark.exec
async def test_the_memory_limit_is_the_larger_of_the_two(bench: ProcessBench) -> None:
    hog = "head -c 60m /dev/zero | tail | wc -c"
    async with bench.running():
        small = bench.shell(hog, limits=TaskLimits(memory_mb=30))
        await bench.run(small)
        assert bench.log(small) != "62914560\n"
        large = bench.shell(hog, limits=TaskLimits(memory_mb=30, memory_max_mb=200))
        assert (await bench.run(large))[1] == "62914560\n"


@pytest.mark.exec
async def test_mounts_appear_and_may_be_read_only(bench: ProcessBench, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "fact").write_text("42\n")
    mounts = tuple(
        Mount(host_path=str(tmp_path / "volume"), task_path=path, read_only=read_only)
        for path, read_only in (("/data/ro", True), ("/rw", False))
    )
    script = "cat /data/ro/fact; touch /data/ro/x 2>/dev/null || echo no; touch /rw/x && echo yes"
    assert await output(bench, script, user="root", mounts=mounts) == "42\nno\nyes\n"


@pytest.mark.exec
async def test_a_mount_of_nothing_is_named(bench: ProcessBench) -> None:
    async with bench.running() as driver:
        with pytest.raises(Fatal, match="cannot mount /no/such/place"):
            await driver.start_task(bench.shell("true", mounts=(Mount(host_path="/no/such/place", task_path="/x"),)))


@pytest.mark.exec
async def test_the_operator_chooses_what_is_visible(bench: ProcessBench, tmp_path: Path) -> None:
    (tmp_path / "motd").write_text("welcome\n")
    visible = {"/bin": "/bin", "/lib": "/lib", "/lib64": "/lib64", str(tmp_path / "motd"): "/etc/motd"}
    async with bench.running(chroot_env=visible):
        _, text = await bench.run(bench.shell("cat /etc/motd; [ -e /etc/passwd ] || echo no passwd"))
    assert text == "welcome\nno passwd\n"


@pytest.mark.exec
async def test_nothing_stays_mounted_on_the_host(bench: ProcessBench) -> None:
    async with bench.running() as driver:
        handle = await bench.start(bench.task({"command": "sleep", "args": ["1000"]}))
        assert str(bench.root) not in await trio.Path("/proc/self/mounts").read_text()
        await driver.destroy_task(handle.task_id, force=True)
        assert not procfs.alive(int(handle.state["holder_pid"]))


@pytest.mark.exec
async def test_it_works_without_pivot_root(bench: ProcessBench) -> None:
    async with bench.running(plugin_config={"no_pivot_root": True}) as driver:
        task = bench.shell("ls -d /root 2>/dev/null; echo ready; sleep 1000")
        await bench.start(task)
        await until(lambda: bench.log(task) == "ready\n", "it runs in its root")
        async with driver.exec_task(task.id, ["sh", "-c", "ls -d /root || pwd"]) as process:
            assert [chunk async for chunk in process.output() if chunk[0] == "stdout"] == [("stdout", b"/\n")]


@pytest.mark.exec
async def test_a_command_beside_it_is_in_the_same_surroundings(bench: ProcessBench) -> None:
    async with bench.running() as driver:
        handle = await bench.start(bench.task({"command": "sleep", "args": ["1000"]}))
        script = "id -un; ls -d /home /root 2>/dev/null; ls /proc | grep -c '^[0-9]'; grep NoNew /proc/self/status"
        async with driver.exec_task(handle.task_id, ["sh", "-c", script]) as process:
            text = b"".join([data async for _, data in process.output()]).decode().split()
        assert text[0] == "nobody"
        assert int(text[1]) <= 8
        assert text[2:] == ["NoNewPrivs:", "1"]


@pytest.mark.exec
async def test_a_command_beside_it_ends_with_it(bench: ProcessBench) -> None:
    async with bench.running() as driver:
        handle = await bench.start(bench.task({"command": "sleep", "args": ["1000"]}))
        with trio.fail_after(10):
            async with driver.exec_task(handle.task_id, ["sh", "-c", "echo up; exec sleep 1000"]) as process:
                assert await anext(process.output()) == ("stdout", b"up\n")
                await driver.stop_task(handle.task_id, signal="SIGKILL", timeout_s=5)
                assert (await process.wait()).exit_code == 137


@pytest.mark.parametrize("config", [{"pid_mode": "shared"}, {"ipc_mode": "none"}])
def test_unknown_modes_are_named(config: dict[str, str]) -> None:
    problems = ExecDriver(DriverContext()).check_config({"command": "x", **config})
    assert len(problems) == 1
    assert 'must be "private" or "host"' in problems[0]


@pytest.mark.exec
async def test_a_work_dir_is_inside_the_root(bench: ProcessBench) -> None:
    assert await output(bench, "pwd") == "/\n"
    assert await output(bench, "pwd", {"work_dir": "/local"}) == "/local\n"
    async with bench.running() as driver:
        with pytest.raises(NomadError, match="/root"):
            await driver.start_task(bench.shell("pwd", config={"work_dir": "/root"}))


@pytest.mark.exec
def test_this_file_leaves_no_zombies(zombies_before: set[str]) -> None:
    assert zombies() - zombies_before == set()
