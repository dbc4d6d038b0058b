"""The command line of ``nomadpy agent``."""

from __future__ import annotations

import difflib
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from nomadpy.agent.config import AgentConfig
from nomadpy.agent.files import load_files
from nomadpy.client.config import GcConfig
from nomadpy.gossip.keyring import decode_key
from nomadpy.model.errors import Invalid
from nomadpy.model.time import MINUTE, SECOND, parse_duration

HELP = """Usage: nomadpy agent [options]

  Starts an agent: a server, a client, or with -dev both in one process that forgets everything when it ends.

General
  -dev                      Server and client on 127.0.0.1, nothing to configure, nothing kept
  -config <path>            Configuration file or directory (HCL, JSON, YAML); may be given more than once
  -data-dir <dir>           Where state is kept; required unless -dev
  -bind <addr>              Address to listen on (default 0.0.0.0, 127.0.0.1 with -dev)
  -http-port <port>         Port of the HTTP API (default 4646)
  -rpc-port <port>          Port of the RPC (default 4647)
  -serf-port <port>         Port of the gossip (default 4648)
  -region <name>            Region (default global)
  -dc <name>                Datacenter (default dc1)
  -node <name>              Name of this node (default: the host's)
  -log-level <level>        trace, debug, info, warn or error (default info)
  -log-json                 One JSON object per log line
  -log-include-location     File and line in every log line

Server
  -server                   Run a server
  -bootstrap-expect <n>     Number of servers that make a new cluster together
  -join <addr>              Agent to join at the start, which must succeed; may be given more than once
  -retry-join <addr>        Agent to join, tried until it answers; may be given more than once.
                            host, host:port, file=PATH (one address a line) or exec=COMMAND (prints addresses)
  -retry-interval <dur>     Pause between tries (default 30s)
  -retry-max <n>            Number of tries (default 0: no limit)
  -encrypt <key>            Key of the gossip (nomadpy operator gossip keyring generate)

Client
  -client                   Run a client
  -servers <addr,…>         Servers to talk to (port 4647 unless said otherwise); -retry-join works as well
  -node-class <class>       Class of this node
  -node-pool <pool>         Pool of this node (default: default)
  -meta <key=value>         Metadata of this node; may be given more than once
  -network-interface <name> Interface whose address tasks get
  -state-dir <dir>          Where the client keeps its state
  -alloc-dir <dir>          Where allocations live
  -network-speed <mbits>    Speed of the network interface, when it cannot be detected

Nomad's other flags (-acl-enabled, -consul-…, -vault-… and so on) are accepted with a
warning that says that they do nothing yet.
"""

_SWITCHES = {
    "dev": "dev_mode",
    "server": "server_enabled",
    "client": "client_enabled",
    "log-json": "log_json",
    "log-include-location": "log_include_location",
}
_VALUES = (
    *("config", "data-dir", "bind", "http-port", "rpc-port", "serf-port", "region", "dc", "node", "log-level"),
    *("bootstrap-expect", "servers", "node-class", "node-pool", "meta", "network-interface", "state-dir", "alloc-dir"),
    *("network-speed", "join", "retry-join", "retry-interval", "retry-max", "encrypt"),
)
_REPEATED = ("config", "meta", "join", "retry-join")
# Nomad's flags that nothing follows from yet: scripts that have them keep working, and are told.
_IDLE_SWITCHES = (
    *("dev-connect", "dev-consul", "dev-vault", "eventlog", "rejoin", "acl-enabled", "vault-enabled"),
    *("vault-tls-skip-verify", "consul-ssl", "consul-verify-ssl", "consul-auto-advertise", "consul-server-auto-join"),
    *("consul-client-auto-join", "consul-checks-use-advertise"),
)
_IDLE_VALUES = (
    *("plugin-dir", "eventlog-level", "raft-protocol"),
    *("acl-replication-token", "preferred-address-family", "alloc-mounts-dir", "host-volumes-dir"),
    *("host-volume-plugin-dir", "client-intro-token", "consul-address", "consul-token", "consul-auth"),
    *("consul-ca-file", "consul-cert-file", "consul-key-file", "consul-server-service-name"),
    *("consul-client-service-name", "consul-service-tags", "consul-namespace", "vault-address", "vault-namespace"),
    *("vault-create-from-role", "vault-ca-file", "vault-ca-path", "vault-cert-file", "vault-key-file"),
    "vault-tls-server-name",
)


def configure(args: list[str]) -> AgentConfig:
    """The configuration that the command line and its files describe. Raises Invalid with one line."""
    flags = _parse(args)
    config = AgentConfig()
    if flags.get("dev_mode"):
        config = _dev(config)
    config = load_files(config, flags.get("config", []))
    config = _apply(config, flags)
    return _complete(config)


def _parse(args: list[str]) -> dict[str, Any]:
    flags: dict[str, Any] = {}
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        name, has_value, value = arg.lstrip("-").partition("=")
        if not arg.startswith("-"):
            raise Invalid(f'unexpected argument "{arg}"; the agent takes only flags, see nomadpy agent -help')
        if name in _SWITCHES:
            flags[_SWITCHES[name]] = _switch(name, value) if has_value else True
        elif name in _VALUES:
            if not has_value:
                if not rest:
                    raise Invalid(f"flag -{name} needs a value")
                value = rest.pop(0)
            if name in _REPEATED:
                flags.setdefault(name, []).append(value)
            else:
                flags[name] = value
        elif name in _IDLE_SWITCHES or name in _IDLE_VALUES:
            if name in _IDLE_VALUES and not has_value and not (rest and rest.pop(0)):
                raise Invalid(f"flag -{name} needs a value")
            flags.setdefault("idle", []).append(name)
        else:
            raise _unknown(name)
    if "dev-connect" in flags.get("idle", ()):
        flags["dev_mode"] = True
    return flags


def _unknown(name: str) -> Invalid:
    close = difflib.get_close_matches(name, [*_SWITCHES, *_VALUES, *_IDLE_SWITCHES, *_IDLE_VALUES], n=1)
    hint = f"; did you mean -{close[0]}?" if close else "; see nomadpy agent -help"
    return Invalid(f"unknown flag -{name}{hint}")


def _switch(name: str, value: str) -> bool:
    if value.lower() in ("true", "1", "t"):
        return True
    if value.lower() in ("false", "0", "f"):
        return False
    raise Invalid(f"flag -{name} is true or false, got {value!r}")


def _dev(config: AgentConfig) -> AgentConfig:
    """The overlay of ``-dev``: everything on the loopback, nothing kept."""
    client = msgspec.structs.replace(
        config.client,
        dev_mode=True,
        options={"driver.raw_exec.enable": "true", "driver.docker.volumes": "true"},
        gc=msgspec.structs.replace(GcConfig(), interval_ns=10 * MINUTE),
    )
    return config.replace(
        dev_mode=True,
        bind_addr="127.0.0.1",
        log_level="DEBUG",
        enable_debug=True,
        server_enabled=True,
        client_enabled=True,
        bootstrap_expect=1,
        prometheus_metrics=True,
        client=client,
    )


def _apply(config: AgentConfig, flags: dict[str, Any]) -> AgentConfig:
    plain = {
        "data-dir": "data_dir",
        "bind": "bind_addr",
        "region": "region",
        "dc": "datacenter",
        "node": "name",
        "log-level": "log_level",
    }
    changes = {field: flags[flag] for flag, field in plain.items() if flag in flags}
    changes |= {field: flags[field] for field in _SWITCHES.values() if field in flags}
    idle = tuple(f"flag -{name} is accepted but not acted on yet" for name in flags.get("idle", ()))
    changes["warnings"] = config.warnings + idle
    ports = {name: _port(flags, f"{name}-port") for name in ("http", "rpc", "serf") if f"{name}-port" in flags}
    if ports:
        changes["ports"] = config.ports.replace(**ports)
    if "bootstrap-expect" in flags:
        changes["bootstrap_expect"] = _integer(flags, "bootstrap-expect")
    if "servers" in flags:
        changes["client_servers"] = tuple(filter(None, flags["servers"].split(",")))
    if "encrypt" in flags:
        changes["encrypt"] = flags["encrypt"]
    join = _join_changes(flags)
    if join:
        changes["server_join"] = config.server_join.replace(**join)
        changes["client_join"] = config.client_join.replace(**join)
    client = _client_changes(config, flags)
    if client:
        changes["client"] = msgspec.structs.replace(config.client, **client)
    return config.replace(**changes)


def _join_changes(flags: dict[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if "join" in flags:
        changes["start_join"] = tuple(flags["join"])
    if "retry-join" in flags:
        changes["retry_join"] = tuple(flags["retry-join"])
    if "retry-max" in flags:
        changes["retry_max"] = _integer(flags, "retry-max")
    if "retry-interval" in flags:
        try:
            changes["retry_interval_ns"] = parse_duration(flags["retry-interval"])
        except ValueError as error:
            raise Invalid(f"-retry-interval takes a duration like 30s, got {flags['retry-interval']!r}") from error
    return changes


def _client_changes(config: AgentConfig, flags: dict[str, Any]) -> dict[str, Any]:
    names = {
        "node-class": "node_class",
        "node-pool": "node_pool",
        "network-interface": "network_interface",
        "state-dir": "state_dir",
        "alloc-dir": "alloc_dir",
    }
    changes: dict[str, Any] = {field: flags[flag] for flag, field in names.items() if flag in flags}
    if "network-speed" in flags:
        changes["network_speed"] = _integer(flags, "network-speed")
    if "meta" in flags:
        meta = dict(config.client.meta)
        for pair in flags["meta"]:
            key, equals, value = pair.partition("=")
            if not equals or not key:
                raise Invalid(f"-meta takes key=value, got {pair!r}")
            meta[key] = value
        changes["meta"] = meta
    return changes


def _port(flags: dict[str, Any], name: str) -> int:
    port = _integer(flags, name)
    if not 0 <= port <= 65_535:
        raise Invalid(f"-{name} must be between 0 and 65535, got {port}")
    return port


def _integer(flags: dict[str, Any], name: str) -> int:
    try:
        return int(flags[name])
    except ValueError:
        raise Invalid(f"-{name} takes a number, got {flags[name]!r}") from None


def _check_secrets(config: AgentConfig) -> None:
    """Raises Invalid for a key or a TLS file that could not be used, with the setting that names it."""
    if config.encrypt:
        try:
            decode_key(config.encrypt)
        except Invalid as error:
            made = "nomadpy operator gossip keyring generate makes one"
            raise Invalid(f"encrypt: {error.message} ({made})") from error
    tls = config.tls
    if tls.http or tls.rpc:
        for name, path in (("ca_file", tls.ca_file), ("cert_file", tls.cert_file), ("key_file", tls.key_file)):
            try:
                if path:
                    Path(path).open("rb").close()
            except OSError as error:
                raise Invalid(f"tls.{name}: {path} cannot be read: {error.strerror or error}") from error


def _complete(config: AgentConfig) -> AgentConfig:
    """Fills what follows from the rest, and refuses what cannot run."""
    if not config.server_enabled and not config.client_enabled:
        raise Invalid("an agent needs a role: use -dev, -server, -client, or enable them in a configuration file")
    if (config.tls.http or config.tls.rpc) and not (config.tls.cert_file and config.tls.key_file):
        which = "tls.http" if config.tls.http else "tls.rpc"
        raise Invalid(f"{which} is true, so tls.cert_file and tls.key_file must name the certificate and its key")
    if config.tls.rpc and not config.tls.ca_file:
        raise Invalid("tls.rpc is true, so tls.ca_file must name who signs the certificates of all agents")
    if config.tls.verify_https_client and not config.tls.ca_file:
        raise Invalid("tls.verify_https_client is true, so tls.ca_file must name who signs clients' certificates")
    _check_secrets(config)
    data_dir = config.data_dir
    made_data_dir = not data_dir
    if made_data_dir:
        if not config.dev_mode:
            raise Invalid("data_dir must be set (-data-dir) unless the agent runs with -dev")
        data_dir = tempfile.mkdtemp(prefix="nomadpy-dev-")
    data_dir = str(Path(data_dir).absolute())
    _check_cluster(config, Path(data_dir))
    _make_writable(Path(data_dir))
    client = msgspec.structs.replace(
        config.client,
        alloc_dir=config.client.alloc_dir or str(Path(data_dir) / "alloc"),
        state_dir=config.client.state_dir or str(Path(data_dir) / "client"),
    )
    name = config.name or socket.gethostname()
    return config.replace(name=name, data_dir=data_dir, made_data_dir=made_data_dir, client=client)


def _check_cluster(config: AgentConfig, data_dir: Path) -> None:
    if config.bootstrap_expect < 0:
        raise Invalid(f"bootstrap_expect must not be negative, got {config.bootstrap_expect}")
    if config.bootstrap_expect and not config.server_enabled:
        raise Invalid("bootstrap_expect is about servers: add -server, or leave it out")
    if config.dev_mode and config.bootstrap_expect > 1:
        raise Invalid("-dev runs one server that forgets everything; leave -dev out to run a cluster")
    joins = config.server_join.start_join + config.server_join.retry_join
    knows = config.bootstrap_expect or joins or (data_dir / "server" / "raft").exists()
    if config.server_enabled and not knows:
        raise Invalid(
            "a server needs to know whether it begins a cluster or joins one: set -bootstrap-expect to the number of "
            "servers that begin it together (1 for a single one), or -retry-join to a server of the cluster"
        )
    reachable = config.client_servers + config.client_join.start_join + config.client_join.retry_join
    if config.client_enabled and not config.server_enabled and not reachable:
        raise Invalid("a client needs servers: set -servers (or client.servers, -retry-join), or add -server")
    if not 1 <= config.raft_multiplier <= 10:
        raise Invalid(f"server.raft_multiplier must be between 1 and 10, got {config.raft_multiplier}")
    for join in (config.server_join, config.client_join):
        if join.retry_interval_ns < SECOND or join.retry_max < 0:
            raise Invalid("retry_interval is at least a second, and retry_max is not negative")


def _make_writable(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = path / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise Invalid(f"data_dir {path} cannot be written: {error.strerror or error}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise Invalid(f"data_dir {path} cannot be written")
