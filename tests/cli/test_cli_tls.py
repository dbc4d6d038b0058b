"""``nomadpy tls``: certificates that our own agents accept, and files that are never overwritten."""

from __future__ import annotations

import datetime as dt
import json
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from nomadpy.model.errors import Forbidden
from nomadpy.rpc.peer import Peer
from nomadpy.rpc.tls import RpcTls, RpcTlsFiles

Run = Callable[..., Any]
CA, CA_KEY = "nomad-agent-ca.pem", "nomad-agent-ca-key.pem"


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOMAD_REGION", raising=False)


def _info(nomadpy: Run, what: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(nomadpy("tls", what, "info", "-json", path).out)
    return found


def test_an_authority_and_a_certificate_of_each_kind(nomadpy: Run) -> None:
    made = nomadpy("tls", "ca", "create")
    assert (made.code, made.err) == (0, "")
    assert made.out.splitlines() == [f"CA certificate saved to {CA}", f"CA certificate key saved to {CA_KEY}"]
    for kind in ("server", "client", "cli"):
        assert nomadpy("tls", "cert", "create", f"-{kind}").code == 0
        found = _info(nomadpy, "cert", f"global-{kind}-nomad.pem")
        assert found["DNSNames"] == [f"{kind}.global.nomad", "localhost"]
        assert (found["IPAddresses"], found["IsCA"]) == (["127.0.0.1"], False)
    keys = [CA_KEY, *(f"global-{kind}-nomad-key.pem" for kind in ("server", "client", "cli"))]
    assert {stat.S_IMODE(Path(key).stat().st_mode) for key in keys} == {0o600}


def test_flags_shape_the_certificate(nomadpy: Run) -> None:
    flags = [
        "-domain",
        "corp",
        "-name-constraint",
        "-additional-domain=example.com",
        "-common-name",
        "Ours",
        "-days=30",
    ]
    assert nomadpy("tls", "ca", "create", *flags).code == 0
    ca = _info(nomadpy, "ca", "corp-agent-ca.pem")
    assert (ca["CommonName"], ca["IsCA"]) == ("Ours", True)
    assert ca["PermittedDNSDomains"] == ["corp", "localhost", "example.com"]
    more = ["-additional-dnsname", "a.example.com", "-additional-dnsname=b.corp", "-additional-ipaddress", "10.1.2.3"]
    named = ["-domain=corp", "-region", "europe", "-node", "s1", "-days=7"]
    assert nomadpy("tls", "cert", "create", "-server", *named, *more).code == 0
    found = _info(nomadpy, "cert", "europe-server-s1-corp.pem")
    names = ["server.europe.corp", "s1.server.europe.corp", "a.example.com", "b.corp", "localhost"]
    assert found["DNSNames"] == names
    assert found["IPAddresses"] == ["10.1.2.3", "127.0.0.1"]
    left = dt.datetime.fromisoformat(found["ExpiryDate"]) - dt.datetime.now(dt.UTC)
    assert dt.timedelta(days=6) < left <= dt.timedelta(days=7)
    assert nomadpy("tls", "cert", "create", "-client", "-domain=corp", "-cluster-region=asia", "-days=7").code == 0
    assert Path("asia-client-corp.pem").exists()


def test_what_exists_is_never_overwritten(nomadpy: Run) -> None:
    nomadpy("tls", "ca", "create")
    before = {name: Path(name).read_bytes() for name in (CA, CA_KEY)}
    again = nomadpy("tls", "ca", "create")
    assert (again.code, again.err) == (1, f"Error: {CA} exists already; nothing was written\n")
    Path("global-server-nomad-key.pem").write_text("mine")
    refused = nomadpy("tls", "cert", "create", "-server")
    assert "global-server-nomad-key.pem exists already" in refused.err
    assert not Path("global-server-nomad.pem").exists()
    assert {name: Path(name).read_bytes() for name in (CA, CA_KEY)} == before


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["cert", "create"], "one of -server, -client and -cli"),
        (["cert", "create", "-server", "-client"], "one of -server, -client and -cli"),
        (["cert", "create", "-client", "-node", "x"], "-node goes with -server only"),
        (["cert", "create", "-server", "-node", "a.b"], 'the node name "a.b" cannot be part of a DNS name'),
        (["cert", "create", "-server", "-region", "a b"], 'the region "a b" cannot be part'),
        (["cert", "create", "-server", "-days", "0"], "cannot be valid for 0 days"),
        (["cert", "create", "-server", "-days", "9999"], "the authority expires on"),
        (["cert", "create", "-server", "-additional-ipaddress", "10.0"], "'10.0' does not appear to be"),
        (["cert", "create", "-server", "-additional-dnsname", "ü"], "is not a DNS name"),
        (["cert", "create", "-server", "-ca", "nothing.pem"], "nothing.pem: No such file"),
        (["cert", "create", "-server", "-key", "other-agent-ca-key.pem"], "the key does not belong to the authority"),
        (["cert", "create", "-server", "-ca", CA_KEY], "cannot read the authority's certificate"),
        (
            ["cert", "create", "-server", "-ca=global-cli-nomad.pem", "-key=global-cli-nomad-key.pem"],
            "not one of an auth",
        ),
        (["ca", "create", "-domain=x", "-additional-domain=y"], "-additional-domain needs -name-constraint"),
        (["ca", "create", "-domain=x", "-country=Germany"], "the subject of the authority"),
        (["cert", "info", CA_KEY], f"{CA_KEY}: no certificate in PEM form"),
    ],
)
def test_mistakes_get_one_clear_line(nomadpy: Run, args: list[str], said: str) -> None:
    for made in (["ca", "create"], ["ca", "create", "-domain=other"], ["cert", "create", "-cli"]):
        assert nomadpy("tls", *made).code == 0
    files = set(Path().iterdir())
    seen = nomadpy("tls", *args)
    assert seen.code == 1
    assert said in seen.err
    assert seen.err.count("Error:") == 1
    assert set(Path().iterdir()) == files


def test_info_is_readable(nomadpy: Run) -> None:
    nomadpy("tls", "ca", "create")
    out = nomadpy("tls", "ca", "info").out
    assert "Common Name   = Nomad Agent CA " in out
    assert "Authority     = yes" in out


async def test_agents_accept_each_others_certificates(nomadpy: Run) -> None:
    for args in (["ca", "create"], ["cert", "create", "-server", "-node", "s1"], ["cert", "create", "-client"]):
        assert nomadpy("tls", *args).code == 0

    def tls(stem: str) -> RpcTls:
        files = RpcTlsFiles(
            ca_file=CA, cert_file=f"{stem}.pem", key_file=f"{stem}-key.pem", verify_server_hostname=True
        )
        return RpcTls(files)

    server, client = tls("global-server-s1-nomad"), tls("global-client-nomad")
    for one in (server, client):
        assert one.problems() == []
        for context in (one._accepting, one._dialing):
            context.verify_flags |= ssl.VERIFY_X509_STRICT
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        dialed = client.wrap_dialed(await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1]))
        accepted = server.wrap_accepted(await listener.accept())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dialed.do_handshake)
            nursery.start_soon(accepted.do_handshake)
        names = [
            frozenset(value for kind, value in stream.getpeercert()["subjectAltName"] if kind == "DNS")
            for stream in (dialed, accepted)
        ]
        for stream in (dialed, accepted):
            await trio.aclose_forcefully(stream)
    client.check_peer(Peer(role="server", name="s1", certificate_names=names[0]))
    server.check_peer(Peer(role="client", name="n1", certificate_names=names[1]))
    with pytest.raises(Forbidden, match="for the server s1, not for s2"):
        client.check_peer(Peer(role="server", name="s2", certificate_names=names[0]))
    with pytest.raises(Forbidden, match="not one of a server"):
        server.check_peer(Peer(role="server", name="n1", certificate_names=names[1]))
