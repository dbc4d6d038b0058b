"""One agent: a server, a client or both in one process, and the HTTP API in front of them."""

from __future__ import annotations

import errno
import functools
import gc
import logging
import os
import platform
import random
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import trio

from nomadpy import __version__
from nomadpy.agent.banner import banner
from nomadpy.agent.config import AgentConfig
from nomadpy.agent.logs import LogTap
from nomadpy.agent.selfview import config_view, member_view
from nomadpy.api.context import ApiContext
from nomadpy.api.router import Router
from nomadpy.api.routes import OPERATIONS
from nomadpy.api.serve import HttpConfig, HttpServer, TlsFiles, TlsListener, serve
from nomadpy.client.artifacts import ArtifactHook
from nomadpy.client.client import Client
from nomadpy.client.fingerprint import cpu
from nomadpy.client.identity import load_identity
from nomadpy.client.templates import TemplateHook
from nomadpy.drivers.contract import DriverContext
from nomadpy.drivers.registry import load_drivers
from nomadpy.model.errors import Invalid, NomadError
from nomadpy.model.ids import EDGE_RNG, new_uuid
from nomadpy.raft.contract import Apply, Log
from nomadpy.raft.journal import JournalLog
from nomadpy.raft.memory import MemoryLog
from nomadpy.rpc.contract import ServerEndpoint
from nomadpy.server.server import Server

log = logging.getLogger(__name__)


class Agent:
    """Built from a configuration; ``run`` serves until it is told to stop."""

    def __init__(self, config: AgentConfig, tap: LogTap, *, reload: Callable[[], str] | None = None) -> None:
        self.config = config
        self._tap = tap
        self._reload = reload
        self.server: Server | None = None
        self.client: Client | None = None
        self.http_address = ""
        self._http: HttpServer | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Starts everything in order, reports started once the API answers, and stops in the opposite order."""
        config = self.config
        listeners: list[Any] = list(await self._bind())
        if config.tls.http:
            listeners = [TlsListener(listener, _tls_files(config)) for listener in listeners]
        async with trio.open_nursery() as nursery:
            if config.server_enabled:
                self.server = Server(self._server_config(), self._make_log)
                await nursery.start(self.server.run)
            if config.client_enabled:
                self.client = self._make_client(self._endpoint())
                await nursery.start(self.client.run)
                if self.server is not None:
                    self.server.clients[self.client.node_id] = self.client
            router = Router(self._context(), OPERATIONS)
            http = HttpConfig(max_connections_per_address=config.http_max_conns_per_client)
            self._http = await nursery.start(functools.partial(serve, router, listeners, config=http))
            # What was made so far stays for good, so the collector need not walk over it again and again.
            gc.collect()
            gc.freeze()
            self._announce()
            task_status.started()
            await self._until_told(nursery)

    # --- parts -----------------------------------------------------------------------------------------------------

    async def _bind(self) -> list[trio.SocketListener]:
        config = self.config
        listeners: list[trio.SocketListener] = []
        for host in (config.addresses.http or config.bind_addr).split():
            try:
                listeners += await trio.open_tcp_listeners(config.ports.http, host=host)
            except (OSError, UnicodeError) as error:
                raise Invalid(_why_deaf(host, config.ports.http, error)) from error
        port = listeners[0].socket.getsockname()[1]
        bound = (config.addresses.http or config.bind_addr).split()[0]
        advertised = config.advertise.http or _advertised(bound)
        self.http_address = advertised if _has_port(advertised) else f"{advertised}:{port}"
        return listeners

    def _server_config(self) -> Any:
        config = self.config
        host = config.advertise.rpc or _advertised(config.addresses.rpc or config.bind_addr)
        rpc_addr = host if _has_port(host) else f"{host}:{config.ports.rpc}"
        serf_host = rpc_addr.rpartition(":")[0]
        return config.server.replace(
            name=config.name,
            region=config.region,
            datacenter=config.datacenter,
            id=self._server_id(),
            rpc_addr=rpc_addr,
            serf_addr=f"{serf_host}:{config.ports.serf}",
        )

    def _server_id(self) -> str:
        if self.config.dev_mode:
            return new_uuid(EDGE_RNG)
        return _stored_id(Path(self.config.data_dir) / "server" / "server-id")

    def _make_log(self, apply: Apply) -> Log:
        if self.config.dev_mode:
            return MemoryLog(apply)
        return JournalLog(Path(self.config.data_dir) / "server" / "raft", apply)

    def _endpoint(self) -> ServerEndpoint:
        if self.server is None:
            raise Invalid("a client without a server in the same agent needs servers to talk to; use -server as well")
        return self.server.nodes

    def _make_client(self, endpoint: ServerEndpoint) -> Client:
        config = self.config
        client_config = msgspec.structs.replace(
            config.client,
            name=config.name,
            region=config.region,
            datacenter=config.datacenter,
            http_addr=self.http_address,
            dev_mode=config.dev_mode,
            tls_enabled=config.tls.http,
            host_env=dict(os.environ),
        )
        identity = load_identity(None if config.dev_mode else client_config.state_dir, random.SystemRandom())
        cpu_found = cpu.fingerprint(client_config).cpu

        def context_for(name: str) -> DriverContext:
            return DriverContext(
                plugin_config=client_config.plugins.get(name, {}),
                options=client_config.options,
                data_dir=str(Path(config.data_dir) / "client"),
                chroot_env=client_config.chroot_env,
                cgroup_parent=client_config.cgroup_parent,
                node_id=identity.node_id,
                node_name=config.name,
                node_cpu_mhz=cpu_found.cpu_shares if cpu_found is not None else 0,
                dev_mode=config.dev_mode,
            )

        hooks = (ArtifactHook(), TemplateHook())
        return Client(client_config, endpoint, load_drivers(context_for), identity=identity, task_hooks=hooks)

    def _context(self) -> ApiContext:
        config = self.config
        return ApiContext(
            region=config.region,
            node_name=config.name,
            server=self.server,
            client=self.client,
            config=config_view(config),
            member=member_view(config, self.server),
            version=__version__,
            monitor=self._tap,
            stats=self._stats,
            response_headers=config.http_api_response_headers,
            prometheus_enabled=config.prometheus_metrics,
            reload=self.reload,
        )

    def _stats(self) -> dict[str, dict[str, str]]:
        out = {"runtime": {"version": platform.python_version(), "arch": platform.machine(), "kernel.name": "linux"}}
        if self.server is not None:
            statistics = self.server.log.statistics()
            out["nomad"] = {
                "server": "true",
                "leader": str(self.server.log.is_leader).lower(),
                "leader_addr": self.server.config.rpc_addr,
                "bootstrap": "true",
                "known_regions": "1",
            }
            out["raft"] = {
                "state": "Leader" if self.server.log.is_leader else "Follower",
                "term": str(statistics.term),
                "last_log_index": str(statistics.last_index),
                "applied_index": str(statistics.applied_index),
                "num_peers": "0",
            }
        if self.client is not None:
            out["client"] = {"node_id": self.client.node_id, "known_servers": self._servers()}
        return out

    def _servers(self) -> str:
        return self.server.config.rpc_addr if self.server is not None else ""

    # --- start and stop --------------------------------------------------------------------------------------------

    def _announce(self) -> None:
        print(banner(self.config, self.http_address, self.server), file=sys.stdout, flush=True)
        for warning in self.config.warnings:
            log.warning("agent.config", extra={"fields": {"warning": warning}})
        log.info("agent.started", extra={"fields": {"version": __version__, "http": self.http_address}})

    async def _until_told(self, nursery: trio.Nursery) -> None:
        """SIGINT and SIGTERM stop the agent, SIGHUP reloads its configuration."""
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async for number in signals:
                name = signal.Signals(number).name
                if number == signal.SIGHUP:
                    self._on_hangup()
                    continue
                log.info("agent.stopping", extra={"fields": {"signal": name}})
                nursery.cancel_scope.cancel()
                break
        # Whoever asks a second time does not want to wait for tasks that resist.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _give_up)

    def _on_hangup(self) -> None:
        try:
            self.reload()
        except NomadError as error:
            log.error("agent.reload_failed", extra={"fields": {"error": error.message}})

    def reload(self) -> None:
        """Reads the configuration again and takes over what can change while the agent runs: the log level and the
        TLS certificates. Raises NomadError and leaves everything as it was when the configuration is wrong."""
        level = self._reload() if self._reload is not None else self.config.log_level
        if self._http is not None:
            self._http.reload_tls()
        log.info("agent.reloaded", extra={"fields": {"log_level": level}})


def _give_up(number: int, frame: FrameType | None) -> None:
    os.write(2, b"nomadpy agent: told to stop again, so it ends now; tasks that resisted may still run\n")
    os._exit(1)


def _why_deaf(host: str, port: int, error: OSError | UnicodeError) -> str:
    """Why the agent cannot listen there, and which setting would help."""
    number = error.errno if isinstance(error, OSError) else None
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if number == errno.EADDRINUSE:
        hint = "Is another agent running? Choose another port with -http-port"
    elif number == errno.EACCES:
        hint = "choose a port that needs no privileges with -http-port"
    else:
        hint = "check bind_addr / addresses.http"
    return f"cannot listen on {host}:{port}: {reason}; {hint}"


def _tls_files(config: AgentConfig) -> TlsFiles:
    tls = config.tls
    return TlsFiles(tls.cert_file, tls.key_file, tls.ca_file, tls.verify_https_client)


def _stored_id(path: Path) -> str:
    """The id in the file; a new one is written when there is none."""
    if path.exists():
        return path.read_text().strip()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = new_uuid(EDGE_RNG)
    path.write_text(made)
    return made


def _has_port(address: str) -> bool:
    return address.rpartition(":")[2].isdigit() and (address.count(":") == 1 or address.startswith("["))


def _advertised(bind: str) -> str:
    """An address that others can reach: the bound one, or the machine's own when everything is bound."""
    if bind not in ("0.0.0.0", "::", ""):
        return bind
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # A UDP connect sends nothing; it only asks the routing table which address would be used.
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
