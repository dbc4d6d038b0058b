"""Devices from the plugin's file over the scheduler's choice to what a task sees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent import Agent, job, running, shell, task, until

CARDS = """
- vendor: acme
  type: fpga
  name: a1
  attributes: {memory: 8 GiB}
  env: ACME_VISIBLE
  instances:
    - {id: c0, paths: [/dev/kmsg]}
    - {id: c1, paths: [/dev/kmsg]}
"""
WISH = {"CPU": 20, "MemoryMB": 16, "Devices": [{"Name": "acme/fpga", "Count": 1}]}


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Agent]:
    file = tmp_path / "cards.yaml"
    file.write_text(CARDS)
    config = f'plugin "device_file" {{\n  config {{\n    path = "{file}"\n  }}\n}}\n'
    with running(tmp_path / "agent", "-dev", config=config) as agent:
        yield agent
        assert not agent.faults()


def visible(dev: Agent, stub: dict[str, Any]) -> str:
    return until(lambda: dev.logs(stub["ID"]).strip(), "the output of the task")


def test_each_allocation_gets_its_own_device_and_the_next_one_waits(dev: Agent) -> None:
    [node] = [dev.get(f"/v1/node/{stub['ID']}") for stub in dev.get("/v1/nodes")]
    [group] = node["NodeResources"]["Devices"]
    assert [(one["ID"], one["Healthy"]) for one in group["Instances"]] == [("c0", True), ("c1", True)]
    dev.run(job("cards", shell("echo $ACME_VISIBLE; sleep 3600", Resources=WISH), count=3))
    stubs = dev.wait_allocs("cards", 2)
    assert sorted(visible(dev, stub) for stub in stubs) == ["c0", "c1"]
    [blocked] = [one for one in dev.get("/v1/job/cards/evaluations") if one["Status"] == "blocked"]
    metrics = blocked["FailedTGAllocs"]["g"]
    assert metrics["DimensionExhausted"] == {"devices: no devices match request acme/fpga": 1}
    assert metrics["WouldHelp"][0]["Text"].startswith("enough free devices acme/fpga on ")
    [stats] = dev.get("/v1/client/stats", node_id=node["ID"])["DeviceStats"]
    assert stats["InstanceStats"]["c0"] == {"Summary": {"StringVal": "present"}}
    assert dev.get("/v1/job/cards/capacity")["Groups"]["g"]["Limits"] == {"devices": 1}


@pytest.mark.exec
def test_a_task_in_a_root_of_its_own_sees_the_files_of_its_device(dev: Agent) -> None:
    command = {"command": "/bin/sh", "args": ["-c", "ls /dev/kmsg && echo $ACME_VISIBLE; sleep 3600"]}
    dev.run(job("alone", task("exec", Config=command, Resources=WISH)))
    [stub] = dev.wait_allocs("alone")
    assert visible(dev, stub).split() == ["/dev/kmsg", "c0"]
