"""A hand-written job with every block: what reaches the API's JSON, written down by hand."""

from __future__ import annotations

import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from nomadpy.jobspec import hcl, parse_text, problems
from nomadpy.jobspec.hcl.syntax import ObjectExpression
from nomadpy.jobspec.schema.job import JOB
from nomadpy.jobspec.schema.rows import Block
from nomadpy.model.canonical import job_from_input

FILE = Path(__file__).with_name("everything.nomad.hcl")
S = 1_000_000_000

MAIN, SRV = "TaskGroups 1", "TaskGroups 1 Tasks 0"
EXPECTED: list[tuple[str, Any]] = [
    ("ID", "every/thing"),
    ("Name", "Everything"),
    ("Datacenters", ["dc1", "dc-*"]),
    ("AllAtOnce", True),
    ("Meta", {"owner.name": "ops", "number": "3"}),
    ("Constraints 0", {"LTarget": "${attr.kernel.name}", "RTarget": "linux"}),
    ("Constraints 1", {"LTarget": "${attr.nomad.version}", "Operand": "version", "RTarget": ">= 1.4"}),
    ("Constraints 2", {"LTarget": "${meta.rack}", "Operand": "distinct_property", "RTarget": "2"}),
    ("Constraints 3", {"Operand": "distinct_hosts", "RTarget": "true"}),
    ("Constraints 4", {"LTarget": "${meta.ssd}", "Operand": "is_set"}),
    ("Affinities 0", {"LTarget": "${node.class}", "Operand": "regexp", "RTarget": "^fast", "Weight": -20}),
    ("Spreads 0 SpreadTarget", [{"Value": "dc1", "Percent": 70}, {"Value": "dc2", "Percent": 30}]),
    ("Update Canary", 1),
    ("Update ProgressDeadline", 3600 * S),
    ("Reschedule DelayFunction", "fibonacci"),
    ("Multiregion Strategy", {"MaxParallel": 1, "OnFailure": "fail_all"}),
    ("Multiregion Regions 1 Datacenters", ["south-1"]),
    ("UI Links", [{"Label": "Docs", "Url": "https://example.org"}]),
    ("TaskGroups 0 Name", "lone"),
    ("TaskGroups 0 Tasks 0 Config", {"command": "true"}),
    ("TaskGroups 0 Tasks 0 Vault Role", "job"),
    ("TaskGroups 0 Tasks 0 Vault Env", True),
    (f"{MAIN} StopAfterClientDisconnect", 90 * S),
    (f"{MAIN} Networks 0 DynamicPorts", [{"Label": "http", "To": -1, "HostNetwork": "public"}]),
    (f"{MAIN} Networks 0 ReservedPorts", [{"Label": "admin", "Value": 9000, "To": 90, "IgnoreCollision": True}]),
    (f"{MAIN} Networks 0 CNI", {"Args": {"key.1": "v"}}),
    (f"{MAIN} Networks 0 DNS Options", ["ndots:2"]),
    (f"{MAIN} Volumes data Name", "data"),
    (f"{MAIN} Volumes data MountOptions", {"FSType": "ext4", "MountFlags": ["noatime"]}),
    (f"{MAIN} RestartPolicy RenderTemplates", True),
    (f"{MAIN} Disconnect StopOnClientAfter", 7200 * S),
    (f"{MAIN} EphemeralDisk", {"SizeMB": 500, "Sticky": True, "Migrate": True}),
    (f"{MAIN} Scaling Type", "horizontal"),
    (f"{MAIN} Scaling Policy cooldown", "1m"),
    (
        f"{MAIN} Scaling Policy check",
        [{"load": [{"source": "prometheus", "strategy": [{"target-value": [{"target": 70}]}]}]}],
    ),
    (f"{MAIN} Services 0 PortLabel", "http"),
    (f"{MAIN} Services 0 TaskName", "srv"),
    (f"{MAIN} Services 0 TaggedAddresses", {"wan": "1.2.3.4"}),
    (f"{MAIN} Services 0 Identity", {"Audience": ["consul.io"], "TTL": 3600 * S}),
    (f"{MAIN} Services 0 Checks 0 Timeout", 2 * S),
    (f"{MAIN} Services 0 Checks 0 Header", {"X-Probe": ["1", "2"]}),
    (f"{MAIN} Services 0 Checks 0 TLSServerName", "app"),
    (f"{MAIN} Services 0 Checks 0 CheckRestart", {"Limit": 3, "Grace": 10 * S, "IgnoreWarnings": True}),
    (f"{MAIN} Services 0 Checks 1 GRPCUseTLS", True),
    (f"{MAIN} Services 0 Connect SidecarService DisableDefaultTCPCheck", True),
    (f"{MAIN} Services 0 Connect SidecarService Proxy Upstreams 0 MeshGateway Mode", "local"),
    (
        f"{MAIN} Services 0 Connect SidecarService Proxy TransparentProxy",
        {
            "UID": "101",
            "OutboundPort": 15001,
            "ExcludeInboundPorts": ["22", "admin"],
            "ExcludeOutboundPorts": [443, 80],
            "ExcludeOutboundCIDRs": ["10.0.0.0/8"],
            "ExcludeUIDs": ["1"],
            "NoDNS": True,
        },
    ),
    (f"{MAIN} Services 0 Connect SidecarTask LogConfig", {"MaxFiles": 1}),
    (f"{MAIN} Services 1 Connect Gateway Proxy EnvoyGatewayBindAddresses lan Port", 8443),
    (f"{MAIN} Services 1 Connect Gateway Ingress Listeners 0 Services 0 RequestHeaders Remove", ["z"]),
    (f"{MAIN} Services 1 Connect Gateway Terminating Services 0 CAFile", "ca.pem"),
    (f"{MAIN} Services 1 Connect Gateway Mesh", {}),
    (f"{SRV} KillTimeout", 20 * S),
    (f"{SRV} ShutdownDelay", 1_500_000_000),
    (f"{SRV} Config image", "registry.example/app:1.2"),
    (f"{SRV} Config labels", [{"team": "a"}]),
    (f"{SRV} Config sysctl", [{"net.core.somaxconn": "1024"}]),
    (f"{SRV} Config mount 0 tmpfs_options", [{"size": 1_500_000}]),
    (f"{SRV} Config mount 1 type", "bind"),
    (f"{SRV} Env", {"PORT": "${NOMAD_PORT_http}", "DEBUG": "true"}),
    (f"{SRV} Resources SecretsMB", 5),
    (f"{SRV} Resources MemoryMaxMB", 1024),
    (f"{SRV} Resources Devices 0 Name", "nvidia/gpu"),
    (f"{SRV} Resources Devices 0 Affinities 0 Operand", "set_contains_any"),
    (f"{SRV} Resources NUMA", {"Affinity": "prefer", "Devices": ["nvidia/gpu"]}),
    (f"{SRV} Templates 0 EmbeddedTmpl", 'key = {{ key "x" }}\nliteral = ${HOME}\n'),
    (f"{SRV} Templates 0 Splay", 0),
    (f"{SRV} Templates 0 Wait", {"Min": 2 * S, "Max": 10 * S}),
    (f"{SRV} Templates 0 ChangeScript Timeout", 3 * S),
    (f"{SRV} Artifacts 0 GetterOptions", {"checksum": "md5:0123", "depth": "1"}),
    (f"{SRV} Artifacts 0 GetterHeaders", {"User-Agent": "x"}),
    (f"{SRV} VolumeMounts 0 SELinuxLabel", "Z"),
    (f"{SRV} LogConfig", {"MaxFiles": 3, "MaxFileSizeMB": 4, "Disabled": True}),
    (f"{SRV} Identity", {"Env": True, "File": True}),
    (f"{SRV} Identities 0 Audience", ["sts"]),
    (f"{SRV} Identities 0 TTL", 900 * S),
    (f"{SRV} Vault Role", "own"),
    (f"{SRV} Vault Env", False),
    (f"{SRV} Secrets 0 Name", "api"),
    (f"{SRV} Secrets 1 Config", {"engine": "kv_v2"}),
    (f"{SRV} Actions", [{"Name": "flush", "Command": "/bin/flush", "Args": ["--all"]}]),
    (f"{SRV} ScalingPolicies 0 Type", "vertical_cpu"),
    (f"{SRV} CSIPluginConfig HealthTimeout", 60 * S),
    (f"{SRV} Schedule Cron", {"Start": "0 0 8 * * *", "End": "0 18", "Timezone": "UTC"}),
    (f"{MAIN} Tasks 1 Lifecycle", {"Hook": "prestart", "Sidecar": False}),
    (f"{MAIN} Tasks 1 DispatchPayload File", "in.txt"),
]


@pytest.fixture(scope="module")
def raw() -> dict[str, Any]:
    return parse_text(FILE.read_text(), filename=FILE.name)


@pytest.mark.parametrize(("path", "wanted"), EXPECTED, ids=[path for path, _ in EXPECTED])
def test_value(raw: dict[str, Any], path: str, wanted: Any) -> None:
    value: Any = raw
    for step in path.split():
        value = value[int(step) if step.isdigit() else step]
    assert value == wanted


def test_nothing_is_left_of_what_is_handed_down(raw: dict[str, Any]) -> None:
    assert not {"Vault", "Secrets", "tasks", "label"} & raw.keys()
    assert not {"Vault", "Secrets"} & raw["TaskGroups"][1].keys()


def test_the_model_takes_it(raw: dict[str, Any]) -> None:
    job = job_from_input(raw)
    assert job.task_groups[1].tasks[0].resources.devices[0].count == 2
    assert job.task_groups[1].update is not None
    assert job.task_groups[1].update.canary == 1


def test_every_block_is_in_the_file() -> None:
    text = FILE.read_text()
    missing = {name for name in block_names(JOB) if f"{name} " not in text}
    assert missing == {"reserved_ports", "parameterized", "periodic", "response_headers", "sds"}


def test_the_same_job_in_yaml() -> None:
    text = yaml.safe_dump(as_yaml(hcl.parse(FILE.read_text(), FILE.name)), sort_keys=False)
    assert parse_text(text, filename="every.yaml") == parse_text(FILE.read_text())


def test_it_is_read_quickly() -> None:
    text = FILE.read_text()

    def seconds() -> float:
        start = time.perf_counter()
        problems(job_from_input(parse_text(text)))
        return time.perf_counter() - start

    # The best of several runs, because other programs may be busy; 300 lines are to take at most 50 ms.
    assert min(seconds() for _ in range(10)) < 0.05 * len(text.splitlines()) / 300


def as_yaml(body: hcl.Body) -> dict[str, Any]:
    """A native body as the plain data that its YAML form holds."""
    made: dict[str, Any] = {name: value_as_yaml(each.expression) for name, each in body.attributes.items()}
    for block in body.blocks:
        inner: Any = as_yaml(block.body)
        for label in reversed(block.labels):
            inner = {label: [inner]}
        made.setdefault(block.type, []).append(inner)
    return made


def value_as_yaml(expression: Any) -> Any:
    if isinstance(expression, ObjectExpression) and all(isinstance(key, hcl.Literal) for key, _ in expression.items):
        return {str(key.value): value_as_yaml(value) for key, value in expression.items if isinstance(key, hcl.Literal)}
    if isinstance(expression, hcl.Literal):
        value = expression.value
        if isinstance(value, str):
            return value.replace("${", "$${").replace("%{", "%%{")
        return float(value) if isinstance(value, Decimal) else value
    # A type is written without a template; a heredoc needs the end of its last line.
    return "string" if expression.range.text == "string" else f"${{{expression.range.text}\n}}"


def block_names(block: Block) -> set[str]:
    found = set(block.children)
    for child in block.children.values():
        found |= block_names(child.block)
    return found
