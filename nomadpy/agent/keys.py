"""Nomad's configuration keys: what each holds, and where it goes in ``AgentConfig``.

``target`` is a dotted path into the configuration. A key without one is accepted because files in the wild have it, and
the operator is told that it does nothing yet.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Key(msgspec.Struct, frozen=True):
    """A plain key. ``kind``: str, int, float, bool, duration, size, list, map or any."""

    kind: str = "str"
    target: str = ""


class Section(msgspec.Struct, frozen=True):
    """A block. ``labelled`` ones are written ``name "label" { … }`` and go to a map at ``target``."""

    keys: dict[str, Any]
    labelled: bool = False
    target: str = ""


def _many(kind: str, prefix: str, names: str) -> dict[str, Key]:
    """Keys whose fields are named like them, with the unit that their kind has."""
    unit = "_ns" if kind == "duration" else ""
    return {name: Key(kind, f"{prefix}{name}{unit}") for name in names.split()}


def _idle(names: str, kind: str = "any") -> dict[str, Key]:
    return {name: Key(kind) for name in names.split()}


def _join(prefix: str) -> dict[str, Key]:
    """Where other agents are looked for."""
    return {
        "start_join": Key("list", f"{prefix}.start_join"),
        "retry_join": Key("list", f"{prefix}.retry_join"),
        "retry_max": Key("int", f"{prefix}.retry_max"),
        "retry_interval": Key("duration", f"{prefix}.retry_interval_ns"),
    }


_SERVER: dict[str, Any] = {
    "enabled": Key("bool", "server_enabled"),
    "bootstrap_expect": Key("int", "bootstrap_expect"),
    **_many("duration", "server.", "heartbeat_grace min_heartbeat_ttl failover_heartbeat_ttl mass_grace"),
    **_many("duration", "server.", "job_gc_interval"),
    **_many("duration", "server.", "job_gc_threshold eval_gc_threshold batch_eval_gc_threshold"),
    **_many("duration", "server.", "deployment_gc_threshold node_gc_threshold"),
    **_many("int", "server.", "job_default_priority job_max_priority job_max_count job_tracked_versions"),
    "max_heartbeats_per_second": Key("float", "server.max_heartbeats_per_second"),
    "enabled_schedulers": Key("list", "server.enabled_schedulers"),
    "job_max_source_size": Key("size", "server.job_max_source_bytes"),
    "default_scheduler_config": Section(
        {
            **_many("str", "server.default_scheduler_config.", "scheduler_algorithm"),
            **_many("bool", "server.default_scheduler_config.", "memory_oversubscription_enabled"),
            **_many("bool", "server.default_scheduler_config.", "reject_job_registration pause_eval_broker"),
            **_many("int", "server.default_scheduler_config.", "node_limit_for_feasibility_checks"),
            "preemption_config": Section(
                _idle(
                    "batch_scheduler_enabled service_scheduler_enabled system_scheduler_enabled "
                    "sysbatch_scheduler_enabled"
                )
            ),
        }
    ),
    "server_join": Section(_join("server_join")),
    **_join("server_join"),
    "encrypt": Key("str", "encrypt"),
    "raft_multiplier": Key("int", "raft_multiplier"),
    "raft_snapshot_threshold": Key("int", "raft_snapshot_threshold"),
    "raft_trailing_logs": Key("int", "raft_trailing_logs"),
    "non_voting_server": Key("bool", "non_voting_server"),
    **_idle(
        "authoritative_region data_dir raft_protocol num_schedulers "
        "csi_volume_claim_gc_interval csi_volume_claim_gc_threshold "
        "csi_plugin_gc_threshold acl_token_gc_threshold root_key_gc_interval "
        "root_key_gc_threshold root_key_rotation_threshold oidc_issuer event_buffer_size enable_event_broker "
        "deploy_query_rate_limit rejoin_after_leave plan_apply_pipeline start_timeout raft_snapshot_interval "
        "redundancy_zone upgrade_version license_path"
    ),
    **{name: Section({"*": Key("any")}) for name in (
        "plan_rejection_tracker", "search", "raft_logstore", "raft_boltdb", "client_introduction"
    )},
}  # fmt: skip

_CLIENT: dict[str, Any] = {
    "enabled": Key("bool", "client_enabled"),
    "servers": Key("list", "client_servers"),
    **_many("str", "client.", "state_dir alloc_dir node_class node_pool network_interface cgroup_parent"),
    **_many("int", "client.", "network_speed cpu_total_compute memory_total_mb disk_total_mb disk_free_mb"),
    **_many("int", "client.", "min_dynamic_port max_dynamic_port node_max_allocs"),
    **_many("bool", "client.", "no_host_uuid disable_remote_exec gc_volumes_on_node_gc"),
    **_many("map", "client.", "meta options chroot_env"),
    **_many("duration", "client.", "max_kill_timeout"),
    "gc_interval": Key("duration", "client.gc.interval_ns"),
    "gc_parallel_destroys": Key("int", "client.gc.parallel_destroys"),
    "gc_disk_usage_threshold": Key("float", "client.gc.disk_usage_threshold"),
    "gc_inode_usage_threshold": Key("float", "client.gc.inode_usage_threshold"),
    "gc_max_allocs": Key("int", "client.gc.max_allocs"),
    "reserved": Section(
        {
            "cpu": Key("int", "client.reserved.cpu"),
            "cores": Key("str", "client.reserved.cores"),
            "memory": Key("int", "client.reserved.memory_mb"),
            "disk": Key("int", "client.reserved.disk_mb"),
            "reserved_ports": Key("str", "client.reserved.reserved_ports"),
        }
    ),
    "host_volume": Section(
        {"path": Key("str", "path"), "read_only": Key("bool", "read_only")},
        labelled=True,
        target="client.host_volumes",
    ),
    "host_network": Section(
        {
            "cidr": Key("str", "cidr"),
            "interface": Key("str", "interface"),
            "reserved_ports": Key("str", "reserved_ports"),
        },
        labelled=True,
        target="client.host_networks",
    ),
    "server_join": Section(_join("client_join")),
    **_idle(
        "alloc_mounts_dir host_volumes_dir host_volume_plugin_dir common_plugin_dir preferred_address_family "
        "cpu_disable_dmidecode reservable_cores client_min_port client_max_port cni_path cni_config_dir "
        "bridge_network_name bridge_network_subnet bridge_network_subnet_ipv6 bridge_network_hairpin_mode "
        "bind_wildcard_default_host_network nomad_service_discovery default_ineligible max_dynamic_user"
    ),
    "template": Section(
        {
            "function_denylist": Key("list", "client.template.function_denylist"),
            "disable_file_sandbox": Key("bool", "client.template.disable_file_sandbox"),
            **_idle("max_stale block_query_wait wait wait_bounds consul_retry vault_retry nomad_retry"),
            **_idle("vault_default_lease_duration function_blacklist"),
        }
    ),
    "artifact": Section(
        {
            **_many("duration", "client.artifact.", "http_read_timeout git_timeout"),
            "http_max_size": Key("size", "client.artifact.http_max_size"),
            "decompression_file_count_limit": Key("int", "client.artifact.decompression_file_count_limit"),
            "decompression_size_limit": Key("size", "client.artifact.decompression_size_limit"),
            "set_environment_variables": Key("str", "client.artifact.set_environment_variables"),
            **_idle("gcs_timeout hg_timeout s3_timeout disable_filesystem_isolation disable_artifact_inspection"),
            **_idle("filesystem_isolation_extra_paths"),
        }
    ),
    **{name: Section({"*": Key("any")}) for name in ("drain_on_shutdown", "users", "fingerprint", "stats")},
}  # fmt: skip

_ADDRESSES = "http rpc serf"

TOP: dict[str, Any] = {
    **_many("str", "", "name region datacenter data_dir bind_addr log_level"),
    **_many("bool", "", "log_json log_include_location enable_debug"),
    "http_api_response_headers": Key("map", "http_api_response_headers"),
    "ports": Section(_many("int", "ports.", _ADDRESSES)),
    "addresses": Section(_many("str", "addresses.", _ADDRESSES)),
    "advertise": Section(_many("str", "advertise.", _ADDRESSES)),
    "server": Section(_SERVER),
    "client": Section(_CLIENT),
    "plugin": Section({"config": Key("map", ""), "args": Key("list")}, labelled=True, target="client.plugins"),
    "tls": Section(
        {
            **_many("bool", "tls.", "http rpc verify_https_client verify_server_hostname"),
            **_many("str", "tls.", "ca_file cert_file key_file"),
            **_idle("rpc_upgrade_mode tls_cipher_suites tls_min_version", "any"),
            **_idle("tls_prefer_server_cipher_suites", "any"),
        }
    ),
    "telemetry": Section({"prometheus_metrics": Key("bool", "prometheus_metrics"), "*": Key("any")}),
    "limits": Section(
        {
            "http_max_conns_per_client": Key("int", "http_max_conns_per_client"),
            "rpc_max_conns_per_client": Key("int", "rpc_max_conns_per_client"),
            "rpc_handshake_timeout": Key("duration", "rpc_handshake_timeout_ns"),
            "*": Key("any"),
        }
    ),
    **_idle(
        "plugin_dir log_file log_rotate_duration log_rotate_bytes log_rotate_max_files enable_syslog syslog_facility "
        "disable_update_check disable_anonymous_signature"
    ),
    **_many("bool", "", "leave_on_interrupt leave_on_terminate"),
    **{name: Section({"*": Key("any")}) for name in (
        "acl", "consul", "vault", "ui", "autopilot", "keyring", "rpc", "sentinel", "audit", "reporting",
        "eventlog",
    )},
}  # fmt: skip

# Set in many files and without consequence here, so no warning is owed.
SILENT = frozenset(
    ("disable_update_check", "disable_anonymous_signature", "plugin_dir", "ui", "nomad_service_discovery")
)
