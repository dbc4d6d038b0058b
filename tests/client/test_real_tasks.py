"""Real processes under a real client: output, statistics, signals, commands beside a task, every installed driver."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from client_world import FakeServers, make_alloc, make_config, make_task

from nomadpy.client.client import Client
from nomadpy.drivers.contract import DriverContext
from nomadpy.drivers.registry import load_drivers
from nomadpy.model.alloc import Allocation
from nomadpy.model.errors import Invalid


@asynccontextmanager
async def real_client(
    tmp_path: Path, names: tuple[str, ...] = ("raw_exec", "mock_driver")
) -> AsyncIterator[tuple[Client, FakeServers]]:
    """A client in development mode with some of the installed drivers; its tasks end with it."""

    def context(name: str) -> DriverContext:
        return DriverContext(data_dir=str(tmp_path / "drivers" / name), dev_mode=True, node_name="node-1")

    drivers = {name: driver for name, driver in load_drivers(context).items() if name in names}
    servers = FakeServers()
    config = make_config(tmp_path, dev_mode=True, host_env={"PATH": os.environ["PATH"], "VAULT_TOKEN": "hidden"})
    client = Client(config, servers, drivers)
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        yield client, servers
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool], servers: FakeServers) -> None:
    with trio.fail_after(20):
        while not condition():
            with trio.move_on_after(0.1):
                await servers.changed.wait()


def shell(script: str, **task: object) -> Allocation:
    config = {"command": "/bin/sh", "args": ["-c", script]}
    return make_alloc(make_task(driver="raw_exec", config=config, **task), job_type="batch", restart_policy=None)


async def read_log(client: Client, alloc: Allocation) -> str:
    async with client.logs(alloc.id, "web", "stdout", offset=0, origin="start", follow=False) as stream:
        return b"".join([chunk.data async for chunk in stream]).decode()


async def until_printed(client: Client, alloc: Allocation, text: bytes) -> None:
    seen = b""
    with trio.fail_after(10):
        async with client.logs(alloc.id, "web", "stdout", offset=0, origin="start", follow=True) as stream:
            while text not in seen:
                seen += (await anext(stream)).data


async def test_a_process_sees_its_environment_and_its_output_is_kept(tmp_path: Path) -> None:
    async with real_client(tmp_path) as (client, servers):
        alloc = shell("echo $NOMAD_TASK_NAME ${attr.kernel.name} [$VAULT_TOKEN]; pwd; cat $NOMAD_TASK_DIR/../x; exit 3")
        servers.put(alloc)
        await until(lambda: servers.status(alloc.id) == "failed", servers)
        assert (await read_log(client, alloc)).splitlines()[:2] == [
            "web linux []",
            str(tmp_path / "alloc" / alloc.id / "web"),
        ]
        events = servers.latest[alloc.id].task_states["web"].events
        assert "Exit Code: 3" in [e.display_message for e in events]


async def test_signals_statistics_and_commands_beside_a_task(tmp_path: Path) -> None:
    async with real_client(tmp_path) as (client, servers):
        alloc = shell("trap 'echo got it; exit 0' HUP; echo ready; while :; do sleep 0.05; done")
        servers.put(alloc)
        await until(lambda: servers.status(alloc.id) == "running", servers)
        await until_printed(client, alloc, b"ready")
        usage = await client.alloc_stats(alloc.id)
        assert usage.tasks["web"].resource_usage.memory_stats.rss > 0
        async with client.exec(
            alloc.id, "web", ["/bin/sh", "-c", "echo $NOMAD_TASK_NAME; exit 5"], tty=False
        ) as process:
            output = b"".join([data async for _, data in process.output()])
            assert (output, await process.wait()) == (b"web\n", 5)
        with pytest.raises(Invalid, match="invalid signal"):
            await client.alloc_signal(alloc.id, "web", "SIGNONSENSE")
        await client.alloc_signal(alloc.id, "web", "SIGHUP")
        await until(lambda: servers.status(alloc.id) == "complete", servers)
        assert "got it" in await read_log(client, alloc)


async def test_a_process_that_ignores_its_signal_is_killed_after_the_timeout(tmp_path: Path) -> None:
    async with real_client(tmp_path) as (_, servers):
        alloc = shell("trap '' INT TERM; echo; while :; do sleep 0.05; done", kill_timeout_ns=200_000_000)
        servers.put(alloc)
        await until(lambda: servers.status(alloc.id) == "running", servers)
        servers.stop(alloc.id)
        await until(lambda: servers.status(alloc.id) == "complete", servers)
        events = servers.latest[alloc.id].task_states["web"].events
        assert [e.type for e in events[-3:]] == ["Killing", "Terminated", "Killed"]
        assert events[-2].signal == 9


async def test_the_mock_driver_runs_as_its_options_say(tmp_path: Path) -> None:
    async with real_client(tmp_path) as (client, servers):
        assert "mock_driver" in client.node.drivers
        config = {"run_for": "200ms", "exit_code": 4, "stdout_string": "${NOMAD_JOB_ID}"}
        alloc = make_alloc(make_task(driver="mock_driver", config=config), job_type="batch", restart_policy=None)
        servers.put(alloc)
        await until(lambda: servers.status(alloc.id) == "failed", servers)
        assert await read_log(client, alloc) == "example"


async def test_a_task_of_an_absent_driver_fails_with_the_names_of_those_present(tmp_path: Path) -> None:
    async with real_client(tmp_path) as (_, servers):
        alloc = make_alloc(make_task(driver="qemu"), restart_policy=None)
        servers.put(alloc)
        await until(lambda: servers.status(alloc.id) == "failed", servers)
        shown = [e.display_message for e in servers.latest[alloc.id].task_states["web"].events]
        assert any('driver "qemu" is not available on this client; it has mock_driver, raw_exec' in s for s in shown)


@pytest.mark.parametrize(
    ("driver", "image", "user"),
    [
        pytest.param("docker", {"image": "busybox:nomadpy"}, "root", marks=pytest.mark.docker),
        pytest.param("exec", {}, "nobody", marks=pytest.mark.exec),
    ],
)
async def test_isolated_tasks_can_write_where_their_environment_says(
    tmp_path: Path, driver: str, image: dict[str, str], user: str
) -> None:
    script = "id -un; touch $NOMAD_TASK_DIR/a $NOMAD_SECRETS_DIR/b $NOMAD_ALLOC_DIR/data/c && echo written"
    config = {**image, "command": "/bin/sh", "args": ["-c", script]}
    async with real_client(tmp_path, (driver,)) as (client, servers):
        alloc = make_alloc(make_task(driver=driver, config=config), job_type="batch", restart_policy=None)
        servers.put(alloc)
        await until(lambda: servers.status(alloc.id) in ("complete", "failed"), servers)
        assert await read_log(client, alloc) == f"{user}\nwritten\n"
        assert (tmp_path / "alloc" / alloc.id / "alloc" / "data" / "c").exists()
