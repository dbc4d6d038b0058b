"""A websocket client for tests of ``alloc exec``: frames in, frames out, and how it ended."""

from __future__ import annotations

import base64
import json
import socket
from typing import Any
from urllib.parse import urlencode, urlsplit

from wsproto import ConnectionType, WSConnection, events


class Exec:
    """One session. ``status`` and ``refusal`` are set when the upgrade was refused, ``code`` and ``reason`` by a close
    frame."""

    def __init__(self, address: str, path: str, **query: Any) -> None:
        parts = urlsplit(address)
        assert parts.hostname is not None
        self.socket = socket.create_connection((parts.hostname, parts.port or 80), timeout=15)
        self.wire = WSConnection(ConnectionType.CLIENT)
        self.frames: list[dict[str, Any]] = []
        self.status, self.refusal, self.code, self.reason = 0, b"", 0, ""
        self.is_over = False
        self._text = ""
        target = f"{path}?{urlencode(query)}"
        self.socket.sendall(self.wire.send(events.Request(host=parts.netloc, target=target)))
        while not (self.status or self.is_over):
            self._receive()

    def send(self, frame: Any) -> None:
        """Sends a frame, or text as it is."""
        text = frame if isinstance(frame, str) else json.dumps(frame)
        self.socket.sendall(self.wire.send(events.TextMessage(text)))

    def type(self, data: bytes) -> None:
        """Feeds the command."""
        self.send({"stdin": {"data": base64.b64encode(data).decode()}})

    def output(self, name: str = "stdout") -> bytes:
        """What the command has printed so far."""
        return b"".join(base64.b64decode((f.get(name) or {}).get("data") or "") for f in self.frames)

    def read_until(self, wanted: bytes) -> None:
        """Reads until the output holds something."""
        while wanted not in self.output():
            assert not self.is_over, (self.frames, self.code, self.reason)
            self._receive()

    def finish(self) -> int | None:
        """Reads to the end; gives the exit code when there was one."""
        while not self.is_over:
            self._receive()
        self.socket.close()
        ended = [frame for frame in self.frames if frame.get("exited")]
        return int(ended[0]["result"].get("exit_code", 0)) if ended else None

    def _receive(self) -> None:
        data = self.socket.recv(65536)
        self.wire.receive_data(data or None)
        for event in self.wire.events():
            if isinstance(event, events.AcceptConnection):
                self.status = 101
            elif isinstance(event, events.RejectConnection):
                self.status = event.status_code
            elif isinstance(event, events.RejectData):
                self.refusal += event.data
                self.is_over = event.body_finished
            elif isinstance(event, events.TextMessage):
                self._text += event.data
                if event.message_finished:
                    self.frames.append(json.loads(self._text))
                    self._text = ""
            elif isinstance(event, events.CloseConnection):
                self.code, self.reason, self.is_over = int(event.code), event.reason or "", True
        if not data:
            self.is_over = True
