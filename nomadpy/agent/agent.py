"""One agent: a server, a client or both in one process, and the HTTP API in front of them."""

from __future__ import annotations

import errno
import functools
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
from nomadpy.agent.client_network import ClientNetwork
from nomadpy.agent.client_servers import OtherServers, OwnServer
from nomadpy.agent.collector import collect_seldom
from nomadpy.agent.config import AgentConfig
from nomadpy.agent.data_lock import DataLock
from nomadpy.agent.hearing import HearingEndpoint
from nomadpy.agent.logs import LogTap
from nomadpy.agent.loop_lag import LoopLag
from nomadpy.agent.network import ServerNetwork
from nomadpy.agent.selfview import config_view
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
from nomadpy.drivers.devices import load_device_plugins
from nomadpy.drivers.registry import load_drivers
from nomadpy.gossip.contract import Health
from nomadpy.gossip.health import Sampler
from nomadpy.model.errors import Invalid, NomadError
from nomadpy.model.ids import EDGE_RNG, new_uuid
from nomadpy.raft.contract import Apply, Log
from nomadpy.raft.raftlog import RaftLog, Snapshots
from nomadpy.rpc.contract import ServerEndpoint
from nomadpy.rpc.tls import RpcTls, RpcTlsFiles
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
        self._rpc_tls: RpcTls | None = None
        self.network: ServerNetwork | ClientNetwork | None = None
        self.http_address = ""
        self._http: HttpServer | None = None
        self._loop_lag = LoopLag()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Starts everything in order, reports started once the API answers, and stops in the opposite order."""
        lock = DataLock(self.config.data_dir)
        try:
            await self._run(task_status)
        finally:
            lock.release()

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        config = self.config
        listeners: list[Any] = list(await self._bind())
        if config.tls.http:
            listeners = [TlsListener(listener, _tls_files(config)) for listener in listeners]
        self._rpc_tls = self._make_rpc_tls()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._loop_lag.run)
            identity = self._identity() if config.client_enabled else None
            if config.server_enabled:
                await self._start_server(nursery)
            elif identity is not None:
                self.network = self._client_network(identity.node_id)
                await nursery.start(self.network.run)
            if identity is not None:
                self.client = self._make_client(self._endpoint(), identity)
                await nursery.start(self.client.run)
                self._introduce_client(self.client)
            router = Router(self._context(), OPERATIONS)
            http = HttpConfig(max_connections_per_address=config.http_max_conns_per_client)
            self._http = await nursery.start(functools.partial(serve, router, listeners, config=http))
            if self.network is not None:
                self.network.serve_http(router)
                nursery.start_soon(self.network.join)
            nursery.start_soon(collect_seldom, self._loop_lag.is_quiet)
            self._announce()
            task_status.started()
            await self._until_told(nursery)

    # --- parts -----------------------------------------------------------------------------------------------------

    async def _start_server(self, nursery: trio.Nursery) -> None:
        if self.config.dev_mode:
            self.server = server = Server(self._server_config(self.config.ports.rpc), self._lone_log)
        else:
            listeners = await self._bind_rpc()
            config = self._server_config(listeners[0].socket.getsockname()[1])
            self.network = network = self._server_network(config, listeners)
            self.server = server = Server(config, network.make_log)
            network.attach(server)
            await nursery.start(network.run)
        await nursery.start(server.run)

    def _introduce_client(self, client: Client) -> None:
        if self.server is not None:
            self.server.clients[client.node_id] = client
        if isinstance(self.network, ServerNetwork):
            self.network.set_node_id(client.node_id)

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

    async def _bind_rpc(self) -> list[trio.SocketListener]:
        config = self.config
        host = _one_host(config.addresses.rpc or config.bind_addr)
        try:
            return list(await trio.open_tcp_listeners(config.ports.rpc, host=host))
        except (OSError, UnicodeError) as error:
            raise Invalid(_why_deaf(host, config.ports.rpc, error, "rpc")) from error

    def _server_config(self, rpc_port: int) -> Any:
        config = self.config
        host = config.advertise.rpc or _advertised(config.addresses.rpc or config.bind_addr)
        rpc_addr = host if _has_port(host) else f"{host}:{rpc_port}"
        serf_host = rpc_addr.rpartition(":")[0]
        return config.server.replace(
            name=config.name,
            region=config.region,
            datacenter=config.datacenter,
            id=self._server_id(),
            alone=config.bootstrap_expect == 1,
            rpc_addr=rpc_addr,
            serf_addr=f"{serf_host}:{config.ports.serf}",
        )

    def _server_id(self) -> str:
        if self.config.dev_mode:
            return new_uuid(EDGE_RNG)
        return _stored_id(Path(self.config.data_dir) / "server" / "server-id")

    def _lone_log(self, apply: Apply) -> Log:
        """The log of a server that has no others and forgets everything: the same one, in a directory that goes."""
        return RaftLog(
            Path(self.config.data_dir) / "server" / "raft",
            apply,
            name=new_uuid(EDGE_RNG),
            snapshots=Snapshots(self._freeze, self._restore, self.config.raft_snapshot_threshold),
        )

    def _freeze(self) -> Callable[[], bytes]:
        assert self.server is not None
        return self.server.freeze_state()

    def _restore(self, index: int, data: bytes) -> None:
        assert self.server is not None
        self.server.restore_state(index, data)

    def _server_network(self, server: Any, listeners: list[trio.SocketListener]) -> ServerNetwork:
        config = self.config
        return ServerNetwork(
            config,
            server_id=server.id,
            listeners=listeners,
            rpc_addr=server.rpc_addr,
            serf_bind=(_one_host(config.addresses.serf or config.bind_addr), config.ports.serf),
            serf_addr=server.serf_addr,
            tls=self._rpc_tls,
            sample=self._sampler(),
        )

    def _client_network(self, node_id: str) -> ClientNetwork:
        config = self.config
        host = config.advertise.serf or _advertised(config.addresses.serf or config.bind_addr)
        return ClientNetwork(
            config,
            node_id=node_id,
            serf_bind=(_one_host(config.addresses.serf or config.bind_addr), config.ports.serf),
            serf_addr=host if _has_port(host) else f"{host}:{config.ports.serf}",
            tls=self._rpc_tls,
            sample=self._sampler(),
        )

    def _make_rpc_tls(self) -> RpcTls | None:
        tls = self.config.tls
        if not tls.rpc:
            return None
        return RpcTls(
            RpcTlsFiles(
                ca_file=tls.ca_file,
                cert_file=tls.cert_file,
                key_file=tls.key_file,
                region=self.config.region,
                verify_server_hostname=tls.verify_server_hostname,
            )
        )

    def _sampler(self) -> Callable[[], Health]:
        sampler = Sampler(self.config.data_dir)

        def sample() -> Health:
            node = self.client.node if self.client is not None else None
            drivers = node.drivers.items() if node is not None else ()
            return sampler.sample(tuple(sorted(name for name, one in drivers if one.detected and not one.healthy)))

        return sample

    def _endpoint(self) -> ServerEndpoint:
        if isinstance(self.network, ServerNetwork):
            return self.network.endpoint
        if isinstance(self.network, ClientNetwork):
            return HearingEndpoint(self.network.endpoint, self.network.hear_lease)
        assert self.server is not None
        return self.server.nodes

    def _identity(self) -> Any:
        directory = None if self.config.dev_mode else self.config.client.state_dir
        return load_identity(directory, random.SystemRandom())

    def _make_client(self, endpoint: ServerEndpoint, identity: Any) -> Client:
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
        devices = load_device_plugins(client_config.plugins, dev_mode=config.dev_mode)
        return Client(
            client_config, endpoint, load_drivers(context_for), identity=identity, task_hooks=hooks, devices=devices
        )

    def _context(self) -> ApiContext:
        config = self.config
        return ApiContext(
            region=config.region,
            node_name=config.name,
            server=self.server,
            client=self.client,
            config=config_view(config),
            version=__version__,
            monitor=self._tap,
            stats=self._stats,
            response_headers=config.http_api_response_headers,
            prometheus_enabled=config.prometheus_metrics,
            reload=self.reload,
            forwarding=self.network,
            gossip=self.network.gossip if self.network is not None else None,
            gossip_statistics=self.network.gossip.statistics if self.network is not None else None,
            listener_statistics=self.network.listener_statistics if isinstance(self.network, ServerNetwork) else None,
            loop_lag=self._loop_lag.quantiles,
            leader_address=self.leader_address,
            client_servers=self._client_servers(),
        )

    def _client_servers(self) -> OtherServers | OwnServer | None:
        if isinstance(self.network, ClientNetwork):
            return OtherServers(self.network.remote)
        return OwnServer(self.server.known_servers, self.server.config.rpc_addr) if self.server is not None else None

    def _stats(self) -> dict[str, dict[str, str]]:
        out = {"runtime": {"version": platform.python_version(), "arch": platform.machine(), "kernel.name": "linux"}}
        if self.server is not None:
            statistics = self.server.log.statistics()
            out["nomad"] = {
                "server": "true",
                "leader": str(self.server.log.is_leader).lower(),
                "leader_addr": self.leader_address(),
                "bootstrap": str(self.config.bootstrap_expect == 1).lower(),
                "known_regions": "1",
            }
            out["raft"] = {
                "state": "Leader" if self.server.log.is_leader else "Follower",
                "term": str(statistics.term),
                "last_log_index": str(statistics.last_index),
                "applied_index": str(statistics.applied_index),
                "num_peers": str(max(0, len(self.server.known_servers()) - 1)),
            }
        if self.client is not None:
            out["client"] = {"node_id": self.client.node_id, "known_servers": self._servers()}
        return out

    def _servers(self) -> str:
        if isinstance(self.network, ClientNetwork):
            return ", ".join(self.network.remote.servers())
        return ", ".join(self.server.known_servers()) if self.server is not None else ""

    def leader_address(self) -> str:
        """Where the leader listens for agents, "" when nobody is known to lead."""
        if isinstance(self.network, ServerNetwork):
            return self.network.leader_address()
        return self.server.config.rpc_addr if self.server is not None and self.server.log.is_leader else ""

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
                await self._say_goodbye(number)
                nursery.cancel_scope.cancel()
                break
        # Whoever asks a second time does not want to wait for tasks that resist.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _give_up)

    async def _say_goodbye(self, number: int) -> None:
        """Leaves for good where the configuration says so; otherwise the others wait for this agent to come back. A
        client takes its leave of gossip, which would call it dead within seconds: its tasks run on, and until its lease
        ends it may come back to them."""
        config = self.config
        leaves = config.leave_on_interrupt if number == signal.SIGINT else config.leave_on_terminate
        if self.network is not None and (leaves or isinstance(self.network, ClientNetwork)):
            await self.network.gossip.leave()

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
        if self._rpc_tls is not None:
            self._rpc_tls.reload()
        log.info("agent.reloaded", extra={"fields": {"log_level": level}})


def _give_up(number: int, frame: FrameType | None) -> None:
    os.write(2, b"nomadpy agent: told to stop again, so it ends now; tasks that resisted may still run\n")
    os._exit(1)


def _why_deaf(host: str, port: int, error: OSError | UnicodeError, what: str = "http") -> str:
    """Why the agent cannot listen there, and which setting would help."""
    number = error.errno if isinstance(error, OSError) else None
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if number == errno.EADDRINUSE:
        hint = f"Is another agent running? Choose another port with -{what}-port"
    elif number == errno.EACCES:
        hint = f"choose a port that needs no privileges with -{what}-port"
    else:
        hint = f"check bind_addr / addresses.{what}"
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


def _one_host(bind: str) -> str:
    """The first of several addresses to bind."""
    return bind.split()[0]


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
