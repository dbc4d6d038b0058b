"""What the servers add to a job and what they tell its author."""

from __future__ import annotations

from typing import Any

import pytest

from nomadpy.model.admission import admit, unsupported, warnings_text
from nomadpy.model.canonical import job_from_input
from nomadpy.model.job import Job
from nomadpy.model.unsupported import PARTS


def make(job: dict[str, Any] | None = None, group: dict[str, Any] | None = None, **task: Any) -> Job:
    one = {"Name": "g", "Tasks": [{"Name": "t", "Driver": "raw_exec", **task}], **(group or {})}
    return job_from_input({"ID": "web", "TaskGroups": [one], **(job or {})})


def implied(job: Job) -> list[str]:
    return [str(constraint) for constraint in admit(job).job.task_groups[0].constraints]


def test_a_plain_job_is_admitted_as_it_is() -> None:
    job = make()
    assert admit(job).job is job
    assert admit(job).warnings == ()


@pytest.mark.parametrize(
    ("job", "constraints"),
    [
        (make(KillSignal="SIGTERM"), ["${attr.os.signals} set_contains SIGTERM"]),
        (
            make(KillSignal="SIGTERM", Templates=[{"ChangeMode": "signal", "ChangeSignal": "SIGHUP"}]),
            ["${attr.os.signals} set_contains SIGHUP,SIGTERM"],
        ),
        (
            make(group={"Services": [{"Provider": "nomad", "Checks": [{}]}]}),
            ["${attr.nomad.service_discovery} = true", "${attr.nomad.version} semver >= 1.4.0"],
        ),
        (make(Identities=[{"Name": "aws"}]), ["${attr.nomad.version} semver >= 1.7.0-a"]),
        (make(group={"Services": [{}]}), []),
    ],
)
def test_blocks_imply_constraints(job: Job, constraints: list[str]) -> None:
    assert implied(job) == constraints


def test_a_bridge_needs_its_plugins_unless_the_job_says_which() -> None:
    own = {"LTarget": "${attr.plugins.cni.version.bridge}", "Operand": "semver", "RTarget": ">= 1.0.0"}
    found = implied(make(group={"Networks": [{"Mode": "bridge"}], "Constraints": [own]}))
    assert len(found) == 5
    assert "${attr.plugins.cni.version.bridge} semver >= 1.0.0" in found


def test_admitting_twice_adds_nothing() -> None:
    once = admit(make(KillSignal="SIGTERM", group={"Networks": [{"Mode": "bridge"}]})).job
    assert admit(once).job is once


WARNINGS: list[tuple[Job, str]] = [
    (make(group={"Count": 2, "Update": {"MaxParallel": 3}}), "max_parallel is greater than the group's count (3 > 2)"),
    (make({"Type": "batch", "Periodic": {"Spec": "@daily"}}), "cron is deprecated"),
    (make(group={"MaxClientDisconnect": 5}), "max_client_disconnect is deprecated"),
    (make(group={"MaxClientDisconnect": 5, "Disconnect": {}}), "max_client_disconnect is ignored because"),
    (make(group={"Networks": [{"MBits": 5}]}), "mbits has been deprecated"),
    (make(Resources={"MemoryMaxMB": 500}), "Memory oversubscription is not enabled"),
    (make(Resources={"IOPS": 5}), "IOPS has been deprecated"),
    (make(Resources={"Networks": [{}]}), "task network resources have been deprecated"),
    (make(Templates=[{"VaultGrace": 5}]), "vault_grace has been deprecated"),
    (make(Services=[{}]), 'Task "t" of group "g" has services but no shutdown_delay'),
    (make(group={"Services": [{}]}), "neither it nor any of its tasks has a shutdown_delay"),
    (make(Identities=[{"Name": "a"}]), "has no audience"),
    (make(Identities=[{"Name": "a", "Audience": ["x", "y"]}]), "several audiences"),
    (make(Identities=[{"Name": "a", "Env": True}]), "without change_mode restart"),
    (make(Identities=[{"Name": "vault_default"}]), "no vault block"),
]


@pytest.mark.parametrize(("job", "text"), WARNINGS, ids=[text for _, text in WARNINGS])
def test_advice(job: Job, text: str) -> None:
    assert text in warnings_text(admit(job).warnings)


def test_oversubscription_silences_its_warning() -> None:
    assert admit(make(Resources={"MemoryMaxMB": 500}), oversubscription=True).warnings == ()


def test_canary_groups_must_agree_on_promotion() -> None:
    groups = [
        {"Name": name, "Update": {"Canary": 1, "AutoPromote": promote}, "Tasks": [{"Name": "t"}]}
        for name, promote in (("a", True), ("b", False))
    ]
    assert "auto_promote must be true for all groups" in warnings_text(admit(make({"TaskGroups": groups})).warnings)


PART_EXAMPLES: dict[str, Job] = {
    "template change_script run_on_first_render": make(Templates=[{"ChangeScript": {"RunOnFirstRender": True}}]),
    "service with provider consul": make(group={"Services": [{}]}),
    "service with provider nomad": make(Services=[{"Provider": "nomad"}]),
    "connect": make(group={"Services": [{"Connect": {"Native": True}}]}),
    "vault": make(Vault={}),
    "secret": make(Secrets=[{}]),
    "consul (task)": make(Consul={}),
    "consul (group)": make(group={"Consul": {}}),
    "volume of type csi": make(group={"Volumes": {"v": {"Type": "csi"}}}),
    "csi_plugin": make(CSIPluginConfig={}),
    "sticky volume": make(group={"Volumes": {"v": {"Sticky": True}}}),
    "identity": make(Identity={"Env": True}),
    "update stagger": make({"Update": {"Stagger": 1}}),
    "scaling": make(group={"Scaling": {"Max": 3}}),
    "task scaling": make(ScalingPolicies=[{}]),
    "numa": make(Resources={"NUMA": {"Affinity": "prefer"}}),
    "secrets (resources)": make(Resources={"SecretsMB": 1}),
    "network mode bridge or cni": make(group={"Networks": [{"Mode": "cni/x"}]}),
    "network mode none": make(group={"Networks": [{"Mode": "none"}]}),
    "network (task)": make(Resources={"Networks": [{}]}),
    "ephemeral_disk sticky and migrate": make(group={"EphemeralDisk": {"Sticky": True}}),
    "multiregion": make({"Multiregion": {}}),
}


@pytest.mark.parametrize("name", [part.name for part in PARTS])
def test_every_part_that_has_no_effect_is_named(name: str) -> None:
    assert any(text.startswith(f"{name} is accepted but not acted on yet") for text in unsupported(PART_EXAMPLES[name]))


def test_the_examples_are_those_of_the_table() -> None:
    assert set(PART_EXAMPLES) == {part.name for part in PARTS}


def test_the_deployments_of_services_need_no_warning() -> None:
    update = {"Canary": 1, "AutoPromote": True, "AutoRevert": True}
    assert unsupported(make(group={"Update": update})) == []


def test_many_places_are_counted() -> None:
    tasks = [{"Name": name, "Vault": {}} for name in "abcde"]
    (text,) = unsupported(make(group={"Tasks": tasks}))
    assert text.endswith('task "c" of group "g" and 2 more)')


def test_the_text_of_warnings() -> None:
    assert warnings_text(()) == ""
    assert warnings_text(["x"]) == "1 warning:\n\n* x"
    assert warnings_text(["x", "y"]) == "2 warnings:\n\n* x\n* y"
