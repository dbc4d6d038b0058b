"""The agent's configuration as one record, with Nomad's names and defaults.

``files.py`` reads it from HCL, JSON and YAML, ``flags.py`` from the command line. Later sources win key by key.
"""

from __future__ import annotations

from typing import Any

from nomadpy.client.config import ClientConfig
from nomadpy.model.naming import Noun
from nomadpy.model.time import SECOND
from nomadpy.server.config import ServerConfig


class Ports(Noun):
    """The three ports of an agent; 0 lets the system choose."""

    http: int = 4646
    rpc: int = 4647
    serf: int = 4648


class Addresses(Noun):
    """Addresses to bind, or to advertise; "" follows ``bind_addr``. ``http`` may list several, space-separated."""

    http: str = ""
    rpc: str = ""
    serf: str = ""


class Join(Noun):
    """Where other agents are looked for: ``start_join`` once, and failing is fatal; ``retry_join`` until one
    answers, at most ``retry_max`` times (0: for ever). Entries are ``host``, ``host:port``, ``file=PATH`` or
    ``exec=COMMAND``."""

    start_join: tuple[str, ...] = ()
    retry_join: tuple[str, ...] = ()
    retry_max: int = 0
    retry_interval_ns: int = 30 * SECOND


class TlsConfig(Noun):
    """TLS of the HTTP API and of the traffic between agents. With ``verify_https_client`` clients must show a
    certificate of the ``ca_file``; agents always show each other one, and with ``verify_server_hostname`` it must name
    the role."""

    http: bool = False
    rpc: bool = False
    verify_server_hostname: bool = False
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    verify_https_client: bool = False


class AgentConfig(Noun):
    """Everything an agent is told."""

    name: str = ""
    region: str = "global"
    datacenter: str = "dc1"
    data_dir: str = ""
    # Set when nobody named a directory: whoever made one takes it away again.
    made_data_dir: bool = False
    bind_addr: str = "0.0.0.0"
    log_level: str = "INFO"
    log_json: bool = False
    log_include_location: bool = False
    enable_debug: bool = False
    dev_mode: bool = False
    ports: Ports = Ports()
    addresses: Addresses = Addresses()
    advertise: Addresses = Addresses()
    http_api_response_headers: dict[str, str] = {}
    server_enabled: bool = False
    bootstrap_expect: int = 0
    server: ServerConfig = ServerConfig()
    client_enabled: bool = False
    server_join: Join = Join()
    encrypt: str = ""
    raft_multiplier: int = 1
    raft_snapshot_threshold: int = 8192
    raft_trailing_logs: int = 4096
    non_voting_server: bool = False
    leave_on_interrupt: bool = False
    leave_on_terminate: bool = False
    client_servers: tuple[str, ...] = ()
    client_join: Join = Join()
    client: ClientConfig = ClientConfig()
    prometheus_metrics: bool = False
    telemetry: dict[str, Any] = {}
    ui: dict[str, Any] = {}
    tls: TlsConfig = TlsConfig()
    http_max_conns_per_client: int = 100
    rpc_max_conns_per_client: int = 100
    rpc_handshake_timeout_ns: int = 5 * SECOND
    warnings: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
