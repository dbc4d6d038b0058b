"""Rules for services and their checks."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator

from nomadpy.model.job import Task, TaskGroup
from nomadpy.model.resources import NetworkResource
from nomadpy.model.service import CheckRestart, Service, ServiceCheck
from nomadpy.model.time import SECOND, format_duration
from nomadpy.model.validate.identities import check_service_identity
from nomadpy.model.validate.network import port_labels
from nomadpy.model.validate.report import Problems, is_dns_label, nested, quoted

NOMAD, CONSUL = "nomad", "consul"
GROUP_MODES = ("auto", "host", "driver", "alloc", "alloc_ipv6")
CHECK_MODES = ("", "host", "driver", "alloc", "alloc_ipv6")
ON_UPDATE = ("require_healthy", "ignore_warnings", "ignore")
METHODS = frozenset(("", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"))
LEAST_NS = SECOND
NOTES_MAX = 255


def check_group_services(group: TaskGroup) -> Problems:
    """Problems that concern the group's own services, and those that its tasks' services have together with them."""
    labels = port_labels(group.networks)
    for number, service in enumerate(group.services):
        yield from nested(f"Service[{number}] {service.name}", _group_service(service, group))
    yield from _ports_exist(group.services, labels, group.networks)
    every = [*group.services, *(service for task in group.tasks for service in task.services)]
    if len({service.provider for service in every}) > 1:
        yield "Multiple service providers used: task group services must use the same provider"
    yield from _unique(every)


def check_task_services(task: Task, group: TaskGroup) -> Problems:
    """Problems of a task's services."""
    for number, service in enumerate(task.services):
        yield from nested(f"Service[{number}] {service.name}", _service(service, at_group=False))
        names = [check.name for check in service.checks]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f'check "{name}" is duplicate'
    networks = (*group.networks, *task.resources.networks)
    yield from _ports_exist(task.services, port_labels(networks), networks)


def _unique(services: list[Service]) -> Problems:
    seen: set[tuple[str, str, str]] = set()
    twice: list[str] = []
    for service in services:
        key = (service.task_name, service.name, service.port_label)
        if key in seen:
            twice.append(f"{service.task_name or 'group'}->{service.name}:{service.port_label}")
        seen.add(key)
    if twice:
        yield f"Services are not unique: {', '.join(twice)}"


def _ports_exist(services: tuple[Service, ...], labels: set[str], networks: tuple[NetworkResource, ...]) -> Problems:
    missing: dict[str, list[str]] = {}
    for service in services:
        for label in _labels_used(service):
            if label not in labels:
                missing.setdefault(label, []).append(service.name)
    for label, names in sorted(missing.items()):
        yield f'port label "{label}" referenced by services {", ".join(sorted(set(names)))} does not exist'
    if missing and not networks:
        yield "the task group has no network block that could declare these ports"


def _labels_used(service: Service) -> Iterator[str]:
    uses = [(service.port_label, service.address_mode)]
    uses += [(check.port_label, check.address_mode or service.address_mode) for check in service.checks]
    for label, mode in uses:
        # A number is a port itself wherever the address is not the host's; a Connect service always listens inside.
        inside = mode in ("driver", "alloc", "alloc_ipv6") or service.connect is not None
        if label and "${" not in label and not (label.isdecimal() and inside):
            yield label


def _group_service(service: Service, group: TaskGroup) -> Problems:
    yield from _service(service, at_group=True)
    names = {task.name for task in group.tasks}
    if service.address_mode == "driver":
        yield (
            'cannot use address_mode="driver", only services defined in a "task" block can use this mode '
            f"(service {service.name})"
        )
    for owner, name in (("service", service.task_name), *(("check", check.task_name) for check in service.checks)):
        if name and name not in names:
            yield f'{owner} of service {service.name} refers to task "{name}", which is not in the group'
    for check in service.checks:
        if check.type == "script" and not check.task_name:
            yield f'check "{check.name}" is a script and must name the task that it runs in'


def _service(service: Service, *, at_group: bool) -> Problems:
    if not is_dns_label(service.name):
        yield (
            "Service name must be valid per RFC 1123 and can contain only alphanumeric characters or dashes and must "
            f'be no longer than 63 characters: "{service.name}"'
        )
    if service.provider not in (NOMAD, CONSUL):
        yield f'Service provider must be "consul" or "nomad"; not "{service.provider}"'
    modes = GROUP_MODES if at_group else GROUP_MODES[:-1]
    if service.address_mode not in modes:
        yield f'Service address_mode must be one of {quoted(modes)}; not "{service.address_mode}"'
    if service.address and service.address_mode != "auto":
        yield f'Service address_mode must be "auto" if address is set; not "{service.address_mode}"'
    if service.on_update not in ON_UPDATE:
        yield f'Service on_update must be one of {quoted(ON_UPDATE)}; not "{service.on_update}"'
    if service.provider == NOMAD:
        yield from _nomad_service(service)
    if service.connect is not None:
        yield from _connect(service, at_group=at_group)
    for check in service.checks:
        yield from _check(check, service)
    if service.identity is not None:
        yield from check_service_identity(service.identity)


def _nomad_service(service: Service) -> Problems:
    if service.connect is not None:
        yield "Service with provider nomad cannot include Connect blocks"
    if service.identity is not None:
        yield "Service with provider nomad cannot include identity blocks"
    if service.enable_tag_override:
        yield "Service with provider nomad cannot use enable_tag_override"


def _connect(service: Service, *, at_group: bool) -> Problems:
    connect = service.connect
    if connect is None:
        return
    stated = [connect.native, connect.sidecar_service is not None, connect.gateway is not None]
    if sum(stated) != 1:
        yield "Consul Connect must be exclusively native, make use of a sidecar, or represent a Gateway"
    if connect.sidecar_service is not None and not at_group:
        yield "Consul Connect sidecars must be defined in a group service"
    if connect.native and not service.task_name:
        yield f"Service {service.name} is Connect Native and requires setting the task"


# --- checks ---------------------------------------------------------------------------------------------------------


def _check(check: ServiceCheck, service: Service) -> Problems:
    for problem in _check_problems(check, service):
        yield (
            f'check "{check.name}" {problem}' if problem.startswith("is ") else f"Check {check.name} invalid: {problem}"
        )


def _check_problems(check: ServiceCheck, service: Service) -> Problems:
    nomad = service.provider == NOMAD
    types = ("tcp", "http") if nomad else ("tcp", "http", "grpc", "script")
    if check.type not in types:
        yield f'invalid check type ("{check.type}"), must be one of {", ".join(types)}'
    elif check.type != "script" and not (check.port_label or service.port_label):
        yield "is missing a port"
    yield from _check_kind(check)
    yield from _check_timing("interval", check.interval_ns)
    yield from _check_timing("timeout", check.timeout_ns)
    if check.initial_status not in ("", "passing", "warning", "critical"):
        yield (
            f'invalid initial check state ({check.initial_status}), must be one of "passing", "warning", '
            '"critical" or empty'
        )
    if check.address_mode not in CHECK_MODES or (nomad and check.address_mode == "driver"):
        yield f'invalid address_mode "{check.address_mode}"'
    if len(check.notes) > NOTES_MAX:
        yield f"notes must not be longer than {NOTES_MAX} characters"
    yield from _check_thresholds(check)
    yield from _check_on_update(check, nomad=nomad)
    if nomad:
        yield from _nomad_check(check)


def _check_kind(check: ServiceCheck) -> Problems:
    if check.type == "http":
        if not check.path:
            yield "http type must have http path"
        elif "${" not in check.path:
            yield from _relative_url(check.path)
        if check.protocol not in ("", "http", "https"):
            yield f'invalid protocol "{check.protocol}", must be http or https'
        if check.method.upper() not in METHODS:
            yield f'method type "{check.method}" not supported'
    elif check.type == "script" and not check.command:
        yield "script type must have a valid script path"


def _relative_url(path: str) -> Problems:
    try:
        parts = urllib.parse.urlsplit(path)
    except ValueError:
        yield "http type must have a valid http path"
        return
    if parts.scheme or parts.netloc:
        yield "http type must have a relative http path"


def _check_timing(name: str, value_ns: int) -> Problems:
    if value_ns == 0:
        yield f"missing required value {name}. Check is missing the {name}, it must be at least {LEAST_NS // SECOND}s"
    elif value_ns < LEAST_NS:
        yield f"{name} ({format_duration(value_ns)}) cannot be lower than {format_duration(LEAST_NS)}"


def _check_thresholds(check: ServiceCheck) -> Problems:
    for name, value in (
        ("success_before_passing", check.success_before_passing),
        ("failures_before_critical", check.failures_before_critical),
        ("failures_before_warning", check.failures_before_warning or 0),
    ):
        if value < 0:
            yield f"{name} must be non-negative; got {value}"
        elif value > 0 and check.type not in ("tcp", "http", "grpc"):
            yield f'{name} not supported for check of type "{check.type}"'


def _check_on_update(check: ServiceCheck, *, nomad: bool) -> Problems:
    restart = check.check_restart
    if check.on_update not in ("", *ON_UPDATE):
        yield f'on_update must be one of {quoted(ON_UPDATE)}; not "{check.on_update}"'
    if restart is None:
        return
    yield from _check_restart(restart, nomad=nomad)
    if check.on_update == "ignore":
        yield 'on_update value "ignore" is not compatible with check_restart'
    elif check.on_update == "ignore_warnings" and not restart.ignore_warnings:
        yield "on_update value is ignore_warnings but check_restart.ignore_warnings is not set"


def _check_restart(restart: CheckRestart, *, nomad: bool) -> Problems:
    if restart.limit < 0:
        yield f"limit must be greater than or equal to 0 but found {restart.limit}"
    if restart.grace_ns < 0:
        yield f"grace period cannot be negative: {format_duration(restart.grace_ns)}"
    if nomad and restart.ignore_warnings:
        yield "ignore_warnings on check_restart only supported for Consul service checks"


def _nomad_check(check: ServiceCheck) -> Problems:
    consul_only = {
        "on_update ignore_warnings": check.on_update == "ignore_warnings",
        "tls_server_name": bool(check.tls_server_name),
        "success_before_passing": check.success_before_passing > 0,
        "failures_before_critical": check.failures_before_critical > 0,
        "failures_before_warning": bool(check.failures_before_warning),
        "expose": check.expose,
        "command and args": bool(check.command or check.args),
        "grpc_service and grpc_use_tls": bool(check.grpc_service or check.grpc_use_tls),
    }
    for name, used in consul_only.items():
        if used:
            yield f"{name} only supported for Consul service checks"
