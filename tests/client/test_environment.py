from __future__ import annotations

from typing import Any

import pytest
from client_world import make_alloc, make_task

from nomadpy.client.driver_config import interpolate_config
from nomadpy.client.environment import EnvironmentSource, build_environment
from nomadpy.client.interpolate import Interpolator
from nomadpy.drivers.contract import FS_CHROOT, FS_IMAGE, FS_NONE, TaskDirs
from nomadpy.model.alloc import Allocation
from nomadpy.model.errors import Invalid
from nomadpy.model.job import ParameterizedJobConfig
from nomadpy.model.node import Node
from nomadpy.model.resources import (
    AllocatedCpu,
    AllocatedMemory,
    AllocatedPort,
    AllocatedResources,
    AllocatedSharedResources,
    AllocatedTaskResources,
)

DIRS = TaskDirs(shared_dir="/data/a/alloc", local_dir="/data/a/web/local", secrets_dir="/data/a/web/secrets")
NODE = Node(
    id="n-1",
    name="node-1",
    datacenter="dc1",
    attributes={"kernel.name": "linux", "driver.docker": "1", "driver.docker.version": "27.0"},
    meta={"rack": "r1"},
)


def environment(alloc: Allocation, *, fs: str = FS_NONE, **more: Any) -> tuple[dict[str, str], Interpolator]:
    assert alloc.job is not None
    task = alloc.job.task_groups[0].tasks[0]
    source = EnvironmentSource(alloc=alloc, task=task, node=NODE, region="global", dirs=DIRS, fs_isolation=fs, **more)
    return build_environment(source)


def with_ports(*ports: AllocatedPort) -> Allocation:
    resources = AllocatedResources(
        tasks={
            "web": AllocatedTaskResources(
                cpu=AllocatedCpu(cpu_shares=500, reserved_cores=(3, 4)), memory=AllocatedMemory(memory_mb=64)
            )
        },
        shared=AllocatedSharedResources(ports=ports),
    )
    return make_alloc().replace(allocated_resources=resources)


def test_names_and_limits() -> None:
    alloc = with_ports()
    env, _ = environment(alloc)
    expected = {
        "NOMAD_ALLOC_ID": alloc.id,
        "NOMAD_SHORT_ALLOC_ID": alloc.id[:8],
        "NOMAD_ALLOC_NAME": "example.g[0]",
        "NOMAD_ALLOC_INDEX": "0",
        "NOMAD_TASK_NAME": "web",
        "NOMAD_GROUP_NAME": "g",
        "NOMAD_JOB_ID": "example",
        "NOMAD_DC": "dc1",
        "NOMAD_REGION": "global",
        "NOMAD_NAMESPACE": "default",
        "NOMAD_CPU_LIMIT": "500",
        "NOMAD_CPU_CORES": "3-4",
        "NOMAD_MEMORY_LIMIT": "64",
    }
    assert expected.items() <= env.items()
    assert "NOMAD_MEMORY_MAX_LIMIT" not in env
    assert "NOMAD_JOB_PARENT_ID" not in env


@pytest.mark.parametrize(
    ("fs", "seen"),
    [
        (FS_NONE, ["/data/a/alloc", "/data/a/web/local", "/data/a/web/secrets"]),
        (FS_CHROOT, ["/alloc", "/local", "/secrets"]),
        (FS_IMAGE, ["/alloc", "/local", "/secrets"]),
    ],
)
def test_directories_are_named_as_the_task_sees_them(fs: str, seen: list[str]) -> None:
    env, _ = environment(make_alloc(), fs=fs)
    assert [env["NOMAD_ALLOC_DIR"], env["NOMAD_TASK_DIR"], env["NOMAD_SECRETS_DIR"]] == seen


def test_ports() -> None:
    env, _ = environment(with_ports(AllocatedPort(label="ht-tp", value=25000, to=80, host_ip="10.0.0.5")))
    assert {name: env[name] for name in env if name.endswith(("ht_tp", "ht-tp"))} == {
        "NOMAD_IP_ht_tp": "10.0.0.5",
        "NOMAD_HOST_IP_ht-tp": "10.0.0.5",
        "NOMAD_PORT_ht_tp": "80",
        "NOMAD_ALLOC_PORT_ht-tp": "80",
        "NOMAD_HOST_PORT_ht_tp": "25000",
        "NOMAD_ADDR_ht_tp": "10.0.0.5:25000",
        "NOMAD_HOST_ADDR_ht-tp": "10.0.0.5:25000",
    }


def test_an_ipv6_address_stands_in_brackets() -> None:
    env, _ = environment(with_ports(AllocatedPort(label="db", value=5432, host_ip="::1")))
    assert (env["NOMAD_ADDR_db"], env["NOMAD_PORT_db"]) == ("[::1]:5432", "5432")


def test_the_host_environment_fills_gaps_but_not_for_images_and_never_secrets() -> None:
    host = {"PATH": "/bin", "VAULT_TOKEN": "s3cret", "MINE": "host"}
    alloc = make_alloc(make_task(env={"MINE": "task"}))
    env, _ = environment(alloc, host_env=host, denylist=frozenset(["VAULT_TOKEN"]))
    assert (env["PATH"], env["MINE"], "VAULT_TOKEN" in env) == ("/bin", "task", False)
    assert "PATH" not in environment(alloc, fs=FS_IMAGE, host_env=host)[0]


def test_meta_comes_in_both_cases_and_the_task_wins() -> None:
    alloc = make_alloc(make_task(meta={"a-key": "task"}), job={"meta": {"a-key": "job", "other": "o"}})
    env, _ = environment(alloc)
    assert env["NOMAD_META_a_key"] == env["NOMAD_META_A_KEY"] == "task"
    assert env["NOMAD_META_OTHER"] == "o"


def test_optional_meta_of_a_dispatched_job_is_empty_when_it_was_not_sent() -> None:
    job = {"dispatched": True, "parameterized_job": ParameterizedJobConfig(meta_optional=("speed",))}
    assert environment(make_alloc(job=job))[0]["NOMAD_META_speed"] == ""


def test_the_env_block_is_filled_in_and_unknown_names_stay() -> None:
    task = make_task(env={"A": "${node.unique.name}/${attr.kernel.name}/${meta.rack}", "B": "${nothing.here} $${x}"})
    env, names = environment(make_alloc(task), hook_env={"B2": "hook"})
    assert (env["A"], env["B"], env["B2"]) == ("node-1/linux/r1", "${nothing.here} $${x}", "hook")
    assert names.text("${A} ${env.NOMAD_TASK_NAME}") == "node-1/linux/r1 web"


def fill(value: Any, env: dict[str, str] | None = None) -> Any:
    from nomadpy.client.interpolate import node_values

    names = Interpolator(env or {"NOMAD_PORT_http": "80", "a.b": "dotted", "NAME": "x"}, node_values(NODE, "global"))
    return interpolate_config({"v": value}, names)["v"]


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("plain", "plain"),
        ("${NOMAD_PORT_http}", "80"),
        ("p=${env.NOMAD_PORT_http}", "p=80"),
        ('${env["a.b"]}', "dotted"),
        ("${attr.driver.docker.version}", "27.0"),
        ("${node.attr.kernel.name}-${node.meta.rack}", "linux-r1"),
        ("${node.unique.id} ${node.datacenter} ${node.region}", "n-1 dc1 global"),
        ("${upper(NAME)}", "X"),
        ("$${NAME}", "${NAME}"),
        ('${NAME == "x" ? "yes" : "no"}', "yes"),
        ([{"${NAME}": ["${NAME}", 5, True]}], [{"x": ["x", 5, True]}]),
        ("${length([1, 2])}", 2),
    ],
)
def test_driver_config_is_evaluated(template: Any, value: Any) -> None:
    assert fill(template) == value


@pytest.mark.parametrize("template", ["${nope}", "${attr.nope}", '${file("/etc/passwd")}', "${", '${env["no"]}'])
def test_what_cannot_be_evaluated_is_told_with_its_place(template: str) -> None:
    with pytest.raises(Invalid, match=r"^config\.v"):
        fill(template)
