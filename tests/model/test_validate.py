"""What is wrong with a job, in which words."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from model_strategies import records

from nomadpy.model.admission import admit
from nomadpy.model.canonical import canonicalize, job_from_input
from nomadpy.model.job import Job
from nomadpy.model.time import HOUR, SECOND
from nomadpy.model.validate import JobLimits, multi_error, validate

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
GROUP = "TaskGroups.0"
TASK = "TaskGroups.0.Tasks.0"
GOOD: dict[str, Any] = {
    "ID": "web",
    "TaskGroups": [{"Name": "g", "Tasks": [{"Name": "t", "Driver": "raw_exec", "Config": {"command": "x"}}]}],
}
NETWORK = {"DynamicPorts": [{"Label": "http"}]}
CHECK = {"Type": "http", "Path": "/", "Interval": SECOND, "Timeout": SECOND}
SERVICE = {"Name": "s", "Provider": "nomad", "PortLabel": "http"}


def problems(changes: dict[str, Any], limits: JobLimits = JobLimits()) -> str:
    """The problems, as one text, of a good job with some values changed; a key is a path such as TaskGroups.0.Name."""
    raw = copy.deepcopy(GOOD)
    for path, value in changes.items():
        at: Any = raw
        *parents, last = path.split(".")
        for part in parents:
            at = at[int(part)] if part.isdecimal() else at[part]
        at[last] = value
    found = validate(job_from_input(raw), limits=limits)
    return multi_error(found) if found else ""


@pytest.mark.parametrize("job_type", ["service", "batch", "system", "sysbatch"])
def test_a_plain_job_of_every_type_is_fine(job_type: str) -> None:
    assert problems({"Type": job_type}) == ""


JOB_CASES: list[tuple[dict[str, Any], str]] = [
    ({"ID": ""}, "Missing job ID"),
    ({"ID": "a b"}, "Job ID contains a space"),
    ({"ID": "a\0"}, "Job ID contains a null character"),
    ({"Name": ""}, "Missing job name"),
    ({"Type": "cron"}, 'Invalid job type: "cron"'),
    ({"Priority": 101}, "job priority must be between [1, 100]"),
    ({"Priority": -1}, "job priority must be between [1, 100]"),
    ({"Datacenters": [""]}, "Job datacenter must be non-empty string"),
    ({"TaskGroups": []}, "Missing job task groups"),
    ({f"{GROUP}.Count": 50_001}, "total count was greater than configured job_max_count: 50001 > 50000"),
    ({"Type": "system", f"{GROUP}.Count": 2}, "Count cannot exceed 1 with system scheduler"),
    ({"Type": "system", "Affinities": [{}]}, "System jobs may not have an affinity block"),
    ({"Type": "system", "Spreads": [{}]}, "System jobs may not have a spread block"),
    ({"Periodic": {"Specs": ["@daily"]}}, 'Periodic can only be used with "batch" or "sysbatch" scheduler'),
    ({"ParameterizedJob": {}}, 'Parameterized job can only be used with "batch" or "sysbatch" scheduler'),
    ({"TaskGroups.0.Name": ""}, "Job task group 1 missing name"),
    ({"UI": {"Description": "x" * 1001}}, "UI description must be under 1000 characters"),
]
PERIODIC = {"Type": "batch"}
LAUNCH_CASES: list[tuple[dict[str, Any], str]] = [
    ({**PERIODIC, "Periodic": {}}, "Must specify a spec"),
    ({**PERIODIC, "Periodic": {"Spec": "@daily", "Specs": ["@daily"]}}, "Only cron or crons may be used"),
    ({**PERIODIC, "Periodic": {"Specs": ["61 * * * *"]}}, 'Invalid cron spec "61 * * * *": bad minute'),
    ({**PERIODIC, "Periodic": {"Spec": "a"}}, "missing field(s)"),
    ({**PERIODIC, "Periodic": {"Spec": "@daily", "TimeZone": "Mars/Base"}}, 'Invalid time zone "Mars/Base"'),
    ({**PERIODIC, "ParameterizedJob": {"Payload": "some"}}, 'Unknown payload requirement: "some"'),
    (
        {**PERIODIC, "ParameterizedJob": {"MetaRequired": ["b", "a"], "MetaOptional": ["a", "b"]}},
        "Required and optional meta keys should be disjoint. Following keys exist in both: [a b]",
    ),
]
CONSTRAINT_CASES: list[tuple[dict[str, Any], str]] = [
    ({"Constraints": [{"LTarget": "a", "RTarget": "b", "Operand": "~"}]}, 'Unknown constraint type "~"'),
    ({"Constraints": [{"LTarget": "a"}]}, 'Operator "=" requires an RTarget'),
    ({"Constraints": [{"RTarget": "a"}]}, "No LTarget provided but is required by constraint"),
    ({"Constraints": [{"LTarget": "${node.colour}", "RTarget": "a"}]}, 'unsupported attribute "${node.colour}"'),
    ({"Constraints": [{"LTarget": "${attr.x", "RTarget": "a"}]}, "missing a closing brace"),
    ({"Constraints": [{"LTarget": "$attr.x}", "RTarget": "a"}]}, "missing an opening brace"),
    ({"Constraints": [{"LTarget": "a", "RTarget": "(", "Operand": "regexp"}]}, "Regular expression failed to compile"),
    ({"Constraints": [{"LTarget": "a", "RTarget": "(?=a)", "Operand": "regexp"}]}, "error parsing regexp"),
    ({"Constraints": [{"LTarget": "a", "RTarget": "> x", "Operand": "version"}]}, "Version constraint is invalid"),
    ({"Constraints": [{"LTarget": "a", "RTarget": "~> 1.2.3", "Operand": "semver"}]}, "Semver constraint is invalid"),
    ({"Constraints": [{"LTarget": "a", "Operand": "set_contains"}]}, "Set contains constraint requires an RTarget"),
    ({"Constraints": [{"LTarget": "a", "RTarget": "b", "Operand": "is_set"}]}, "does not support an RTarget"),
    ({"Constraints": [{"LTarget": "a", "RTarget": "0", "Operand": "distinct_property"}]}, "allowed count of 1 or"),
    ({"Constraints": [{"LTarget": "a", "RTarget": "x", "Operand": "distinct_property"}]}, "to uint64"),
    ({"Constraints": [{"RTarget": "maybe", "Operand": "distinct_hosts"}]}, "as a boolean"),
    (
        {f"{TASK}.Constraints": [{"Operand": "distinct_hosts"}]},
        "Constraint 1 has disallowed Operand at task level: distinct_hosts",
    ),
    ({"Affinities": [{"LTarget": "a", "RTarget": "b", "Weight": 0}]}, "Affinity weight cannot be zero"),
    ({"Affinities": [{"LTarget": "a", "RTarget": "b", "Weight": 101}]}, "within the range [-100,100]"),
    ({"Affinities": [{"LTarget": "a", "Operand": "is_set"}]}, 'Unknown affinity operator "is_set"'),
    ({"Spreads": [{}]}, "Missing spread attribute"),
    ({"Spreads": [{"Attribute": "a", "Weight": 0}]}, "positive weight from 0 to 100"),
    ({"Spreads": [{"Attribute": "a", "SpreadTarget": [{"Value": "x", "Percent": 101}]}]}, "between 0 and 100"),
    (
        {
            "Spreads": [
                {"Attribute": "a", "SpreadTarget": [{"Value": "x", "Percent": 60}, {"Value": "x", "Percent": 60}]}
            ]
        },
        "Sum of spread target percentages must not be greater than 100%; got 120%",
    ),
]
FIVE_IN_A_MINUTE = {"Attempts": 5, "Interval": 60 * SECOND, "Unlimited": False, "Delay": 10 * SECOND}
POLICY_CASES: list[tuple[dict[str, Any], str]] = [
    ({f"{GROUP}.Update": {"AutoPromote": True}}, "Auto Promote requires a Canary count greater than zero"),
    ({"Type": "system", f"{GROUP}.Update": {"Canary": 101}}, "can not be greater than 100: 101 > 100"),
    ({f"{GROUP}.Update": {"HealthyDeadline": HOUR}}, "Healthy deadline must be less than progress deadline"),
    ({f"{GROUP}.Update": {"MinHealthyTime": HOUR}}, "Minimum healthy time must be less than healthy deadline"),
    ({f"{GROUP}.Update": {"HealthCheck": "x"}}, 'Invalid health check given: "x"'),
    ({f"{GROUP}.Update": {"Stagger": 0}}, "Stagger must be greater than zero"),
    ({f"{GROUP}.Update": {"MaxParallel": -1}}, "Max parallel can not be less than zero: -1 < 0"),
    ({"Type": "batch", "Update": {"MaxParallel": 1}}, 'Job type "batch" does not allow update block'),
    ({"Type": "batch", f"{GROUP}.Migrate": {}}, 'Job type "batch" does not allow migrate block'),
    ({f"{GROUP}.Migrate": {"HealthCheck": "manual"}}, 'Invalid HealthCheck: "manual"'),
    (
        {"Type": "sysbatch", "Reschedule": {"Attempts": 1}},
        "System or sysbatch jobs should not have a reschedule policy",
    ),
    ({f"{GROUP}.RestartPolicy": {"Mode": "again"}}, 'Unsupported restart mode: "again"'),
    ({f"{GROUP}.RestartPolicy": {"Interval": SECOND}}, "Interval can not be less than 5s (got 1s)"),
    ({f"{GROUP}.RestartPolicy": {"Mode": "delay", "Attempts": 0}}, "with 0 attempts is ambiguous"),
    (
        {f"{GROUP}.RestartPolicy": {"Attempts": 9, "Interval": 10 * SECOND, "Delay": 2 * SECOND}},
        "Nomad can't restart the TaskGroup 9 times in an interval of 10s with a delay of 2s",
    ),
    ({f"{GROUP}.ReschedulePolicy": {"DelayFunction": "x"}}, 'Invalid delay function "x"'),
    ({f"{GROUP}.ReschedulePolicy": {"Attempts": 3, "Interval": HOUR}}, "Unlimited = true is ambiguous"),
    ({f"{GROUP}.ReschedulePolicy": {"Delay": SECOND}}, "Delay cannot be less than 5s (got 1s)"),
    ({f"{GROUP}.ReschedulePolicy": {"MaxDelay": 6 * SECOND}}, "Max Delay cannot be less than Delay 30s"),
    (
        {
            f"{GROUP}.ReschedulePolicy": {
                "Attempts": 5,
                "Interval": 60 * SECOND,
                "Unlimited": False,
                "Delay": 10 * SECOND,
            }
        },
        "Nomad can only make 2 attempts in 1m0s with initial delay 10s",
    ),
    (
        {
            f"{GROUP}.ReschedulePolicy": {
                "Attempts": 5,
                "Interval": 60 * SECOND,
                "Unlimited": False,
                "Delay": 10 * SECOND,
            }
        },
        "Set the interval to at least 5m10s to accommodate 5 attempts",
    ),
    ({f"{GROUP}.Disconnect": {"LostAfter": -1}}, "lost_after cannot be a negative duration"),
    ({f"{GROUP}.Disconnect": {"Reconcile": "x"}}, "reconcile must be one of"),
    ({f"{GROUP}.Disconnect": {"LostAfter": 1, "StopOnClientAfter": 1}}, "cannot be set simultaneously"),
    ({f"{GROUP}.Scaling": {"Max": 0}}, "task group count must not be greater than maximum count"),
    ({f"{GROUP}.Scaling": {"Min": 5, "Max": 3}}, "maximum count must not be less than minimum count"),
    ({"Type": "system", f"{GROUP}.Scaling": {"Max": 1}}, "job type system do not support scaling blocks"),
]
GROUP_CASES: list[tuple[dict[str, Any], str]] = [
    ({f"{GROUP}.Tasks": []}, "Missing tasks for task group"),
    ({f"{GROUP}.Count": -1}, "Task group count can't be negative"),
    ({f"{GROUP}.Tasks": [{"Name": "a", "Leader": True}, {"Name": "b", "Leader": True}]}, "Only one task may be marked"),
    ({f"{TASK}.Lifecycle": {"Hook": "prestart"}}, "Task group g must have at least one main task"),
    ({f"{GROUP}.Tasks": [{"Name": "a"}, {"Name": "a"}]}, "Task 2 redefines 'a' from task 1"),
    ({f"{GROUP}.EphemeralDisk": {"SizeMB": 1}}, "minimum DiskMB value is 10; got 1"),
    ({f"{GROUP}.ShutdownDelay": -1}, "ShutdownDelay must be a positive value"),
    ({f"{GROUP}.MaxRunDuration": 1}, "max_run_duration can only be used in batch and sysbatch jobs"),
    ({"Type": "batch", f"{GROUP}.MaxRunDuration": 0}, "max_run_duration must be greater than zero"),
    (
        {f"{GROUP}.Networks": [{"DynamicPorts": [{"Label": "a"}, {"Label": "a"}]}]},
        "Port label a already in use by taskgroup network:0",
    ),
    (
        {f"{GROUP}.Networks": [{"ReservedPorts": [{"Label": "a", "Value": 80}, {"Label": "b", "Value": 80}]}]},
        "Static port 80 already reserved by taskgroup network:0:a",
    ),
    (
        {f"{GROUP}.Networks": [{"ReservedPorts": [{"Label": "a", "Value": 65_536}]}]},
        "Port a (65536) cannot be greater than 65535",
    ),
    ({f"{GROUP}.Networks": [{"DynamicPorts": [{"Label": "a", "To": 70_000}]}]}, "cannot be mapped to a port (70000)"),
    ({f"{GROUP}.Networks": [{"Hostname": "a_b"}]}, "Hostname is not a valid DNS name"),
    ({f"{GROUP}.Networks": [{"CNI": {"Args": {"a": "b;"}}}]}, 'invalid ";" character in CNI arg'),
    ({f"{GROUP}.Volumes": {"v": {"Type": "host"}}}, "volume has an empty source"),
    ({f"{GROUP}.Volumes": {"v": {"Type": "nfs", "Source": "x"}}}, 'volume has unrecognized type "nfs"'),
    ({f"{GROUP}.Volumes": {"v": {"Type": "csi", "Source": "x"}}}, "CSI volumes must have an access mode"),
    (
        {f"{GROUP}.Volumes": {"v": {"Type": "host", "Source": "x", "AccessMode": "single-node-reader-only"}}},
        "single-node-reader-only volumes must be read-only",
    ),
    (
        {"Type": "system", f"{GROUP}.Volumes": {"v": {"Type": "host", "Source": "x", "PerAlloc": True}}},
        "volume cannot be per_alloc for system jobs",
    ),
]
TASK_CASES: list[tuple[dict[str, Any], str]] = [
    ({f"{TASK}.Driver": ""}, "Missing task driver"),
    ({f"{TASK}.Name": "alloc"}, 'Task cannot be named "alloc"'),
    ({f"{TASK}.Name": "a/b"}, "Task name cannot include slashes"),
    ({f"{TASK}.Name": ".."}, 'Task cannot be named ".."'),
    ({f"{TASK}.KillTimeout": -1}, "KillTimeout must be a positive value"),
    ({f"{TASK}.KillTimeout": HOUR}, "KillTimeout (1h0m0s) longer than the group's ProgressDeadline (10m0s)"),
    ({f"{TASK}.Resources": {"CPU": 0}}, "minimum CPU value is 1; got 0"),
    ({f"{TASK}.Resources": {"MemoryMB": 1}}, "minimum MemoryMB value is 10; got 1"),
    ({f"{TASK}.Resources": {"MemoryMB": 1 << 60}}, "maximum MemoryMB value is"),
    ({f"{TASK}.Resources": {"CPU": 5, "Cores": 1}}, "Task can only ask for 'cpu' or 'cores' resource, not both."),
    ({f"{TASK}.Resources": {"MemoryMaxMB": 20}}, "MemoryMaxMB value (20) should be larger than MemoryMB value (300)"),
    ({f"{TASK}.Resources": {"DiskMB": 20}}, "Task can't ask for disk resources"),
    ({f"{TASK}.Resources": {"SecretsMB": 301}}, "SecretsMB value (301) must be between 0 and"),
    ({f"{TASK}.Resources": {"Devices": [{"Count": 1}]}}, "device name must be given as one of the following"),
    ({f"{TASK}.Resources": {"NUMA": {"Devices": ["gpu"]}}}, 'numa device "gpu" not requested as task resource'),
    ({f"{TASK}.LogConfig": {"MaxFiles": 0}}, "minimum number of files is 1; got 0"),
    (
        {f"{TASK}.LogConfig": {"MaxFiles": 30}},
        "log storage (300 MB) must be less than requested disk capacity (300 MB)",
    ),
    ({f"{TASK}.Lifecycle": {"Hook": "midway"}}, "invalid hook: midway"),
    ({f"{TASK}.VolumeMounts": [{"Volume": "v"}]}, "Volume Mount (0) references undefined volume v"),
    ({f"{TASK}.VolumeMounts": [{"PropagationMode": "x"}]}, 'invalid propagation mode: "x"'),
    ({f"{TASK}.Templates": [{"DestPath": "local/a"}]}, "Must specify a source path or have an embedded template"),
    ({f"{TASK}.Templates": [{"EmbeddedTmpl": "x"}]}, "Must specify a destination for the template"),
    ({f"{TASK}.Templates": [{"EmbeddedTmpl": "x", "DestPath": "../../x"}]}, "destination escapes allocation directory"),
    ({f"{TASK}.Templates": [{"ChangeMode": "x"}]}, 'Invalid change mode "x"'),
    ({f"{TASK}.Templates": [{"ChangeMode": "signal", "Envvars": True}]}, "cannot use signals with env var templates"),
    ({f"{TASK}.Templates": [{"ChangeMode": "script"}]}, "must specify change script configuration value"),
    ({f"{TASK}.Templates": [{"Perms": "0999"}]}, 'Failed to parse "0999" as octal'),
    ({f"{TASK}.Templates": [{"Wait": {"Min": 2, "Max": 1}}]}, "wait min 2ns is greater than max 1ns"),
    ({f"{TASK}.Templates": [{"DestPath": "a"}, {"DestPath": "a"}]}, "Template 2 has same destination as 1"),
    ({f"{TASK}.Artifacts": [{}]}, "source must be specified"),
    ({f"{TASK}.Artifacts": [{"RelativeDest": "../../.."}]}, "artifact destination escapes allocation directory"),
    ({f"{TASK}.Artifacts": [{"GetterMode": "x"}]}, 'invalid artifact mode "x"; must be one of: any, file, dir'),
    ({f"{TASK}.Artifacts": [{"GetterOptions": {"checksum": "md5:ab"}}]}, "it must have 32 hexadecimal digits"),
    ({f"{TASK}.Artifacts": [{"GetterOptions": {"checksum": "crc:ab"}}]}, 'unsupported checksum type "crc"'),
    ({f"{TASK}.DispatchPayload": {"File": "../../x"}}, "destination escapes task directory"),
    ({f"{TASK}.Identities": [{"Name": "a b"}]}, 'invalid name "a b". Must match regex'),
    ({f"{TASK}.Identities": [{"Name": "a", "ChangeMode": "signal"}]}, "change_signal must be specified"),
    ({f"{TASK}.Identity": {"TTL": 5}}, "ttl for default identity not yet supported"),
    ({f"{TASK}.Vault": {"ChangeMode": "x"}}, 'Unknown change mode "x"'),
    ({f"{TASK}.Secrets": [{"Name": "a", "Provider": "nomad"}]}, "secret path cannot be empty"),
    ({f"{TASK}.Secrets": [{"Name": "a", "Provider": "vault", "Path": "p"}]}, "require a vault block"),
    ({f"{TASK}.Actions": [{"Name": "a"}]}, "command cannot be empty"),
    ({f"{TASK}.Schedule": {}}, "task schedules requires Nomad Enterprise"),
    ({f"{TASK}.CSIPluginConfig": {"Type": "node"}}, "CSIPluginConfig must have a non-empty PluginID"),
]


def service_case(**service: Any) -> dict[str, Any]:
    return {f"{GROUP}.Networks": [NETWORK], f"{GROUP}.Services": [{**SERVICE, **service}]}


def check_case(provider: str = "nomad", **check: Any) -> dict[str, Any]:
    return service_case(Provider=provider, Checks=[{**CHECK, **check}])


SERVICE_CASES: list[tuple[dict[str, Any], str]] = [
    (service_case(Name="a_b"), "Service name must be valid per RFC 1123"),
    (service_case(Name="a" * 64), "no longer than 63 characters"),
    (service_case(Provider="etcd"), 'Service provider must be "consul" or "nomad"'),
    (service_case(PortLabel="x"), 'port label "x" referenced by services s does not exist'),
    (service_case(PortLabel="80"), 'port label "80" referenced by services s does not exist'),
    (service_case(AddressMode="x"), 'Service address_mode must be one of "auto", "host"'),
    (service_case(AddressMode="host", Address="1.2.3.4"), 'address_mode must be "auto" if address is set'),
    (service_case(AddressMode="driver"), 'cannot use address_mode="driver"'),
    (service_case(Connect={"Native": True}), "Service with provider nomad cannot include Connect blocks"),
    (service_case(TaskName="x"), 'refers to task "x", which is not in the group'),
    (
        {f"{GROUP}.Services": [{"Name": "a", "Provider": "nomad"}, {"Name": "b", "Provider": "consul"}]},
        "Multiple service providers used: task group services must use the same provider",
    ),
    ({f"{GROUP}.Services": [{"Name": "a"}, {"Name": "a"}]}, "Services are not unique: group->a:"),
    (check_case(Type="script"), 'invalid check type ("script"), must be one of tcp, http'),
    (check_case(Interval=0), "missing required value interval"),
    (check_case(Timeout=1), "timeout (1ns) cannot be lower than 1s"),
    (check_case(Path=""), "http type must have http path"),
    (check_case(Path="http://x/y"), "http type must have a relative http path"),
    (check_case(Method="FETCH"), 'method type "FETCH" not supported'),
    (check_case(OnUpdate="sometimes"), "on_update must be one of"),
    (check_case(OnUpdate="ignore", CheckRestart={"Limit": 1}), "is not compatible with check_restart"),
    (check_case(CheckRestart={"Limit": -1}), "limit must be greater than or equal to 0 but found -1"),
    (check_case(TLSServerName="x"), "tls_server_name only supported for Consul service checks"),
    (check_case("consul", Type="script"), "script type must have a valid script path"),
    (check_case("consul", Notes="x" * 256), "notes must not be longer than 255 characters"),
    (check_case("consul", InitialStatus="well"), "invalid initial check state (well)"),
    (service_case(PortLabel="", Checks=[{**CHECK, "Name": "c"}]), 'check "c" is missing a port'),
]
ALL_CASES = JOB_CASES + LAUNCH_CASES + CONSTRAINT_CASES + POLICY_CASES + GROUP_CASES + TASK_CASES + SERVICE_CASES


@pytest.mark.parametrize(("changes", "message"), ALL_CASES, ids=[message[:50] for _, message in ALL_CASES])
def test_each_rule_says_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    assert message in problems(changes)


PASSED_ON = {"Label": "a", "To": -1}
ALLOWED: list[dict[str, Any]] = [
    {"ID": "a/b/ü"},
    {f"{GROUP}.Count": 0},
    {"Constraints": [{"Operand": "distinct_hosts"}, {"LTarget": "${meta.rack}", "Operand": "distinct_property"}]},
    {"Constraints": [{"LTarget": "${attr.x}", "Operand": "is_set"}]},
    {"Constraints": [{"LTarget": "${attr.v}", "RTarget": ">= 1.2, < 2.0-beta", "Operand": "version"}]},
    {"Constraints": [{"LTarget": "${attr.v}", "RTarget": r"^\d+[[:alpha:]]\z", "Operand": "regexp"}]},
    {f"{GROUP}.ReschedulePolicy": {"Attempts": 0, "Unlimited": False, "Delay": 0}},
    {f"{GROUP}.ReschedulePolicy": {"Attempts": 3, "Unlimited": False, "Interval": HOUR}},
    {f"{GROUP}.Update": {"MaxParallel": 0, "ProgressDeadline": 0}},
    {"Type": "batch", "Periodic": {"Enabled": False}},
    {"Type": "batch", "Periodic": {"Specs": ["0 0 L * ?", "5 0 0 1 JAN MON-FRI 2030"], "TimeZone": "Europe/Berlin"}},
    {
        f"{GROUP}.Networks": [
            {"ReservedPorts": [{"Label": "a", "Value": 80}, {"Label": "b", "Value": 80, "HostNetwork": "p"}]}
        ]
    },
    {
        f"{GROUP}.Networks": [
            {"Mode": "bridge", "Hostname": "${NOMAD_ALLOC_ID}", "DynamicPorts": [{"Label": "a", "To": -1}]}
        ]
    },
    {f"{TASK}.Templates": [{"EmbeddedTmpl": "x", "DestPath": "${NOMAD_TASK_DIR}/a"}]},
    {f"{TASK}.Resources": {"MemoryMaxMB": -1}},
    {f"{TASK}.Artifacts": [{"GetterSource": "x", "GetterOptions": {"checksum": "sha256:" + "a" * 64}}]},
    service_case(Checks=[CHECK, {**CHECK, "Type": "tcp", "Name": "other"}]),
    service_case(AddressMode="alloc", PortLabel="8080"),
    service_case(Name="${NOMAD_META_x}-api"),
    {
        f"{GROUP}.Volumes": {"v": {"Type": "host", "Source": "x"}},
        f"{TASK}.VolumeMounts": [{"Volume": "v", "Destination": "/v"}],
    },
    {f"{TASK}.Identities": [{"Name": "aws", "Audience": ["a"], "TTL": HOUR, "File": True}]},
]


@pytest.mark.parametrize("changes", ALLOWED, ids=str)
def test_what_the_rules_allow(changes: dict[str, Any]) -> None:
    assert problems(changes) == ""


def test_limits_come_from_the_configuration() -> None:
    limits = JobLimits(max_priority=200, max_count=3)
    assert problems({"Priority": 150}, limits) == ""
    assert "4 > 3" in problems({f"{GROUP}.Count": 4}, limits)


def test_problems_are_nested_like_nomads() -> None:
    assert problems({f"{TASK}.Driver": ""}) == (
        "1 error occurred:\n\t* Task group g validation failed: 1 error occurred:\n\t* "
        "Task t validation failed: 1 error occurred:\n\t* Missing task driver\n\n\n\n\n\n"
    )
    assert multi_error(["a", "b"]) == "2 errors occurred:\n\t* a\n\t* b\n\n"


def test_all_problems_are_found_at_once() -> None:
    text = problems({"ID": "a b", "Priority": 0, f"{GROUP}.Count": -1, f"{TASK}.Driver": ""})
    for message in ("contains a space", "can't be negative", "Missing task driver"):
        assert message in text


@QUICK
@given(records(Job))
def test_any_job_is_judged_without_an_accident(job: Job) -> None:
    for candidate in (job, canonicalize(job)):
        assert all(isinstance(problem, str) for problem in validate(candidate))
        admit(candidate)
