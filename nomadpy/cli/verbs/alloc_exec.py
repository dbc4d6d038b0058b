"""``alloc exec``: a command inside a running task, over a websocket."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated, Any

import typer

from nomadpy.cli.failures import CommandFailed, UsageProblem
from nomadpy.cli.session import Session
from nomadpy.cli.verbs.alloc import find, only_task
from nomadpy.cli.verbs.alloc_fs import OfJob, of_job

HEARTBEAT_S = 10.0


def execute(
    session: Session,
    allocation: Annotated[str, typer.Argument(metavar="<allocation>")],
    command: Annotated[list[str], typer.Argument(metavar="<command>")],
    *,
    task: Annotated[str | None, typer.Option("-task", help="The task, where there are several.")] = None,
    interactive: Annotated[bool, typer.Option("-i/-no-i", help="Pass stdin on (default); -i=false does not.")] = True,
    terminal: Annotated[
        bool | None, typer.Option("-t/-no-t", help="A terminal for the command; default: as stdin is one.")
    ] = None,
    job: OfJob = False,
) -> int:
    """Run a command inside a running task. Its exit code becomes that of this command.

    All flags stand before the allocation; what follows belongs to the command.
    """
    if not command:
        raise UsageProblem("a command to run is missing")
    found = find(session, of_job(session, allocation, None, task=task) if job else allocation)
    name = only_task(found, task)
    wants_terminal = sys.stdin.isatty() and sys.stdout.isatty() if terminal is None else terminal
    if wants_terminal and not interactive:
        raise UsageProblem("-t needs -i")
    query = {"task": name, "command": json.dumps(command), "tty": wants_terminal, "ws_handshake": True}
    conversation = Conversation(session, f"/v1/client/allocation/{found['ID']}/exec", query)
    with closing(conversation.socket), _raw_terminal(wants_terminal and sys.stdin.isatty()):
        return conversation.run(interactive=interactive, terminal=wants_terminal)


class Conversation:
    """The websocket: frames of stdin go out, frames of stdout, stderr and the result come in."""

    def __init__(self, session: Session, path: str, query: dict[str, Any]) -> None:
        from wsproto import ConnectionType, WSConnection
        from wsproto.events import Request

        self.socket = session.api.open_socket()
        self.wire = WSConnection(ConnectionType.CLIENT)
        headers = [(name.encode(), value.encode()) for name, value in session.api.headers().items()]
        request = Request(host=session.api.host_header(), target=session.api.target(path, query), extra_headers=headers)
        self._transmit(self.wire.send(request))
        self.token = session.settings.token
        self.exit_code: int | None = None
        self.is_open = False
        self.is_over = False
        self._text = ""
        self._refused = b""
        self._status = 0

    def run(self, *, interactive: bool, terminal: bool) -> int:
        """Talk until the command is over, and give its exit code. Raises CommandFailed when it could not be run."""
        reads_stdin, window, beat_s = interactive, (0, 0), time.monotonic() + HEARTBEAT_S
        while not self.is_over:
            if self.is_open and terminal and (size := shutil.get_terminal_size()) != window:
                window = size
                self._send({"tty_size": {"height": size[1], "width": size[0]}})
            sources: list[Any] = [self.socket]
            if self.is_open and reads_stdin:
                sources.append(sys.stdin.fileno())
            ready, _, _ = select.select(sources, [], [], 0.5)
            if self.socket in ready:
                self._receive()
            if len(ready) > (self.socket in ready):
                reads_stdin = self._pass_on()
            if self.is_open and time.monotonic() > beat_s:
                beat_s = time.monotonic() + HEARTBEAT_S
                self._send({})
        if self.exit_code is None:
            raise CommandFailed("the connection ended before the command did")
        return self.exit_code

    def _pass_on(self) -> bool:
        piece = os.read(sys.stdin.fileno(), 4096)
        if piece:
            self._send({"stdin": {"data": base64.b64encode(piece).decode()}})
            return True
        self._send({"stdin": {"close": True}})
        return False

    def _send(self, frame: dict[str, Any]) -> None:
        from wsproto.events import TextMessage

        self._transmit(self.wire.send(TextMessage(json.dumps(frame))))

    def _transmit(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except OSError as problem:
            raise CommandFailed(f"the connection to the agent broke: {problem}") from problem

    def _receive(self) -> None:
        pending = True
        while pending:
            data = self._read()
            if not data:
                self.is_over = True
                return
            self.wire.receive_data(data)
            for event in self.wire.events():
                self._handle(event)
            # A TLS socket may hold decrypted bytes that select does not know of.
            pending = bool(data) and getattr(self.socket, "pending", lambda: 0)() > 0

    def _read(self) -> bytes:
        try:
            return self.socket.recv(65536)
        except OSError as problem:
            raise CommandFailed(f"the connection to the agent broke: {problem}") from problem

    def _handle(self, event: Any) -> None:
        from wsproto import events

        if isinstance(event, events.AcceptConnection):
            self.is_open = True
            self._send({"version": 1, "auth_token": self.token})
        elif isinstance(event, events.RejectConnection):
            self._status = event.status_code
        elif isinstance(event, events.RejectData):
            self._refused += event.data
            if event.body_finished:
                said = self._refused.decode(errors="replace").strip()
                raise CommandFailed(f"{said or 'the command could not be run'} (HTTP {self._status})")
        elif isinstance(event, events.TextMessage):
            self._text += event.data
            if event.message_finished:
                text, self._text = self._text, ""
                self._frame(json.loads(text))
        elif isinstance(event, events.Ping):
            self._transmit(self.wire.send(event.response()))
        elif isinstance(event, events.CloseConnection):
            self._closed(event)

    def _closed(self, event: Any) -> None:
        self.is_over = True
        if self.exit_code is None:
            raise CommandFailed(event.reason or f"the agent closed the connection (code {event.code})")

    def _frame(self, frame: dict[str, Any]) -> None:
        for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
            data = (frame.get(name) or {}).get("data")
            if data:
                stream.buffer.write(base64.b64decode(data))
                stream.buffer.flush()
        if frame.get("exited"):
            self.exit_code = int((frame.get("result") or {}).get("exit_code") or 0)
            self.is_over = True


@contextmanager
def _raw_terminal(wanted: bool) -> Iterator[None]:
    """Every key goes to the command, until the block is left."""
    if not wanted:
        yield
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before: Any = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


execute.passes_flags_on = True  # type: ignore[attr-defined]
