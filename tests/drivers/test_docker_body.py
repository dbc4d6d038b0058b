"""A task in the engine's words, without an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from docker_bench import DockerBench

from nomadpy.drivers import schema
from nomadpy.drivers.contract import DeviceNode, TaskConfig, TaskLimits
from nomadpy.drivers.docker.body import capabilities, container_body, container_name, cpu_shares, labels, resources
from nomadpy.drivers.docker.containers import exit_result
from nomadpy.drivers.docker.facts import fingerprint
from nomadpy.drivers.docker.options import (
    DEFAULT_CAPABILITIES,
    TASK_SCHEMA,
    PluginOptions,
    check_task_config,
    read_plugin_options,
)
from nomadpy.drivers.docker.ports import published_ports
from nomadpy.drivers.docker.reference import parse_reference
from nomadpy.drivers.docker.usage import usage
from nomadpy.model.errors import Fatal
from nomadpy.model.resources import AllocatedPort, DNSConfig

MIB = 1 << 20


def body(root: Path, config: dict[str, Any], options: PluginOptions | None = None, **fields: Any) -> dict[str, Any]:
    task = DockerBench(root).task(config=config, **fields)
    read = schema.read(TASK_SCHEMA, task.config)
    return container_body(task, read, options or PluginOptions(), image_id="sha256:1", n_cpus=4)


@pytest.mark.parametrize(
    ("text", "name", "moving"),
    [
        ("redis", "redis:latest", True),
        ("redis:7", "redis:7", False),
        ("localhost:5000/a/b", "localhost:5000/a/b:latest", True),
        ("https://reg.example:80/x:1", "reg.example:80/x:1", False),
        ("a@sha256:" + "0" * 64, "a@sha256:" + "0" * 64, False),
        ("a:latest@sha256:" + "0" * 64, "a@sha256:" + "0" * 64, False),
        ("sha256:" + "a" * 64, "sha256:" + "a" * 64, False),
    ],
)
def test_references(text: str, name: str, moving: bool) -> None:
    reference = parse_reference(text)
    assert (reference.name, reference.moving) == (name, moving)


@pytest.mark.parametrize("text", ["", "Upper", "a b", "a:", "a:b:c", "/a", "a//b", "a@sha256:xyz", "a" * 300, "ü"])
def test_references_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="not a valid reference"):
        parse_reference(text)


def test_command_arguments_and_entrypoint(tmp_path: Path) -> None:
    assert "Cmd" not in body(tmp_path, {})
    assert body(tmp_path, {"args": ["a", "b"]})["Cmd"] == ["a", "b"]
    both = body(tmp_path, {"command": "c", "args": ["a"], "entrypoint": ["/init"]})
    assert (both["Cmd"], both["Entrypoint"]) == (["c", "a"], ["/init"])


def test_names_have_no_slash() -> None:
    assert container_name(TaskConfig(task_name="a/b", alloc_id="1-2")) == "a_b-1-2"


def test_the_operators_globs_choose_labels() -> None:
    task = TaskConfig(alloc_id="a1", job_id="j", job_name="n", task_name="t", group_name="g")
    chosen = labels(task, {"labels": {"mine": "x"}}, PluginOptions(extra_labels=("job*", "task_name")))
    assert chosen["mine"] == "x"
    assert {key.rpartition(".")[2] for key in chosen if key.startswith("com.hashicorp.nomad.")} == {
        "alloc_id",
        "job_id",
        "job_name",
        "task_name",
    }


@pytest.mark.parametrize(
    ("limits", "config", "expected"),
    [
        (TaskLimits(memory_mb=100), {}, (100 * MIB, None, 100 * MIB)),
        (TaskLimits(memory_mb=100, memory_max_mb=200), {}, (200 * MIB, 100 * MIB, 200 * MIB)),
        (TaskLimits(memory_mb=100, memory_max_mb=-1), {}, (None, 100 * MIB, None)),
        (TaskLimits(memory_mb=100), {"memory_hard_limit": 300}, (300 * MIB, 100 * MIB, 300 * MIB)),
    ],
)
def test_memory(limits: TaskLimits, config: dict[str, Any], expected: tuple[int | None, ...]) -> None:
    found = resources(limits, config, n_cpus=4)
    assert (found.get("Memory"), found.get("MemoryReservation"), found.get("MemorySwap")) == expected


def test_a_hard_limit_below_the_reservation_is_refused() -> None:
    with pytest.raises(Fatal, match="below"):
        resources(TaskLimits(memory_mb=100), {"memory_hard_limit": 50}, n_cpus=1)


def test_cpu() -> None:
    assert cpu_shares(TaskLimits(cpu_shares=1)) == 2
    assert cpu_shares(TaskLimits(cpu_shares=262_144, node_cpu_mhz=524_288)) == 131_072
    hard = resources(TaskLimits(cpu_shares=1000, node_cpu_mhz=4000), {"cpu_hard_limit": True}, n_cpus=4)
    assert (hard["CpuPeriod"], hard["CpuQuota"]) == (100_000, 100_000)
    assert resources(TaskLimits(reserved_cores=(1, 3)), {}, n_cpus=4)["CpusetCpus"] == "1,3"


def test_capabilities_start_from_what_is_allowed() -> None:
    assert capabilities({}, PluginOptions()) == ([], ["NET_RAW"])
    assert capabilities({"cap_add": ["cap_chown"], "cap_drop": ["all"]}, PluginOptions()) == (
        ["CHOWN"],
        ["ALL", "NET_RAW"],
    )
    assert capabilities({"cap_add": ["net_admin"]}, PluginOptions(allow_caps=("ALL",))) == (["NET_ADMIN"], [])
    with pytest.raises(Fatal, match="NET_ADMIN"):
        capabilities({"cap_add": ["net_admin"]}, PluginOptions())
    fewer = PluginOptions(allow_caps=tuple(set(DEFAULT_CAPABILITIES) - {"KILL"}))
    assert "KILL" in capabilities({}, fewer)[1]


def test_the_groups_resolver_wins(tmp_path: Path) -> None:
    config = {"dns_servers": ["127.0.0.2"]}
    assert body(tmp_path, config)["HostConfig"]["Dns"] == ["127.0.0.2"]
    group = DNSConfig(servers=("127.0.0.3",))
    assert body(tmp_path, config, dns=group)["HostConfig"]["Dns"] == ["127.0.0.3"]


def test_ports_of_labels() -> None:
    ports = (AllocatedPort(label="a", value=20001, to=80), AllocatedPort(label="b", value=20002, to=-1))
    task = TaskConfig(ports=ports, host_ip="127.0.0.1")
    found = published_ports(task, {"ports": ["a", "b"]})
    assert [(port.value, port.container_port, port.host_ip) for port in found] == [
        (20001, 80, "127.0.0.1"),
        (20002, 20002, "127.0.0.1"),
    ]
    assert published_ports(task, {}) == []
    assert len(published_ports(task.replace(network_mode="bridge"), {})) == 2


def test_a_port_is_published_for_tcp_and_udp(tmp_path: Path) -> None:
    ports = (AllocatedPort(label="a", value=20001, to=80, host_ip="127.0.0.1"),)
    bindings = body(tmp_path, {"ports": ["a"]}, ports=ports)["HostConfig"]["PortBindings"]
    assert sorted(bindings) == ["80/tcp", "80/udp"]
    shared = body(tmp_path, {"ports": ["a"], "network_mode": "host"}, ports=ports)
    assert shared["HostConfig"]["PortBindings"] == {}


def test_modes_that_the_operator_allows(tmp_path: Path) -> None:
    options = PluginOptions(allowed_modes={"pid": ("host",), "ipc": ("container:*",)})
    found = body(tmp_path, {"pid_mode": "host", "ipc_mode": "container:x"}, options)["HostConfig"]
    assert (found["PidMode"], found["IpcMode"]) == ("host", "container:x")
    with pytest.raises(Fatal, match="uts_mode"):
        body(tmp_path, {"uts_mode": "host"}, options)


def test_seccomp_profiles_are_inlined(tmp_path: Path) -> None:
    (tmp_path / "profile.json").write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    found = body(tmp_path, {"security_opt": [f"seccomp={tmp_path}/profile.json", "no-new-privileges"]})
    assert found["HostConfig"]["SecurityOpt"] == ['seccomp={"defaultAction":"SCMP_ACT_ALLOW"}', "no-new-privileges"]
    with pytest.raises(Fatal, match="nothing"):
        body(tmp_path, {"security_opt": ["seccomp=nothing.json"]})


def test_logging(tmp_path: Path) -> None:
    assert body(tmp_path, {})["HostConfig"]["LogConfig"] == {
        "Type": "json-file",
        "Config": {"max-file": "2", "max-size": "10m"},
    }
    asked = {"logging": [{"driver": "syslog", "config": [{"tag": "x"}]}]}
    assert body(tmp_path, asked)["HostConfig"]["LogConfig"] == {"Type": "syslog", "Config": {"tag": "x"}}


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({}, 'option "image" is required'),
        ({"image": "a", "command": " x"}, "white space"),
        ({"image": "A"}, "not a valid reference"),
        ({"image": "a", "mount": [{"type": "nfs", "target": "/x"}]}, "volume, bind or tmpfs"),
        ({"image": "a", "mount": [{"type": "bind", "target": "/x"}]}, "source"),
        ({"image": "a", "mounts": [{"target": "/x", "tmpfs_options": [{"size": 1}]}]}, "does not fit"),
        ({"image": "a", "ulimit": {"nofile": "many"}}, "ulimit.nofile"),
        ({"image": "a", "port_map": [{"x": 0}]}, "port_map.x"),
        ({"image": "a", "volumes": ["x"]}, "host:container"),
        ({"image": "a", "imge": "x"}, "imge"),
        ({"image": "a", "pids_limit": "x"}, "pids_limit"),
    ],
)
def test_problems_of_a_config(config: dict[str, Any], problem: str) -> None:
    assert any(problem in found for found in check_task_config(config)), check_task_config(config)


def test_references_to_be_filled_in_are_fine() -> None:
    config = {"image": "${meta.image}", "ulimit": {"nofile": "${x}"}, "port_map": [{"x": "${y}"}], "volumes": ["${z}"]}
    assert check_task_config(config) == []


def test_the_operators_block() -> None:
    block = {
        "gc": [{"image_delay": "1h", "dangling_containers": [{"enabled": False}]}],
        "volumes": {"enabled": True},
        "allow_caps": ["ALL"],
        "infra_image": "x",
    }
    options, warnings = read_plugin_options(block, {"docker.cleanup.image": "false", "driver.docker.volumes": "false"})
    assert (options.gc_image, options.gc_image_delay_s, options.dangling_enabled) == (False, 3600.0, False)
    assert (options.volumes_enabled, options.allow_caps) == (True, ("ALL",)), "the block wins over legacy keys"
    assert warnings == ['plugin "docker": option "infra_image" has no effect']
    with pytest.raises(ValueError, match="alow_caps"):
        read_plugin_options({"alow_caps": []}, {})


def test_usage_is_a_rate_between_two_answers() -> None:
    def answer(total: int, system: int) -> dict[str, Any]:
        cpu = {"cpu_usage": {"total_usage": total}, "system_cpu_usage": system, "online_cpus": 4}
        return {"cpu_stats": cpu, "memory_stats": {"usage": 10, "stats": {"total_rss": 7}}}

    found = usage(answer(150, 2000), answer(50, 1000), node_cpu_mhz=8000, now_ns=5).resource_usage
    assert found.cpu_stats.percent == pytest.approx(40.0)
    assert found.cpu_stats.total_ticks == pytest.approx(800.0)
    assert (found.memory_stats.usage, found.memory_stats.rss) == (10, 7)


def test_the_fingerprint_says_what_the_operator_allows() -> None:
    options = PluginOptions(allow_privileged=True, volumes_enabled=True, pids_limit=9)
    info = {"OSType": "linux", "Runtimes": {"runc": {}, "a": {}}}
    bridge = {"IPAM": {"Config": [{"Subnet": "172.17.0.0/16"}, {"Gateway": "172.17.0.1"}]}}
    found = fingerprint({"Version": "20.1"}, info, bridge, options).attributes
    assert found == {
        "driver.docker": "1",
        "driver.docker.version": "20.1",
        "driver.docker.os_type": "linux",
        "driver.docker.runtimes": "a,runc",
        "driver.docker.bridge_ip": "172.17.0.1",
        "driver.docker.privileged.enabled": "true",
        "driver.docker.volumes.enabled": "true",
        "driver.docker.pids.limit": "9",
    }


@pytest.mark.parametrize(
    ("said", "finished_at_ns"),
    [("2023-11-14T22:13:20.25Z", 1_700_000_000_250_000_000), ("0001-01-01T00:00:00Z", 0), ("soon", 0), (None, 0)],
)
def test_when_a_container_ended(said: str | None, finished_at_ns: int) -> None:
    result = exit_result({"State": {"ExitCode": 3, "FinishedAt": said}})
    assert (result.exit_code, result.finished_at_ns) == (3, finished_at_ns)


def test_devices_of_the_allocation_come_before_those_of_the_config(tmp_path: Path) -> None:
    given = (DeviceNode(host_path="/dev/acme0", task_path="/dev/card", permissions="rw"),)
    config = {"image": "x", "devices": [{"host_path": "/dev/fuse"}]}
    assert body(tmp_path, config, devices=given)["HostConfig"]["Devices"] == [
        {"PathOnHost": "/dev/acme0", "PathInContainer": "/dev/card", "CgroupPermissions": "rw"},
        {"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "rwm"},
    ]
