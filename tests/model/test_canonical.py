"""What is filled in where a job says nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from model_strategies import records

from nomadpy.model.canonical import (
    JobDefaults,
    canonicalize,
    decode_job,
    fill_job_defaults,
    input_form,
    job_from_input,
)
from nomadpy.model.errors import Invalid
from nomadpy.model.job import Job, RestartPolicy, Task, TaskGroup, UpdateStrategy
from nomadpy.model.time import HOUR, MINUTE, SECOND
from nomadpy.model.wire import encode, to_wire

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def make(job: dict[str, Any] | None = None, group: dict[str, Any] | None = None, **task: Any) -> Job:
    """A canonical job of one group "g" with one task "t"."""
    one = {"Name": "g", "Tasks": [{"Name": "t", "Driver": "raw_exec", **task}], **(group or {})}
    return job_from_input({"ID": "web", "TaskGroups": [one], **(job or {})})


def group_of(job: Job) -> TaskGroup:
    return job.task_groups[0]


def task_of(job: Job) -> Task:
    return job.task_groups[0].tasks[0]


def test_job_defaults() -> None:
    job = make()
    assert (job.name, job.type, job.region, job.namespace) == ("web", "service", "global", "default")
    assert (job.priority, job.datacenters, job.node_pool) == (50, ("*",), "default")
    assert job.update == UpdateStrategy(stagger_ns=30 * SECOND, max_parallel=1)


def test_defaults_come_from_the_agent() -> None:
    defaults = JobDefaults(region="eu", namespace="ops", priority=70, node_pool="gpu")
    job = job_from_input({"ID": "a", "Region": "global"}, defaults=defaults)
    assert (job.region, job.namespace, job.priority, job.node_pool) == ("eu", "ops", 70, "gpu")


@pytest.mark.parametrize(
    ("job_type", "attempts", "interval"),
    [("service", 2, 30 * MINUTE), ("system", 2, 30 * MINUTE), ("batch", 3, 24 * HOUR), ("sysbatch", 3, 24 * HOUR)],
)
def test_restart_depends_on_the_type(job_type: str, attempts: int, interval: int) -> None:
    expected = RestartPolicy(attempts=attempts, interval_ns=interval, delay_ns=15 * SECOND, mode="fail")
    job = make({"Type": job_type})
    assert group_of(job).restart_policy == expected
    assert task_of(job).restart_policy == expected


def test_reschedule_update_and_migrate_depend_on_the_type() -> None:
    service, batch, system = (group_of(make({"Type": name})) for name in ("service", "batch", "system"))
    assert service.reschedule_policy is not None
    assert batch.reschedule_policy is not None
    assert service.reschedule_policy.unlimited
    assert service.reschedule_policy.delay_function == "exponential"
    assert (batch.reschedule_policy.attempts, batch.reschedule_policy.delay_ns) == (1, 5 * SECOND)
    assert system.reschedule_policy is None
    assert service.migrate is not None
    assert (batch.migrate, system.migrate) == (None, None)
    assert system.update == service.update
    assert batch.update is None


def test_job_level_policies_are_pushed_down_and_the_group_wins() -> None:
    job = make(
        {"Update": {"MaxParallel": 3, "Canary": 1}, "Reschedule": {"Delay": 7 * SECOND}, "Migrate": {"MaxParallel": 4}},
        {"Update": {"Canary": 2}, "ReschedulePolicy": {"MaxDelay": 9 * SECOND}},
    )
    group = group_of(job)
    assert group.update is not None
    assert group.reschedule_policy is not None
    assert group.migrate is not None
    assert (group.update.max_parallel, group.update.canary, group.update.health_check) == (3, 2, "checks")
    assert (group.reschedule_policy.delay_ns, group.reschedule_policy.max_delay_ns) == (7 * SECOND, 9 * SECOND)
    assert group.migrate.max_parallel == 4
    assert (job.update.max_parallel, job.update.canary) == (3, 0)


def test_an_update_block_on_a_batch_job_reaches_its_groups() -> None:
    assert group_of(make({"Type": "batch", "Update": {"MaxParallel": 1}})).update is not None


def test_zero_is_not_absent() -> None:
    assert group_of(make()).count == 1
    assert group_of(make(group={"Count": None})).count == 1
    assert group_of(make(group={"Count": 0})).count == 0
    job = make(group={"RestartPolicy": {"Attempts": 0}}, Resources={"CPU": 0})
    assert group_of(job).restart_policy == RestartPolicy(interval_ns=30 * MINUTE, delay_ns=15 * SECOND, mode="fail")
    assert task_of(job).resources.cpu == 0


def test_task_restart_is_merged_over_the_groups() -> None:
    policy = task_of(make(group={"RestartPolicy": {"Attempts": 9}}, RestartPolicy={"Delay": 1})).restart_policy
    assert policy is not None
    assert (policy.attempts, policy.delay_ns, policy.interval_ns) == (9, 1, 30 * MINUTE)


def test_scaling_and_count_fill_each_other() -> None:
    scaled = group_of(make(group={"Scaling": {"Min": 2, "Max": 5}}))
    assert scaled.count == 2
    assert scaled.scaling is not None
    assert scaled.scaling.target == {"Namespace": "default", "Job": "web", "Group": "g"}
    counted = group_of(make(group={"Count": 3, "Scaling": {"Max": 5}}))
    assert counted.scaling is not None
    assert (counted.scaling.min, counted.scaling.type) == (3, "horizontal")


def test_task_defaults() -> None:
    task = task_of(make())
    assert (task.resources.cpu, task.resources.memory_mb, task.kill_timeout_ns) == (100, 300, 5 * SECOND)
    assert task.log_config is not None
    assert (task.log_config.max_files, task.log_config.max_file_size_mb) == (10, 10)
    assert task.identity is not None
    assert (task.identity.name, task.identity.audience) == ("default", ("nomadproject.io",))
    assert task_of(make(Resources={"Cores": 2})).resources.cpu == 0


def test_an_identity_named_default_moves_to_its_place() -> None:
    task = task_of(make(Identities=[{"Name": "aws", "Audience": ["a"]}, {"Env": True}]))
    assert task.identity is not None
    assert task.identity.env
    assert [identity.name for identity in task.identities] == ["aws"]


def test_templates_artifacts_and_mounts() -> None:
    task = task_of(
        make(
            Templates=[{"ChangeMode": "signal"}, {"ChangeSignal": "sigusr1", "ChangeScript": {"Command": "x"}}],
            Artifacts=[{"GetterSource": "https://h/a/b.tgz?x=1", "GetterMode": "file"}, {"GetterSource": "x"}],
            VolumeMounts=[{"Volume": "v"}],
        )
    )
    first, second = task.templates
    assert (first.change_signal, first.perms, first.splay_ns, first.left_delim) == ("SIGHUP", "0644", 5 * SECOND, "{{")
    assert second.change_signal == "SIGUSR1"
    assert second.change_script is not None
    assert second.change_script.timeout_ns == 5 * SECOND
    assert [artifact.relative_dest for artifact in task.artifacts] == ["local/b.tgz", "local/"]
    assert task.volume_mounts[0].propagation_mode == "private"


def test_services_and_checks() -> None:
    services = [
        {"CheckRestart": {"Limit": 3}, "Checks": [{"Type": "http"}, {"CheckRestart": {"Grace": 5}}]},
        {"Name": "${JOB}-${TASKGROUP}-x", "Provider": "nomad"},
    ]
    job = make({"Namespace": "ops"}, {"Services": services}, Services=[{"Name": "${BASE}"}, {}])
    consul, nomad = group_of(job).services
    assert (consul.name, consul.provider, consul.address_mode, consul.namespace) == (
        "web-g",
        "consul",
        "auto",
        "default",
    )
    assert (nomad.name, nomad.namespace) == ("web-g-x", "ops")
    assert consul.checks[0].name == 'service: "web-g" check'
    restarts = [check.check_restart for check in consul.checks if check.check_restart]
    assert [(restart.limit, restart.grace_ns) for restart in restarts] == [(3, SECOND), (3, 5)]
    assert [service.name for service in task_of(job).services] == ["web-g-t", "web-g-t"]
    assert task_of(job).services[0].task_name == "t"


def test_networks_volumes_and_periodic() -> None:
    job = make(
        {"Type": "batch", "Periodic": {"Specs": ["@daily"]}, "ParameterizedJob": {}},
        {"Networks": [{"DynamicPorts": [{"Label": "a"}]}], "Volumes": {"data": {"Type": "host"}}, "Disconnect": {}},
    )
    assert group_of(job).networks[0].dynamic_ports[0].host_network == "default"
    assert group_of(job).volumes["data"].name == "data"
    assert job.periodic is not None
    assert (job.periodic.enabled, job.periodic.spec_type, job.periodic.time_zone) == (True, "cron", "UTC")
    assert job.parameterized_job is not None
    assert job.parameterized_job.payload == "optional"
    disconnect = group_of(job).disconnect
    assert disconnect is not None
    assert (disconnect.replace_, disconnect.reconcile) == (True, "best_score")


def test_placement_defaults() -> None:
    job = make({"Constraints": [{}], "Affinities": [{}], "Spreads": [{}]})
    assert job.constraints[0].operand == "="
    assert (job.affinities[0].operand, job.affinities[0].weight, job.spreads[0].weight) == ("=", 50, 50)


def test_the_input_stays_as_it_was() -> None:
    raw = {"ID": "a", "TaskGroups": [{"Name": "g", "Tasks": [{"Name": "t", "Config": {"x": [1]}}]}]}
    before = json.dumps(raw)
    fill_job_defaults(raw)
    assert json.dumps(raw) == before


def test_deprecated_keys_are_ignored() -> None:
    job = make({"ConsulToken": "x", "VaultToken": "y"}, LogConfig={"Enabled": False, "MaxFiles": 2})
    assert task_of(job).log_config is not None


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ([], "object"),
        ({"TaskGroups": "x"}, "Job.TaskGroups"),
        ({"Reschedule": {"Attempts": "x"}}, "ReschedulePolicy.Attempts"),
        ({"TaskGroups": [{"Services": [{"CheckRestart": {"Limit": "x"}}]}]}, "CheckRestart.Limit"),
    ],
)
def test_wrong_types_are_refused(job: Any, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        job_from_input(job)


def test_a_stored_job_can_be_sent_again() -> None:
    for job_type in ("service", "batch", "system", "sysbatch"):
        job = make({"Type": job_type})
        assert decode_job(encode(job)) == job
        assert decode_job(b'{"Job":' + encode(job) + b"}") == job


def test_a_bare_record_becomes_complete() -> None:
    job = canonicalize(Job(id="a", task_groups=(TaskGroup(name="g", tasks=(Task(name="t", driver="docker"),)),)))
    tasks = [{"Name": "t", "Driver": "docker"}]
    assert job == job_from_input({"ID": "a", "TaskGroups": [{"Name": "g", "Tasks": tasks}]})


@QUICK
@given(records(Job))
def test_canonicalize_is_idempotent(job: Job) -> None:
    once = canonicalize(job)
    assert canonicalize(once) == once


def test_input_form_has_every_key_and_null_for_what_was_not_said() -> None:
    form = input_form({"id": "a", "TaskGroups": [{"name": "g", "Services": [{"Name": "s"}]}]})
    assert set(form) == {*to_wire(Job()), "Reschedule", "Migrate"}
    assert form["Priority"] is None
    assert form["TaskGroups"][0]["Services"][0]["CheckRestart"] is None
    assert job_from_input(form) == job_from_input(
        {"ID": "a", "TaskGroups": [{"Name": "g", "Services": [{"Name": "s"}]}]}
    )
