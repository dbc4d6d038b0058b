"""Commands inside running tasks, over websockets: what is typed goes in, what the command prints comes out.

Frames are JSON texts: ``{"stdin": {"data": …}}``, ``{"stdin": {"close": true}}``, ``{"tty_size": {…}}`` and the empty
heartbeat from the client; ``{"stdout": {"data": …}}``, ``{"stderr": …}`` and ``{"exited": true, "result": …}`` to it.
Once the socket is open, a refusal travels in the close frame: code 1011 for faults of ours, 1008 for the caller's.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec
import trio
from starlette.websockets import WebSocket

from nomadpy.api.call import Call
from nomadpy.api.forward import AGENT, SERVER
from nomadpy.api.router import READ, Operation, Param
from nomadpy.api.routes.client import owner_of
from nomadpy.model.errors import Invalid, NomadError, NotFound
from nomadpy.rpc.contract import ClientEndpoint, ExecSession

_OUR_FAULT, _YOUR_FAULT = 1011, 1008
# What a close frame can carry beside its code (RFC 6455 §5.5).
_REASON_BYTES_MAX = 123
_HANDSHAKE_TIMEOUT_S = 10.0


async def alloc_exec(call: Call) -> None:
    """Runs the command of the query in a task."""
    alloc_id, task, tty = call.params["alloc_id"], call.text("task"), _tty(call)
    command = _command(call.text("command"))
    await _converse(call, alloc_id, task, command, tty=tty)


async def job_action(call: Call) -> None:
    """Runs a command that the job's author prepared for a task."""
    tty = _tty(call)
    alloc_id, task, command = _action(call)
    await _converse(call, alloc_id, task, command, tty=tty)


def _tty(call: Call) -> bool:
    try:
        return call.flag("tty")
    except Invalid as error:
        raise Invalid(f"tty value is not a boolean: {error.message}", status=500) from error


def _command(text: str) -> list[str]:
    try:
        return msgspec.json.decode(text, type=list[str])
    except msgspec.DecodeError as error:
        raise Invalid(f"failed to marshal command into json: {error}", status=500) from error


def _action(call: Call) -> tuple[str, str, list[str]]:
    key = (call.namespace, call.params["job_id"])
    call.caller.require(key[0], "alloc-exec")
    job = call.server.jobs.job(*key)
    name, task_name, group_name, alloc_id = (call.text(n) for n in ("action", "task", "group", "allocID"))
    if not name or not task_name:
        raise Invalid("action and task must be named")
    if not alloc_id:
        stubs = (call.server.store.alloc_stub_at(row) for row in call.server.store.live_rows(key))
        running = (s.id for s in stubs if s.client_status == "running" and group_name in ("", s.task_group))
        alloc_id = next(running, "")
    alloc = call.server.store.alloc(alloc_id)
    if alloc is None:
        raise NotFound(f'Unknown allocation "{alloc_id}"')
    group = job.group(alloc.task_group)
    task = next((t for t in group.tasks if t.name == task_name), None) if group else None
    if task is None:
        raise NotFound(f"task {task_name} not found in allocation {alloc_id}")
    action = next((a for a in task.actions if a.name == name), None)
    if action is None:
        raise NotFound(f"action {name} not found in task {task_name}")
    return alloc_id, task_name, [action.command, *action.args]


async def _converse(call: Call, alloc_id: str, task: str, command: list[str], *, tty: bool) -> None:
    socket = call.socket
    owner = _owner_or_refusal(call, alloc_id)
    await socket.accept()
    try:
        if call.flag("ws_handshake"):
            await _shake_hands(socket)
        if isinstance(owner, NomadError):
            raise owner
        async with owner.exec(alloc_id, task, command, tty=tty) as session:
            await _pass_frames(socket, session)
    except* NomadError as group:
        error = _first(group)
        await socket.close(_OUR_FAULT if error.status >= 500 else _YOUR_FAULT, _cut(error.message))


def _owner_or_refusal(call: Call, alloc_id: str) -> ClientEndpoint | NomadError:
    """The node, or why there is none, which is told only after the upgrade; raises Elsewhere before it."""
    try:
        return owner_of(call, alloc_id)
    except NomadError as error:
        return error


def _first(group: BaseExceptionGroup[NomadError]) -> NomadError:
    one: BaseException = group
    while isinstance(one, BaseExceptionGroup):
        one = one.exceptions[0]
    assert isinstance(one, NomadError)
    return one


def _cut(text: str) -> str:
    return text.encode()[:_REASON_BYTES_MAX].decode(errors="ignore")


async def _shake_hands(socket: WebSocket) -> None:
    """Reads the client's first message, which browsers use for the token that they cannot put into a header."""
    with trio.move_on_after(_HANDSHAKE_TIMEOUT_S):
        frame = _frame(await socket.receive())
        if frame is not None and frame.get("version") != 1:
            raise Invalid(f"unexpected handshake version: {frame.get('version')}; use 1")
        return
    raise Invalid(f"no handshake message came within {_HANDSHAKE_TIMEOUT_S:.0f} s")


async def _pass_frames(socket: WebSocket, session: ExecSession) -> None:
    code = await _until_over(socket, session)
    if code is None:
        return
    await _send(socket, {"stdout": {"close": True}})
    await _send(socket, {"stderr": {"close": True}})
    await _send(socket, {"exited": True, "result": {"exit_code": code}})
    await socket.close()


async def _until_over(socket: WebSocket, session: ExecSession) -> int | None:
    """Passes frames both ways until the command has ended (its exit code) or the client is gone (None)."""
    codes: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_read_frames, socket, session, nursery.cancel_scope)
        async for name, data in session.output():
            if data:
                await _send(socket, {name: {"data": base64.b64encode(data).decode()}})
        codes.append(await session.wait())
        nursery.cancel_scope.cancel()
    return codes[0] if codes else None


async def _send(socket: WebSocket, frame: dict[str, Any]) -> None:
    await socket.send_text(msgspec.json.encode(frame).decode())


async def _read_frames(socket: WebSocket, session: ExecSession, scope: trio.CancelScope) -> None:
    while True:
        frame = _frame(await socket.receive())
        if frame is None:
            scope.cancel()
            return
        size, stdin = frame.get("tty_size"), frame.get("stdin")
        if isinstance(size, dict):
            await session.resize(_number(size, "height"), _number(size, "width"))
        if isinstance(stdin, dict):
            if stdin.get("data"):
                await session.send_stdin(_bytes(stdin["data"]))
            if stdin.get("close") is True:
                await session.send_stdin(b"")


def _frame(message: Any) -> dict[str, Any] | None:
    """The frame in a websocket message, None when the client is gone. Raises Invalid when it is no JSON object."""
    if message["type"] == "websocket.disconnect":
        return None
    data = message.get("text")
    data = data if data is not None else message.get("bytes", b"")
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"a frame must be a JSON object: {error}") from error


def _number(size: dict[str, Any], name: str) -> int:
    value = size.get(name)
    if type(value) is not int or not 0 <= value <= 0xFFFF:
        raise Invalid(f"tty_size.{name} must be a number from 0 to 65535")
    return value


def _bytes(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise Invalid(f"stdin.data is not base64: {error}") from error


OPERATIONS: tuple[Operation, ...] = (
    Operation(at=AGENT, methods=READ, path="/v1/client/allocation/{alloc_id}/exec", endpoint=alloc_exec, websocket=True,
              query=(Param("task"), Param("command"), Param("tty", "boolean"), Param("ws_handshake", "boolean"))),
    Operation(at=SERVER, methods=READ, path="/v1/job/{job_id}/action", endpoint=job_action, websocket=True,
              query=(Param("task"), Param("action"), Param("allocID"), Param("group"), Param("tty", "boolean"))),
)  # fmt: skip
