"""The HTTP client: where it goes, what it sends, how it tells of failures."""

from __future__ import annotations

import http.server
import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from nomadpy.cli import http as client
from nomadpy.cli.failures import ApiError, CommandFailed, Unreachable, UsageProblem
from nomadpy.cli.http import Settings

_open: list[client.Api] = []


def api_of(settings: Settings) -> client.Api:
    """An API client that is closed when the test is over."""
    _open.append(client.Api(settings))
    return _open[-1]


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while _open:
        _open.pop().close()


def test_flags_win_over_the_environment() -> None:
    environ = {"NOMAD_ADDR": "http://env:1", "NOMAD_TOKEN": "env", "NOMAD_SKIP_VERIFY": "true"}
    settings = Settings.of({"address": "http://flag:2", "token": None}, environ)
    assert (settings.address, settings.token, settings.skip_verify) == ("http://flag:2", "env", True)
    assert Settings.of({}, {}).address == "http://127.0.0.1:4646"


def test_region_namespace_and_token_go_along(agent: Any) -> None:
    agent.on("GET", "/v1/jobs", [])
    settings = Settings(address=agent.address, region="eu", namespace="shop", token="s3cr3t", basic_auth="u:p")
    assert api_of(settings).get("/v1/jobs", prefix="a b", meta=True, filter=None) == []
    request = agent.asked("GET", "/v1/jobs")
    assert request.query == {"region": ["eu"], "namespace": ["shop"], "prefix": ["a b"], "meta": ["true"]}
    assert request.headers["X-Nomad-Token"] == "s3cr3t"
    assert request.headers["Authorization"] == "Basic dTpw"


def test_a_query_overrides_the_default_namespace(agent: Any) -> None:
    agent.on("GET", "/v1/jobs", [])
    api_of(Settings(address=agent.address, namespace="a")).get("/v1/jobs", namespace="*")
    assert agent.asked("GET", "/v1/jobs").query["namespace"] == ["*"]


def test_error_texts_are_kept(agent: Any) -> None:
    agent.on("GET", "/v1/job/x", (404, "job not found"))
    with pytest.raises(ApiError) as caught:
        api_of(Settings(address=agent.address)).get("/v1/job/x")
    assert str(caught.value) == "job not found (HTTP 404 from GET /v1/job/x)"
    assert (caught.value.status, caught.value.body) == (404, "job not found")


def test_a_route_that_the_agent_does_not_know(agent: Any) -> None:
    agent.on("GET", "/v1/none", (404, ""))
    with pytest.raises(ApiError, match="the agent knows no such route: /v1/none"):
        api_of(Settings(address=agent.address)).get("/v1/none")


def test_an_answer_that_is_no_json(agent: Any) -> None:
    agent.on("GET", "/v1/jobs", b"<html>")
    with pytest.raises(CommandFailed, match="not JSON: is it an agent"):
        api_of(Settings(address=agent.address)).get("/v1/jobs")


def test_an_empty_answer_is_nothing(agent: Any) -> None:
    agent.on("PUT", "/v1/system/gc", b"")
    assert api_of(Settings(address=agent.address)).put("/v1/system/gc", {}) is None


@pytest.mark.parametrize("address", ["ftp://x", "http://", "http://host:port", "http://host:99999"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(UsageProblem, match="address"):
        api_of(Settings(address=address))


def test_a_bare_host_and_port_is_http(agent: Any) -> None:
    agent.on("GET", "/v1/jobs", [1])
    assert api_of(Settings(address=agent.address.removeprefix("http://"))).get("/v1/jobs") == [1]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b'"ok"')

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


@pytest.fixture
def serve() -> Iterator[Callable[[socketserver.BaseServer], None]]:
    """Runs a server until the test is over."""
    running: list[tuple[socketserver.BaseServer, threading.Thread]] = []

    def start(server: socketserver.BaseServer) -> None:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        running.append((server, thread))

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join(5)


def test_a_unix_socket(tmp_path: Path, serve: Callable[[Any], None]) -> None:
    path = tmp_path / "api.sock"

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

        def get_request(self) -> tuple[socket.socket, Any]:
            connection, _ = super().get_request()
            return connection, ("local", 0)

    serve(Server(str(path), _Handler))
    assert api_of(Settings(address=f"unix://{path}")).get("/v1/status/leader") == "ok"


def test_a_unix_socket_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="no agent answers at unix:"):
        api_of(Settings(address=f"unix://{tmp_path}/none.sock")).get("/v1/jobs")


def tls_server(authority: trustme.CA, name: str, client_authority: trustme.CA | None = None) -> Any:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    if client_authority:
        client_authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server


def test_tls_with_a_server_name_and_a_client_certificate(tmp_path: Path, serve: Callable[[Any], None]) -> None:
    authority = trustme.CA()
    server = tls_server(authority, "server.global.nomad", authority)
    serve(server)
    ca, own = tmp_path / "ca.pem", tmp_path / "own.pem"
    authority.cert_pem.write_to_path(str(ca))
    authority.issue_cert("cli.global.nomad").private_key_and_cert_chain_pem.write_to_path(str(own))
    settings = Settings(
        address=f"https://127.0.0.1:{server.server_address[1]}",
        ca_cert=str(ca),
        client_cert=str(own),
        tls_server_name="server.global.nomad",
    )
    assert api_of(settings).get("/v1/status/leader") == "ok"


def test_tls_does_not_trust_strangers_unless_told(serve: Callable[[Any], None]) -> None:
    server = tls_server(trustme.CA(), "127.0.0.1")
    server.handle_error = lambda *_: None
    serve(server)
    address = f"https://127.0.0.1:{server.server_address[1]}"
    with pytest.raises(Unreachable, match="certificate verify failed"):
        api_of(Settings(address=address)).get("/v1/status/leader")
    assert api_of(Settings(address=address, skip_verify=True)).get("/v1/status/leader") == "ok"


def test_tls_where_there_is_none_and_none_where_there_is(agent: Any, serve: Callable[[Any], None]) -> None:
    with pytest.raises(Unreachable, match="does not speak TLS"):
        api_of(Settings(address=agent.address.replace("http:", "https:"))).get("/v1/jobs")
    server = tls_server(trustme.CA(), "127.0.0.1")
    server.handle_error = lambda *_: None
    serve(server)
    with pytest.raises(Unreachable, match=r"cannot talk|does not speak"):
        api_of(Settings(address=f"http://127.0.0.1:{server.server_address[1]}")).get("/v1/jobs")


def test_missing_tls_files_are_named() -> None:
    with pytest.raises(UsageProblem, match="TLS files"):
        api_of(Settings(address="https://127.0.0.1:1", ca_cert="/none.pem")).get("/v1/jobs")


def raw_server(answers: list[bytes]) -> tuple[str, threading.Thread]:
    """Takes one connection for each answer, reads a request, sends the answer and closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with listener:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}", thread


def test_a_read_is_repeated_when_the_idle_connection_was_closed() -> None:
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"ok"'
    address, thread = raw_server([answer, answer])
    api = api_of(Settings(address=address))
    assert [api.get("/v1/a"), api.get("/v1/b")] == ["ok", "ok"]
    thread.join(5)


def test_an_agent_that_hangs_up() -> None:
    address, thread = raw_server([b""])
    with pytest.raises(Unreachable, match="cannot talk to the agent"):
        api_of(Settings(address=address)).get("/v1/a")
    thread.join(5)


def test_frames_may_be_cut_anywhere() -> None:
    text = "".join(json.dumps(one, ensure_ascii=False) for one in ({"Data": "é"}, {}, {"Offset": 7}, {"File": "b"}))
    raw = text.encode()
    chunks = [raw[at : at + 3] for at in range(0, len(raw), 3)]
    body = b"".join(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n" for chunk in chunks) + b"0\r\n\r\n"
    address, thread = raw_server([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body])
    frames = list(api_of(Settings(address=address)).frames("/v1/x"))
    assert frames == [{"Data": "é"}, {"Offset": 7}, {"File": "b"}]
    thread.join(5)
