"""What an agent says when it has started."""

from __future__ import annotations

from nomadpy import __version__
from nomadpy.agent.config import AgentConfig
from nomadpy.server.server import Server


def banner(config: AgentConfig, http_address: str, server: Server | None) -> str:
    """The configuration in the form that people know, one fact a line."""
    rows = [
        ("Advertise Addrs", f"HTTP: {http_address}" + (f"; RPC: {server.config.rpc_addr}" if server else "")),
        ("Bind Addrs", f"HTTP: {config.addresses.http or config.bind_addr}:{config.ports.http}"),
        ("Client", str(config.client_enabled).lower()),
        ("Config Files", ", ".join(config.files) or "none"),
        ("Data Dir", config.data_dir),
        ("Log", "jobs are forgotten when the agent ends" if config.dev_mode else "replicated, synced"),
        ("Log Level", config.log_level.upper()),
        ("Node Name", config.name),
        ("Region", f"{config.region} (DC: {config.datacenter})"),
        ("Server", str(config.server_enabled).lower()),
        ("Version", __version__),
        ("Web API", f"{'https' if config.tls.http else 'http'}://{http_address}/v1/agent/self"),
    ]
    if server is None:
        rows = [row for row in rows if row[0] != "Log"]
    width = max(len(name) for name, _ in rows)
    lines = "\n".join(f"    {name:>{width}}: {value}" for name, value in rows)
    return f"==> nomadpy agent configuration:\n\n{lines}\n\n==> nomadpy agent started! Log data will stream in below:\n"
