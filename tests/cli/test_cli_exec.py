"""``alloc exec``: the websocket conversation with an agent that plays its part."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import parse_qs, urlsplit

import cli_payloads as p
import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, RejectConnection, RejectData, Request, TextMessage

from nomadpy.cli.http import Api, Settings
from nomadpy.cli.session import Session
from nomadpy.cli.verbs import alloc_exec
from nomadpy.model.errors import NomadError

Script = Callable[[Any, "Peer"], None]


class Peer:
    """The agent's side of one websocket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.wire = WSConnection(ConnectionType.SERVER)
        self.target = ""

    def send(self, event: Any) -> None:
        self.connection.sendall(self.wire.send(event))

    def say(self, frame: dict[str, Any]) -> None:
        self.send(TextMessage(json.dumps(frame)))

    def events(self) -> Iterator[Any]:
        while data := self.connection.recv(65536):
            self.wire.receive_data(data)
            yield from self.wire.events()


@pytest.fixture
def peer() -> Iterator[Callable[[Callable[[Peer], None]], str]]:
    """Starts an agent that plays a script on the first connection; gives its address."""
    threads: list[threading.Thread] = []

    def start(script: Callable[[Peer], None]) -> str:
        listener = socket.create_server(("127.0.0.1", 0))

        def run() -> None:
            with listener:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(10)
                    script(Peer(connection))

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for thread in threads:
        thread.join(10)


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def converse(address: str, *, stdin: bytes | None = None, monkeypatch: pytest.MonkeyPatch) -> int:
    session = Session(Settings(address=address, token="s3cr3t"))
    session.api = Api(session.settings)
    query = {"task": "httpd", "command": '["cat"]', "tty": False, "ws_handshake": True}
    talk = alloc_exec.Conversation(session, f"/v1/client/allocation/{p.ALLOC}/exec", query)
    if stdin is None:
        with closing(talk.socket):
            return talk.run(interactive=False, terminal=False)
    reader, writer = os.pipe()
    os.write(writer, stdin)
    os.close(writer)
    with os.fdopen(reader) as file, closing(talk.socket):
        monkeypatch.setattr("sys.stdin", file)
        return talk.run(interactive=True, terminal=False)


def test_input_goes_out_and_output_and_the_exit_code_come_back(
    peer: Callable[..., str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    targets: list[str] = []

    def script(side: Peer) -> None:
        for event in side.events():
            if isinstance(event, Request):
                targets.append(event.target)
                side.send(AcceptConnection())
            elif isinstance(event, TextMessage):
                seen.append(json.loads(event.data))
                if seen[-1] == {"stdin": {"close": True}}:
                    side.say({"stdout": {"data": b64("out")}})
                    side.say({})
                    side.say({"stderr": {"data": b64("err")}})
                    side.say({"stdout": {"close": True}})
                    side.say({"exited": True, "result": {"exit_code": 3}})
                    return

    assert converse(peer(script), stdin=b"hello", monkeypatch=monkeypatch) == 3
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("out", "err")
    assert seen == [
        {"version": 1, "auth_token": "s3cr3t"},
        {"stdin": {"data": b64("hello")}},
        {"stdin": {"close": True}},
    ]
    assert parse_qs(urlsplit(targets[0]).query)["command"] == ['["cat"]']


def test_an_exit_code_of_zero_may_be_left_out(peer: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def script(side: Peer) -> None:
        for event in side.events():
            if isinstance(event, Request):
                side.send(AcceptConnection())
            elif isinstance(event, TextMessage):
                side.say({"exited": True, "result": {}})
                return

    assert converse(peer(script), monkeypatch=monkeypatch) == 0


def test_a_close_frame_tells_why(peer: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def script(side: Peer) -> None:
        for event in side.events():
            if isinstance(event, Request):
                side.send(AcceptConnection())
            elif isinstance(event, TextMessage):
                side.send(CloseConnection(code=1008, reason='task "httpd" is not running.'))
                return

    with pytest.raises(NomadError, match='task "httpd" is not running'):
        converse(peer(script), monkeypatch=monkeypatch)


def test_a_refusal_before_the_upgrade(peer: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def script(side: Peer) -> None:
        for event in side.events():
            if isinstance(event, Request):
                side.send(RejectConnection(status_code=403, has_body=True, headers=[(b"content-length", b"17")]))
                side.send(RejectData(data=b"Permission denied"))
                return

    with pytest.raises(NomadError, match=r"Permission denied \(HTTP 403\)"):
        converse(peer(script), monkeypatch=monkeypatch)


def test_a_connection_that_breaks(peer: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def script(side: Peer) -> None:
        for event in side.events():
            if isinstance(event, Request):
                side.send(AcceptConnection())
                return

    with pytest.raises(NomadError):
        converse(peer(script), monkeypatch=monkeypatch)
