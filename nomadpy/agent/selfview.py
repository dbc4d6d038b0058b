"""The agent's configuration and gossip member as ``/v1/agent/self`` shows them, in Nomad's shapes."""

from __future__ import annotations

from typing import Any

from nomadpy import __version__
from nomadpy.agent.config import AgentConfig
from nomadpy.model.version import NOMAD_COMPATIBILITY_VERSION
from nomadpy.server.server import Server


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


def member_view(config: AgentConfig, server: Server | None) -> dict[str, Any]:
    """The agent as a member of the gossip pool; an empty one for a pure client."""
    numbers = {f"{kind}{what}": 0 for kind in ("Protocol", "Delegate") for what in ("Min", "Max", "Cur")}
    if server is None:
        return {"Name": "", "Addr": "", "Port": 0, "Tags": None, "Status": "none", **numbers}
    host, _, port = server.config.rpc_addr.rpartition(":")
    return {
        "Name": f"{config.name}.{config.region}",
        "Addr": host.strip("[]"),
        "Port": config.ports.serf,
        "Tags": {
            "role": "nomad",
            "region": config.region,
            "dc": config.datacenter,
            "id": server.config.id,
            "rpc_addr": host.strip("[]"),
            "port": port,
            "build": NOMAD_COMPATIBILITY_VERSION,
            "nomadpy": __version__,
            "revision": "",
            "vsn": "1",
            "raft_vsn": "3",
            "bootstrap": "1",
        },
        "Status": "alive",
        **numbers,
        "ProtocolMin": 1,
        "ProtocolMax": 5,
        "ProtocolCur": 2,
        "DelegateMin": 2,
        "DelegateMax": 5,
        "DelegateCur": 4,
    }
