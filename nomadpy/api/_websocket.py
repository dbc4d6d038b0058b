"""One websocket session: bytes and ASGI messages in, bytes and ASGI messages out, no I/O.

wsproto reads and writes the frames. The handshake is done here, because the request has been read already.

    connecting --accept--> open --close from either side--> closed
         +------ close or http.response: the upgrade is refused with an HTTP answer

Extensions (compression) are not offered: terminal traffic is small, and one less decoder faces the network.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import deque
from collections.abc import Mapping
from typing import Any

import wsproto.events as ws
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.utilities import LocalProtocolError

from nomadpy.api._http_machine import Refusal, RequestHead
from nomadpy.api._http_response import ResponseError, canonical_name

# RFC 6455 §1.3 fixes this value; it proves that the answer was made for this protocol.
_ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# Messages that may wait for the application before reading pauses, whatever their size.
_MAX_WAITING = 64
_NO_STATUS, _ABNORMAL, _TOO_BIG = 1005, 1006, 1009


def check_handshake(head: RequestHead) -> Refusal | None:
    """Why this request cannot become a websocket (RFC 6455 §4.2.1), or None when it can."""
    headers = dict(head.headers)
    if head.http_version != "1.1":
        return Refusal(status=400, text="Websocket needs HTTP/1.1")
    if headers.get(b"sec-websocket-version", b"") != b"13":
        return Refusal(status=426, text="Websocket version not supported: use 13")
    try:
        key = base64.b64decode(headers.get(b"sec-websocket-key", b""), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 16:
        return Refusal(status=400, text="Websocket handshake has no valid Sec-WebSocket-Key")
    return None


def offered_subprotocols(head: RequestHead) -> list[str]:
    """The subprotocols that the client can speak, most wanted first."""
    offered = b",".join(value for name, value in head.headers if name == b"sec-websocket-protocol")
    return [word.strip().decode("latin-1") for word in offered.split(b",") if word.strip()]


class WebSocketMachine:
    """One accepted or still undecided upgrade.

    ``inbox`` holds ASGI messages for the application; ``outbox`` bytes for the peer that no ``send`` asked for
    (pongs, the answer to a close). ``closed`` is true once no frame can be exchanged any more.
    """

    def __init__(self, head: RequestHead, *, max_message_bytes: int) -> None:
        self.inbox: deque[dict[str, Any]] = deque([{"type": "websocket.connect"}])
        self.outbox: list[bytes] = []
        self.accepted = False
        self.closed = False
        self.n_inbox_bytes = 0
        self._head = head
        self._max_message_bytes = max_message_bytes
        self._wire: Connection | None = None
        self._parts: list[Any] = []
        self._n_part_bytes = 0

    def accept(self, message: Mapping[str, Any]) -> bytes:
        """The 101 answer that opens the session.

        Raises:
            ResponseError: the application accepts twice, or with something the client did not offer.
        """
        if self.accepted or self.closed:
            raise ResponseError("websocket.accept after the handshake was decided")
        key = dict(self._head.headers)[b"sec-websocket-key"]
        proof = base64.b64encode(hashlib.sha1(key + _ACCEPT_GUID, usedforsecurity=False).digest())
        lines = [
            b"HTTP/1.1 101 Switching Protocols",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Accept: " + proof,
        ]
        subprotocol = message.get("subprotocol")
        if subprotocol is not None:
            if subprotocol not in offered_subprotocols(self._head):
                raise ResponseError(f"the client did not offer the subprotocol {subprotocol!r}")
            lines.append(b"Sec-WebSocket-Protocol: " + subprotocol.encode("latin-1"))
        for name, value in message.get("headers") or []:
            if b"\r" in value or b"\n" in value:
                raise ResponseError("a response header contains a line break")
            lines.append(canonical_name(name.lower()) + b": " + value)
        self.accepted = True
        self._wire = Connection(ConnectionType.SERVER)
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def send(self, message: Mapping[str, Any]) -> bytes:
        """The frame for ``websocket.send`` or ``websocket.close`` on an open session; empty once closed.

        Raises:
            ResponseError: the message does not belong here.
        """
        if self._wire is None:
            raise ResponseError(f"{message['type']} before websocket.accept")
        if self.closed:
            return b""
        event: ws.Event
        if message["type"] == "websocket.close":
            event = ws.CloseConnection(code=message.get("code", 1000), reason=message.get("reason") or "")
            self.closed = True
        elif message["type"] == "websocket.send" and message.get("text") is not None:
            event = ws.TextMessage(data=message["text"])
        elif message["type"] == "websocket.send":
            event = ws.BytesMessage(data=message.get("bytes") or b"")
        else:
            raise ResponseError(f"unexpected ASGI message {message['type']!r} in a websocket")
        try:
            return self._wire.send(event)
        except LocalProtocolError as error:
            raise ResponseError(str(error)) from error

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the peer; fills ``inbox`` and ``outbox``. Never raises for what they contain."""
        if self._wire is None or self.closed:
            return
        self._wire.receive_data(data)
        for event in self._wire.events():
            if not self._handle(event):
                return

    def receive_eof(self) -> None:
        """The peer is gone without a close frame."""
        if not self.closed:
            self._close_inbox(_ABNORMAL, "")

    def go_away(self) -> None:
        """Tell the application that the server is leaving; the peer gets its close frame once it has ended."""
        if not self.closed:
            self.inbox.append({"type": "websocket.disconnect", "code": 1001, "reason": "agent is shutting down"})

    @property
    def saturated(self) -> bool:
        """Whether so much waits for the application that reading should pause."""
        return self.n_inbox_bytes >= self._max_message_bytes or len(self.inbox) >= _MAX_WAITING

    def take(self) -> dict[str, Any]:
        """The next message for the application; ``inbox`` must not be empty."""
        message = self.inbox.popleft()
        if message["type"] == "websocket.receive":
            self.n_inbox_bytes -= len(message.get("text") or message.get("bytes") or b"")
        elif message["type"] == "websocket.disconnect":
            # An application that asks again after the end must not wait for ever.
            self.inbox.append(message)
        return message

    # ------------------------------------------------------------------ events

    def _handle(self, event: ws.Event) -> bool:
        """Take one event; false once nothing after it counts."""
        assert self._wire is not None
        if isinstance(event, ws.Ping):
            self.outbox.append(self._wire.send(event.response()))
        elif isinstance(event, ws.CloseConnection):
            self._answer_close(event)
        elif isinstance(event, ws.Message):
            self._collect(event)
        return not self.closed

    def _collect(self, event: ws.Message[Any]) -> None:
        self._n_part_bytes += len(event.data)
        if self._n_part_bytes > self._max_message_bytes:
            assert self._wire is not None
            reason = f"message is longer than {self._max_message_bytes} bytes"
            self.outbox.append(self._wire.send(ws.CloseConnection(code=_TOO_BIG, reason=reason)))
            self._close_inbox(_TOO_BIG, reason)
            return
        if event.data:  # empty fragments must not pile up
            self._parts.append(event.data)
        if not event.message_finished:
            return
        if isinstance(event, ws.TextMessage):
            self.inbox.append({"type": "websocket.receive", "text": "".join(self._parts)})
        else:
            self.inbox.append({"type": "websocket.receive", "bytes": b"".join(self._parts)})
        self.n_inbox_bytes += self._n_part_bytes
        self._parts = []
        self._n_part_bytes = 0

    def _answer_close(self, event: ws.CloseConnection) -> None:
        """A close frame from the peer, or a broken frame, which wsproto reports in the same way."""
        assert self._wire is not None
        if self._wire.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            answer = event if event.code != _NO_STATUS else ws.CloseConnection(code=1000)
            self.outbox.append(self._wire.send(answer))
        self._close_inbox(int(event.code), event.reason or "")

    def _close_inbox(self, code: int, reason: str) -> None:
        self.closed = True
        self.inbox.append({"type": "websocket.disconnect", "code": code, "reason": reason})
