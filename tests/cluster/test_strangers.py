"""Whoever does not belong to the cluster, at the ports of its agents: turned away and counted, and nothing changes."""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import select
import signal
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from call_history import DONE, WRITE, Op
from cluster_agents import Cluster, Machine, is_alive, until
from register_writers import Writers, check, write
from trouble import picture

from nomadpy.raft.links import Hello as RaftHello
from nomadpy.rpc.frames import SERVER, Hello, pack

RAFT, RPC = b"\x01", b"\x02"
RPC_PORT, GOSSIP_PORT = 4647, 4648
# Strangers come from an address of their own, so that they do not use up what is left for agents; the crowd of them
# from many, each with as many connections as one may have.
STRANGER, CROWD = "127.99.7.5", "127.99.8"
PER_ADDRESS = 100
N_IDLE = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 2)


class Spell:
    """What unpickling it would do."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._path), "w")


def framed(data: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}I", len(data)) + data


def noises(pickled: bytes) -> list[bytes]:
    """What strangers say on the port for agents."""
    return [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        pickled,
        RAFT + framed(pickled),
        RPC + framed(pickled),
        RAFT + b"\xff" * 4 + b"x" * 1000,
        RPC + b"\xff" * 4 + b"x" * 1000,
        RAFT + framed(b"\x94\x01\x02\x03\x04"),
        RPC + framed(b"\xc1" * 50),
        RPC + pack(Hello(role=SERVER, name="s1", id="not-a-server", region="elsewhere")),
        b"\x7f" + os.urandom(5000),
    ]


def connect(server: Machine, port: int, *, address: str = STRANGER) -> socket.socket:
    made = socket.socket()
    made.settimeout(30)
    made.bind((address, 0))
    made.connect((server.address, port))
    return made


@contextlib.contextmanager
def many_descriptors() -> Iterator[None]:
    """This process may have as many files open as it can be given."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Crowd:
    """Connections to the port for agents that say nothing, or begin a frame and stop."""

    def __init__(self, server: Machine) -> None:
        halves = [connect(server, RPC_PORT) for _ in range(20)]
        for half in halves:
            half.sendall(RPC + struct.pack("<I", 100) + b"half")
        # More than one address may have.
        surplus = [connect(server, RPC_PORT) for _ in range(PER_ADDRESS + 50)]
        idle = [connect(server, RPC_PORT, address=f"{CROWD}.{n // PER_ADDRESS + 1}") for n in range(N_IDLE)]
        self._open = {one.fileno(): one for one in (*halves, *surplus, *idle)}
        self._poll = select.poll()
        for one in self._open:
            self._poll.register(one, select.POLLIN)

    def is_gone(self) -> bool:
        """Whether the server closed them all; does not wait."""
        for number, _ in self._poll.poll(0):
            if not _says_more(self._open[number]):
                self._poll.unregister(number)
                self._open.pop(number).close()
        return not self._open

    def close(self) -> None:
        """Those that the server did not close."""
        for one in self._open.values():
            one.close()


def _says_more(one: socket.socket) -> bool:
    try:
        return bool(one.recv(65536))
    except ConnectionError:
        return False


def is_closed(one: socket.socket) -> bool:
    """Whether the other end closed the connection, within the socket's time; what it said before is read away."""
    try:
        while one.recv(65536):
            pass
    except TimeoutError:
        return False
    except (ConnectionError, ssl.SSLError):
        pass
    return True


def gauges(machine: Machine) -> dict[str, float]:
    """The agent's counters by name, those with labels added up."""
    found: dict[str, float] = {}
    for one in machine.api.get("/v1/metrics")["Gauges"]:
        found[one["Name"]] = found.get(one["Name"], 0) + one["Value"]
    return found


def test_noise_at_the_ports_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    cluster.submit(cluster.witness_job("noise", 3))
    cluster.wait_running("noise", 3)
    before, members = picture(cluster, "noise"), cluster.get("/v1/agent/members")["Members"]
    state = cluster.wait_leader().state()
    counted = {server.name: gauges(server) for server in cluster.servers}
    pickled = pickle.dumps(Spell(tmp_path / "unpickled"))
    with Writers(cluster, 8, keys=4, name="noise", pause_s=0.02) as writers, many_descriptors():
        for server in cluster.servers:
            for noise in noises(pickled):
                with connect(server, RPC_PORT) as one, contextlib.suppress(OSError):
                    one.sendall(noise)
                    assert is_closed(one), noise[:40]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                udp.bind((STRANGER, 0))
                for noise in (b"", b"x", pickled, os.urandom(1400), b"\x00" * 60000):
                    udp.sendto(noise, (server.address, GOSSIP_PORT))
            for noise in (pickled, b"\xff" * 2000, framed(pickled, ">")):
                # It may be gone before it could be told that nothing follows.
                with connect(server, GOSSIP_PORT) as one, contextlib.suppress(OSError):
                    one.sendall(noise)
                    one.shutdown(socket.SHUT_WR)
                    assert is_closed(one), noise[:40]
        with contextlib.closing(Crowd(cluster.servers[0])) as crowd:
            writers.wait_more(50)
            until(crowd.is_gone, "the end of all connections", timeout_s=60)
        writers.wait_more(50)
    now = {server.name: gauges(server) for server in cluster.servers}
    for name, kinds in {
        "s1": ("strangers", "malformed", "silent", "too_many"),
        "s2": ("strangers", "malformed"),
        "s3": ("strangers", "malformed"),
    }.items():
        for kind in kinds:
            assert now[name][f"nomad.nomad.rpc.{kind}"] > counted[name].get(f"nomad.nomad.rpc.{kind}", 0), (name, kind)
    assert not (tmp_path / "unpickled").exists(), "somebody unpickled what came over the wire"
    assert int(cluster.wait_leader().state()["term"]) <= int(state["term"]) + 2, "elections of a busy machine apart"
    after = cluster.get("/v1/agent/members")["Members"]
    assert [(m["Name"], m["Status"]) for m in after] == [(m["Name"], m["Status"]) for m in members]
    check(cluster, writers.history)
    assert picture(cluster, "noise") == before
    assert all(is_alive(pid) for _, pid in before["starts"])
    assert [fault for machine in cluster.machines for fault in machine.faults()] == []
    cluster.purge("noise")


# --- with TLS


class Authority:
    """A certificate authority and the files that it made."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._ca = directory, trustme.CA()
        directory.mkdir()
        self.ca_file = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(self.ca_file)

    def certificate(self, *names: str) -> tuple[Path, Path]:
        """The files of a certificate and of its key."""
        made = self._ca.issue_cert(*names)
        cert, key = (self._directory / f"{'-'.join(names)}.{kind}" for kind in ("pem", "key"))
        cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        made.private_key_pem.write_to_path(key)
        return cert, key

    def config(self, *names: str) -> str:
        """The agent's block."""
        cert, key = self.certificate(*names)
        files = f'ca_file = "{self.ca_file}"\ncert_file = "{cert}"\nkey_file = "{key}"\n'
        return f"tls {{\nrpc = true\nverify_server_hostname = true\n{files}}}\n"


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[tuple[Cluster, Authority]]:
    """Servers and a client that talk over TLS."""
    authority = Authority(tmp_path / "authority")
    config = authority.config("server.global.nomad", "localhost")
    cluster = Cluster(tmp_path / "cluster", clients=1, more=config, client_more=authority.config("client.global.nomad"))
    with contextlib.closing(cluster):
        yield cluster.start(), authority


def _say(server: Machine, context: ssl.SSLContext, said: bytes) -> bool:
    """Whether the server closed the connection after TLS and these words, or before."""
    with connect(server, RPC_PORT) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="server.global.nomad") as one:
                one.sendall(said)
                return is_closed(one)
        except (ssl.SSLError, ConnectionError):
            return True


def _shown(server: Machine, context: ssl.SSLContext) -> bytes | None:
    with connect(server, RPC_PORT) as plain, context.wrap_socket(plain, server_hostname="server.global.nomad") as one:
        return one.getpeercert(binary_form=True)


def _changes_its_certificate(server: Machine, authority: Authority) -> None:
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    context.load_cert_chain(*authority.certificate("client.global.nomad"))
    before = _shown(server, context)
    authority.certificate("server.global.nomad", "localhost")  # in the place of the one before
    server.send(signal.SIGHUP)
    until(lambda: _shown(server, context) != before, "another certificate")


def test_certificates_of_others_and_of_clients_open_no_doors(locked: tuple[Cluster, Authority], tmp_path: Path) -> None:
    cluster, authority = locked
    leader = cluster.wait_leader()
    state, counted = leader.state(), gauges(leader)
    ids = [one["ID"] for one in cluster.get("/v1/operator/raft/configuration")["Servers"]]
    other = Authority(tmp_path / "other")
    tags = {one["Name"]: one["Tags"] for one in cluster.get("/v1/agent/members")["Members"]}
    name = cluster.followers()[0].name
    its_id, cluster_id = tags[f"{name}.global"]["id"], tags[f"{name}.global"]["cluster"]
    as_server = RPC + pack(Hello(role=SERVER, name=name, id=its_id, region="global"))
    as_raft = RAFT + framed(msgspec.msgpack.encode(RaftHello(its_id, cluster_id)))
    client_files = authority.certificate("client.global.nomad")
    stranger_files = other.certificate("server.global.nomad")
    another_servers = authority.certificate("server.global.nomad", "s9.server.global.nomad")
    cases = [("no certificate", None, RAFT), ("another authority", stranger_files, RAFT)]
    cases += [
        ("a client as raft", client_files, RAFT + framed(b"x" * 40)),
        ("a client as server", client_files, as_server),
        ("another server's name as server", another_servers, as_server),
        ("another server's name as raft", another_servers, as_raft),
    ]
    for what, files, said in cases:
        context = ssl.create_default_context(cafile=str(authority.ca_file))
        if files is not None:
            context.load_cert_chain(*files)
        assert _say(leader, context, said), what
    assert leader.log().count(f"the certificate is for the server s9, not for {name}") == 2
    with connect(leader, RPC_PORT) as plain:
        plain.sendall(RAFT + framed(b"x" * 40))
        assert is_closed(plain)
    assert gauges(leader)["nomad.nomad.rpc.tls_failed"] >= counted.get("nomad.nomad.rpc.tls_failed", 0) + 3
    _changes_its_certificate(leader, authority)
    assert int(cluster.wait_leader().state()["term"]) <= int(state["term"]) + 2
    assert [one["ID"] for one in cluster.get("/v1/operator/raft/configuration")["Servers"]] == ids
    assert write(leader, Op("locked", WRITE, str(time.time())), timeout_s=10).outcome == DONE
    cluster.wait_nodes(["c1"])
    assert [fault for machine in cluster.machines for fault in machine.faults()] == []
