"""Services, their checks, and workload identities."""

from __future__ import annotations

from nomadpy.jobspec.schema.connect import CONNECT
from nomadpy.jobspec.schema.identity import IDENTITY
from nomadpy.jobspec.schema.rows import (
    Block,
    boolean,
    duration,
    integer,
    many,
    one,
    string,
    string_map,
    strings,
    strings_map,
)

CHECK_RESTART = Block(
    "CheckRestart",
    "When an unhealthy check restarts its task.",
    integer("limit", "Unhealthy intervals before a restart; 0 switches it off."),
    duration("grace", "The wait after a start before intervals count; 1s if absent."),
    boolean("ignore_warnings", "Do not count warnings (Consul)."),
)

CHECK = Block(
    "ServiceCheck",
    "A probe of a service's health.",
    string("name", "The check's name."),
    string("type", "How it probes.", choices="http tcp grpc script"),
    string("port", "A port label; the service's if absent.", key="PortLabel"),
    string("path", "The URL's path (http)."),
    string("protocol", "http if absent.", choices="http https"),
    string("method", "The HTTP method; GET if absent."),
    strings_map("header", "HTTP headers, each a list of values."),
    string("body", "The HTTP request's body."),
    duration("interval", "The time between two probes, at least 1s."),
    duration("timeout", "How long a probe may take, at least 1s."),
    string("initial_status", "The status before the first probe.", choices="passing warning critical"),
    string("address_mode", "Which address is probed.", choices="host driver alloc alloc_ipv6"),
    string("on_update", "How it counts in a deployment.", choices="require_healthy ignore_warnings ignore"),
    one("check_restart", CHECK_RESTART),
    boolean("tls_skip_verify", "Accept any certificate."),
    string("tls_server_name", "The name that the certificate must be for (Consul)."),
    string("task", "The task that a script runs in.", key="TaskName"),
    string("command", "The script's command (Consul)."),
    strings("args", "The script's arguments (Consul)."),
    string("grpc_service", "The service to ask about (Consul)."),
    boolean("grpc_use_tls", "Use TLS (Consul).", key="GRPCUseTLS"),
    boolean("expose", "Let the probe pass the Connect proxy."),
    integer("success_before_passing", "Successes in a row before it passes (Consul)."),
    integer("failures_before_critical", "Failures in a row before it is critical (Consul)."),
    integer("failures_before_warning", "Failures in a row before it warns (Consul)."),
    string("notes", "A text of at most 255 characters."),
    string("advertise", "Accepted, never used."),
)

SERVICE = Block(
    "Service",
    "A service that the group or task announces.",
    string("name", "<job>-<group>-<task> if absent; ${JOB}, ${TASKGROUP}, ${TASK} and ${BASE} are filled in."),
    string("provider", "Whose catalogue; consul if absent.", choices="consul nomad"),
    string("port", "A port label, or a number where the address mode allows it.", key="PortLabel"),
    string("address_mode", "Which address is announced.", choices="auto host driver alloc alloc_ipv6"),
    string("address", "An address to announce as it is."),
    strings("tags", "Tags of the service."),
    strings("canary_tags", "Tags while the allocation is an unpromoted canary."),
    boolean("enable_tag_override", "Let others change the tags (Consul)."),
    string_map("meta", "Metadata (Consul)."),
    string_map("canary_meta", "Metadata of canaries (Consul)."),
    string_map("tagged_addresses", "Further addresses by name (Consul)."),
    string("task", "The task that the service belongs to.", key="TaskName"),
    string("on_update", "How its checks count in a deployment.", choices="require_healthy ignore_warnings ignore"),
    many("check", CHECK, key="Checks"),
    one("check_restart", CHECK_RESTART),
    one("connect", CONNECT),
    one("identity", IDENTITY),
    one(
        "weights",
        Block(
            "ServiceWeights",
            "Weights in DNS answers (Consul).",
            integer("passing", "1 if absent."),
            integer("warning", "1 if absent."),
        ),
    ),
    string("cluster", "The Consul cluster; default if absent."),
    string(
        "kind",
        "The kind of Consul service.",
        choices="api-gateway ingress-gateway mesh-gateway terminating-gateway",
    ),
)
