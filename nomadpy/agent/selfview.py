"""The agent's configuration as ``/v1/agent/self`` shows it, in Nomad's shape."""

from __future__ import annotations

from typing import Any

from nomadpy import __version__
from nomadpy.agent.config import AgentConfig
from nomadpy.model.version import NOMAD_COMPATIBILITY_VERSION


def config_view(config: AgentConfig) -> dict[str, Any]:
    """What clients read of a configuration; secrets are not among it."""
    return {
        "Region": config.region,
        "Datacenter": config.datacenter,
        "NodeName": config.name,
        "DataDir": config.data_dir,
        "LogLevel": config.log_level.upper(),
        "BindAddr": config.bind_addr,
        "EnableDebug": config.enable_debug,
        "DevMode": config.dev_mode,
        "Ports": {"HTTP": config.ports.http, "RPC": config.ports.rpc, "Serf": config.ports.serf},
        "Addresses": {"HTTP": config.addresses.http, "RPC": config.addresses.rpc, "Serf": config.addresses.serf},
        "AdvertiseAddrs": {"HTTP": config.advertise.http, "RPC": config.advertise.rpc, "Serf": config.advertise.serf},
        "Server": {"Enabled": config.server_enabled, "BootstrapExpect": config.bootstrap_expect},
        "Client": {
            "Enabled": config.client_enabled,
            "NodeClass": config.client.node_class,
            "NodePool": config.client.node_pool,
            "Meta": config.client.meta or None,
        },
        "ACL": {"Enabled": False},
        "Telemetry": {"PrometheusMetrics": config.prometheus_metrics},
        "UI": {"Enabled": False, "ShowCLIHints": False, "Label": None},
        "Consul": None,
        "Vaults": None,
        "Consuls": None,
        "Files": list(config.files) or None,
        "Version": {
            "Version": NOMAD_COMPATIBILITY_VERSION,
            "VersionPrerelease": "",
            "VersionMetadata": f"nomadpy.{__version__}",
            "Revision": "",
            "BuildDate": "0001-01-01T00:00:00Z",
        },
    }
