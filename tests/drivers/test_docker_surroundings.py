"""What a container can reach: ports, volumes, commands run beside it, limits, and what the operator forbids."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import trio
from docker_bench import DockerBench, eventually, read_file

from nomadpy.drivers.contract import ExecProcess, Mount
from nomadpy.drivers.docker import DockerDriver
from nomadpy.model.errors import Fatal, NotFound
from nomadpy.model.resources import AllocatedPort

pytestmark = pytest.mark.docker


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[DockerBench]:
    bench = DockerBench(tmp_path)
    yield bench
    await bench.remove_all()


@pytest.fixture
async def driver(bench: DockerBench) -> AsyncIterator[DockerDriver]:
    async with bench.running() as driver:
        yield driver


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("config", [{"ports": ["http"]}, {"port_map": [{"http": 80}]}], ids=["ports", "port_map"])
async def test_ports_are_published(bench: DockerBench, driver: DockerDriver, config: dict[str, object]) -> None:
    port = AllocatedPort(label="http", value=free_port(), to=80, host_ip="127.0.0.1")
    handle = await bench.start(bench.task("httpd", "-f", "-h", "/www", config=config, ports=(port,)))
    assert handle.network is not None
    assert handle.network.port_map == {"http": 80}
    assert not handle.network.auto_advertise

    async def answers() -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                return "nomadpy" in (await client.get(f"http://127.0.0.1:{port.value}/")).text
        except httpx.HTTPError:
            return False

    await eventually(answers)


async def test_a_port_in_use_is_temporary_and_leaves_nothing(bench: DockerBench, driver: DockerDriver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = AllocatedPort(label="http", value=taken.getsockname()[1], to=80, host_ip="127.0.0.1")
        task = bench.task("sleep", "60", config={"ports": ["http"]}, ports=(port,))
        with pytest.raises(Exception, match=r"address already in use|already allocated"):
            await driver.start_task(task)
    left = await driver._engine.call(lambda api: api.containers(all=True, filters={"name": task.alloc_id}))
    assert left == []


async def test_no_network_and_the_hosts(bench: DockerBench, driver: DockerDriver) -> None:
    _, alone = await bench.run(bench.task("ls", "/sys/class/net", config={"network_mode": "none"}))
    assert alone == "lo\n"
    _, hosts = await bench.run(bench.task("hostname", config={"network_mode": "host"}))
    assert hosts.strip() == socket.gethostname()


async def test_names_and_resolver(bench: DockerBench, driver: DockerDriver) -> None:
    config = {"hostname": "box", "dns_servers": ["127.0.0.9"], "extra_hosts": ["friend:127.0.0.8"]}
    _, stdout = await bench.run(bench.shell("hostname; cat /etc/resolv.conf /etc/hosts", config=config))
    assert stdout.startswith("box\n")
    assert "nameserver 127.0.0.9" in stdout
    assert "127.0.0.8\tfriend" in stdout


async def test_volumes_and_mounts(bench: DockerBench, driver: DockerDriver, tmp_path: Path) -> None:
    (tmp_path / "group-volume").mkdir()
    config = {
        "volumes": ["local/data:/data", "../alloc/data:/shared:ro"],
        "mount": [
            {"type": "tmpfs", "target": "/scratch", "tmpfs_options": [{"size": 65536}]},
            {"type": "bind", "source": "local", "target": "/here", "readonly": True},
        ],
    }
    script = "echo d > /data/d; echo v > /volume/v; df -k /scratch | tail -1; touch /shared/x; touch /here/x; echo end"
    group_volume = Mount(host_path=f"{tmp_path}/group-volume", task_path="/volume")
    task = bench.shell(script, config=config, mounts=(group_volume,))
    result, stdout = await bench.run(task)
    assert result.exit_code == 0
    assert read_file(task.dirs.local_dir, "data/d") == "d\n"
    assert read_file(f"{tmp_path}/group-volume/v") == "v\n"
    assert stdout.split()[1] == "64", "the size of the tmpfs in KiB"


@pytest.mark.parametrize("path", ["/etc", "../../..", "local/link"])
async def test_host_paths_outside_need_the_operator(bench: DockerBench, driver: DockerDriver, path: str) -> None:
    task = bench.shell("ls /x", config={"volumes": [f"{path}:/x"]})
    await trio.Path(task.dirs.local_dir, "link").symlink_to("/etc")
    with pytest.raises(Fatal, match="volumes are not enabled"):
        await driver.start_task(task)


async def test_the_operator_may_enable_host_paths(bench: DockerBench) -> None:
    async with bench.running({"volumes": [{"enabled": True}]}):
        result, _ = await bench.run(bench.shell("test -e /x/passwd", config={"volumes": ["/etc:/x:ro"]}))
        assert result.exit_code == 0


async def test_limits_reach_the_container(bench: DockerBench, driver: DockerDriver) -> None:
    config = {"cpu_hard_limit": True, "pids_limit": 50, "ulimit": {"nofile": "100:200"}, "memory_hard_limit": 64}
    handle = await bench.start(bench.shell("sleep 60", config=config))
    found = await driver._engine.call(lambda api: api.inspect_container(handle.state["container_id"]))
    host = found["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["MemoryReservation"]) == (64 << 20, 64 << 20, 32 << 20)
    assert (host["CpuShares"], host["CpuPeriod"], host["PidsLimit"]) == (100, 100_000, 50)
    assert 0 < host["CpuQuota"] < 100_000
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 100, "Hard": 200}]
    assert found["Config"]["Labels"]["com.hashicorp.nomad.alloc_id"] == handle.task_id.partition("/")[0]


async def test_user_read_only_root_and_working_directory(bench: DockerBench, driver: DockerDriver) -> None:
    config = {"readonly_rootfs": True, "work_dir": "/www"}
    _, stdout = await bench.run(bench.shell("id -u; pwd; touch /x || echo refused", config=config, user="nobody"))
    assert stdout == "65534\n/www\nrefused\n"


async def test_a_terminals_output_is_one_stream(bench: DockerBench, driver: DockerDriver) -> None:
    _, stdout = await bench.run(bench.shell("echo a; echo b >&2; printf c", config={"tty": True}))
    assert stdout == "a\r\nb\r\nc"


async def outcome(process: ExecProcess) -> tuple[str, str, int]:
    """(stdout, stderr, exit code) of a command."""
    said = {"stdout": b"", "stderr": b""}
    async for stream, data in process.output():
        said[stream] += data
    return said["stdout"].decode(), said["stderr"].decode(), (await process.wait()).exit_code


async def test_a_command_runs_beside_the_task(bench: DockerBench, driver: DockerDriver) -> None:
    handle = await bench.start(bench.shell("sleep 60", env={"COLOUR": "blue"}))
    words = ["/bin/sh", "-c", "echo $COLOUR; cat; echo bad >&2; exit 3"]
    with trio.fail_after(20):
        async with driver.exec_task(handle.task_id, words) as process:
            await process.send_stdin(b"some ")
            await process.send_stdin(b"input\n")
            await process.send_stdin(b"")
            assert await outcome(process) == ("blue\nsome input\n", "bad\n", 3)


async def test_a_command_with_a_terminal(bench: DockerBench, driver: DockerDriver) -> None:
    handle = await bench.start(bench.shell("sleep 60"))
    words = ["/bin/sh", "-c", "read line; stty size; exit 0"]
    with trio.fail_after(20):
        async with driver.exec_task(handle.task_id, words, tty=True) as process:
            await process.resize(33, 77)
            await process.send_stdin(b"go\n")
            stdout, _, code = await outcome(process)
    assert "33 77" in stdout
    assert code == 0


async def test_leaving_ends_the_command(bench: DockerBench, driver: DockerDriver) -> None:
    handle = await bench.start(bench.shell("sleep 60"))
    async with driver.exec_task(handle.task_id, ["sleep", "4321"]):
        pass

    async def gone() -> bool:
        top = await driver._engine.call(lambda api: api.top(handle.state["container_id"]))
        return not any("4321" in " ".join(row) for row in top["Processes"])

    await eventually(gone)


async def test_a_command_for_an_unknown_task(driver: DockerDriver) -> None:
    with pytest.raises(NotFound):
        async with driver.exec_task("nobody", ["true"]):
            raise AssertionError("not reached")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"privileged": True}, "privileged"),
        ({"cap_add": ["SYS_ADMIN"]}, "SYS_ADMIN"),
        ({"pid_mode": "host"}, "pid_mode"),
        ({"runtime": "other"}, "runtime"),
        ({"ports": ["nope"]}, 'port "nope"'),
        ({"colour": "blue"}, "colour"),
        ({"image": "Bad Name"}, "Bad Name"),
        ({"volume_driver": "x"}, "volume_driver"),
        ({"network_aliases": ["x"]}, "user-defined network"),
    ],
)
async def test_what_is_refused(
    bench: DockerBench, driver: DockerDriver, config: dict[str, object], reason: str
) -> None:
    with pytest.raises(Fatal, match=reason):
        await driver.start_task(bench.shell("true", config=config))


async def test_a_network_of_its_own(bench: DockerBench, driver: DockerDriver) -> None:
    name = f"nomadpy-test-{bench.task().alloc_id[:8]}"
    await driver._engine.call(lambda api: api.create_network(name))
    try:
        config = {"network_mode": name, "network_aliases": ["backend"]}
        served = await bench.start(bench.task("httpd", "-f", "-h", "/www", config=config))
        assert served.network is not None
        assert served.network.auto_advertise
        client = bench.shell("until wget -qO- http://backend/; do sleep 0.1; done", config={"network_mode": name})
        _, stdout = await bench.run(client)
        assert "nomadpy" in stdout
        await driver.destroy_task(served.task_id, force=True)
        await bench.remove_all()
    finally:
        await driver._engine.call(lambda api: api.remove_network(name))


async def test_a_groups_bridge_publishes_all_its_ports_and_says_what_it_lacks(
    bench: DockerBench, driver: DockerDriver, caplog: pytest.LogCaptureFixture
) -> None:
    port = AllocatedPort(label="http", value=free_port(), to=80, host_ip="127.0.0.1")
    handle = await bench.start(bench.task("httpd", "-f", "-h", "/www", ports=(port,), network_mode="bridge"))
    assert handle.network is not None
    assert handle.network.port_map == {"http": 80}
    warnings = [getattr(record, "warning", "") for record in caplog.records]
    assert any("does not share localhost" in text for text in warnings)
