"""Routes that are answered by the node that owns an allocation: its files, logs, figures and tasks.

Any agent may be asked; it finds the owner and relays.
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import trio
from starlette.responses import StreamingResponse

from nomadpy.api.call import EMPTY, Call
from nomadpy.api.forward import AGENT, LEADER, SERVER, Elsewhere
from nomadpy.api.router import READ, WRITE, Operation, Param
from nomadpy.model.alloc import AllocResourceUsage
from nomadpy.model.errors import Invalid, NotFound
from nomadpy.model.naming import Noun
from nomadpy.rpc.contract import ClientEndpoint, FileInfo, HostStats, StreamChunk

_FS_OPERATIONS = ("ls", "stat", "cat", "readat", "stream", "logs")
_SNIFF_BYTES = 512
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}\Z")
_CSP = "default-src 'none'; style-src 'unsafe-inline'; sandbox"


class RestartRequest(Noun):
    task_name: str = ""
    all_tasks: bool = False


class SignalRequest(Noun):
    task: str = ""
    signal: str = ""


class MetadataRequest(Noun):
    node_id: str = ""
    meta: dict[str, str | None] = {}


def owner_of(call: Call, alloc_id: str) -> ClientEndpoint:
    """The node that owns an allocation. Raises NotFound with Nomad's texts, Elsewhere when another agent has it."""
    local = call.context.client
    if local is not None and local.has_alloc(alloc_id):
        return local
    if call.context.server is None:
        _refuse_relayed(call, f'Unknown allocation "{alloc_id}"')
        raise Elsewhere(SERVER)
    alloc = call.context.server.store.alloc(alloc_id)
    if alloc is None:
        if call.context.forwarding is not None and not call.context.server.leading:
            raise Elsewhere(LEADER)  # it may be newer than this server's state
        raise NotFound(f'Unknown allocation "{alloc_id}"')
    return _elsewhere(call, alloc.node_id)


def node_of(call: Call, stated: str = "") -> ClientEndpoint:
    """The node that ``node_id`` names, by default the agent's own client."""
    node_id = stated or call.text("node_id")
    local = call.context.client
    if local is not None and node_id in ("", local.node_id):
        return local
    if not node_id:
        raise Invalid("No local Node and node_id not provided")
    if call.context.server is None:
        _refuse_relayed(call, f"Unknown node {node_id}")
        raise Elsewhere(SERVER)
    return _elsewhere(call, node_id)


def _elsewhere(call: Call, node_id: str) -> ClientEndpoint:
    local = call.context.client
    if local is not None and local.node_id == node_id:
        return local
    if call.context.forwarding is not None:
        raise Elsewhere(AGENT, node_id)
    return call.server.client_of(node_id)


def _refuse_relayed(call: Call, message: str) -> None:
    """A client's agent that was asked by a server because it should know must not ask the servers in turn."""
    if call.context.forwarding is None or call.connection.scope.get("nomadpy.relayed"):
        raise NotFound(message)


def _alloc_id(call: Call) -> str:
    return call.params["alloc_id"]


# --- figures, restarts, signals ---------------------------------------------------------------------------------------


async def host_stats(call: Call) -> HostStats:
    """What a node uses."""
    call.caller.require("", "node:read")
    return await node_of(call).host_stats()


async def gc(call: Call) -> Any:
    """Removes every finished allocation from a node's disk."""
    call.caller.require("", "node:write")
    await node_of(call).gc_all()
    return EMPTY


async def metadata(call: Call) -> Any:
    """A node's metadata."""
    call.caller.require("", "node:read")
    return node_of(call).metadata()


async def apply_metadata(call: Call) -> Any:
    """Changes a node's dynamic metadata; null removes a key."""
    call.caller.require("", "node:write")
    request = await call.body(MetadataRequest)
    node = node_of(call, request.node_id)
    await node.apply_metadata(request.meta)
    return node.metadata()


async def alloc_stats(call: Call) -> AllocResourceUsage:
    """What an allocation uses."""
    alloc_id = _alloc_id(call)
    return await owner_of(call, alloc_id).alloc_stats(alloc_id, call.text("task"))


async def alloc_checks(call: Call) -> Any:
    """The results of an allocation's checks; there are none until checks are acted on."""
    owner_of(call, _alloc_id(call))
    return {}


async def alloc_restart(call: Call) -> Any:
    """Restarts an allocation's tasks in place."""
    alloc_id = _alloc_id(call)
    request = await call.body(RestartRequest, optional=True)
    owner = owner_of(call, alloc_id)
    await owner.alloc_restart(alloc_id, request.task_name, all_tasks=request.all_tasks)
    return {"Index": 0}


async def alloc_signal(call: Call) -> Any:
    """Sends a signal to an allocation's tasks."""
    alloc_id = _alloc_id(call)
    try:
        request = await call.body(SignalRequest)
    except Invalid as error:
        raise Invalid(f"Failed to decode body: {error.message}") from error
    try:
        await owner_of(call, alloc_id).alloc_signal(alloc_id, request.task, request.signal)
    except Invalid as error:
        raise Invalid(error.message, status=500 if "invalid signal" in error.message else error.status) from error
    return {"Index": 0}


async def alloc_gc(call: Call) -> Any:
    """Removes a finished allocation from its node's disk."""
    alloc_id = _alloc_id(call)
    await owner_of(call, alloc_id).alloc_gc(alloc_id)
    return EMPTY


# --- files ------------------------------------------------------------------------------------------------------------


def _path(call: Call) -> str:
    path = call.text("path")
    if not path:
        raise Invalid("must provide a file name")
    return path


def _offset(call: Call, name: str, *, status: int) -> int:
    text = call.text(name, "0") or "0"
    # Not int(): that also takes blanks, underscores and the digits of every script.
    if not _INTEGER.match(text) or abs(int(text)) >= 1 << 63:
        raise Invalid(f"error parsing {name}: {text!r} is not a whole number of 64 bits", status=status)
    return int(text)


def _origin(call: Call) -> str:
    origin = call.text("origin") or "start"
    if origin not in ("start", "end"):
        raise Invalid("origin must be start or end")
    return origin


async def fs_ls(call: Call) -> list[FileInfo]:
    """The entries of a directory."""
    alloc_id = _alloc_id(call)
    return await owner_of(call, alloc_id).fs_list(alloc_id, call.text("path") or "/")


async def fs_stat(call: Call) -> FileInfo:
    """One file or directory."""
    alloc_id, path = _alloc_id(call), _path(call)
    return await owner_of(call, alloc_id).fs_stat(alloc_id, path)


async def fs_cat(call: Call) -> StreamingResponse:
    """A file's bytes."""
    alloc_id, path = _alloc_id(call), _path(call)
    return await _file(await owner_of(call, alloc_id).fs_read(alloc_id, path))


async def fs_readat(call: Call) -> StreamingResponse:
    """A part of a file."""
    alloc_id, path = _alloc_id(call), _path(call)
    offset, limit = _offset(call, "offset", status=500), _offset(call, "limit", status=500)
    if offset < 0 or limit < 0:
        raise Invalid("error parsing offset: it must not be negative", status=500)
    return await _file(await owner_of(call, alloc_id).fs_read(alloc_id, path, offset, limit))


async def _file(chunks: AsyncIterator[bytes]) -> StreamingResponse:
    """The bytes, marked so that a browser never runs what a task wrote."""
    first = b""
    async for chunk in chunks:
        first = chunk
        break

    async def body() -> AsyncIterator[bytes]:
        if not first:
            return  # an iterator that has ended is not asked again
        yield first
        async for chunk in chunks:
            yield chunk

    headers = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": _CSP}
    return StreamingResponse(body(), media_type=_sniff(first[:_SNIFF_BYTES]), headers=headers)


def _sniff(head: bytes) -> str:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:
            return "application/octet-stream"
    return "application/octet-stream" if b"\0" in head else "text/plain; charset=utf-8"


async def fs_stream(call: Call) -> StreamingResponse:
    """Follows a file in frames."""
    alloc_id, path = _alloc_id(call), _path(call)
    offset, origin = _offset(call, "offset", status=500), _origin(call)
    follow = _follow(call, True, status=500)
    stream = owner_of(call, alloc_id).fs_stream(alloc_id, path, offset=offset, origin=origin, follow=follow)
    return await _frames(stream, plain=False)


async def fs_logs(call: Call) -> StreamingResponse:
    """A task's log in frames, or with ``plain=true`` as text."""
    alloc_id = _alloc_id(call)
    task, log_type = call.text("task"), call.text("type")
    if not task:
        raise Invalid("must provide task name")
    if log_type not in ("stdout", "stderr"):
        raise Invalid("must provide log type (stdout/stderr)")
    follow = _follow(call, False, status=400)
    offset, origin = _offset(call, "offset", status=400), _origin(call)
    stream = owner_of(call, alloc_id).logs(alloc_id, task, log_type, offset=offset, origin=origin, follow=follow)
    return await _frames(stream, plain=call.flag("plain", status=400))


def _follow(call: Call, default: bool, *, status: int) -> bool:
    try:
        return call.flag("follow", default)
    except Invalid as error:
        raise Invalid(f"failed to parse follow field to boolean: {error.message}", status=status) from error


async def _frames(stream: AbstractAsyncContextManager[AsyncIterator[StreamChunk]], *, plain: bool) -> StreamingResponse:
    """Opens the stream first, so that a missing file is an error and not a broken stream."""
    chunks = await stream.__aenter__()

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b""  # sends the headers: a quiet task may write nothing for long
            async for chunk in chunks:
                data = chunk.data if plain else frame(chunk)
                if data:
                    yield data
        finally:
            with trio.CancelScope(shield=True):
                await stream.__aexit__(None, None, None)

    media_type = "text/plain; charset=utf-8" if plain else "application/json"
    return StreamingResponse(body(), media_type=media_type, headers={"X-No-Compression": "1"})


def frame(chunk: StreamChunk) -> bytes:
    """A stream frame: keys that are empty are left out, an empty object is a heartbeat."""
    out: dict[str, Any] = {}
    if chunk.offset and (chunk.data or chunk.event):
        out["Offset"] = chunk.offset
    if chunk.data:
        out["Data"] = base64.b64encode(chunk.data).decode()
    if chunk.file and (chunk.data or chunk.event):
        out["File"] = chunk.file
    if chunk.event:
        out["FileEvent"] = chunk.event
    return msgspec.json.encode(out)


async def unknown_fs(call: Call) -> Any:
    """Anything else below ``fs``."""
    operation, _, _ = call.params["rest"].partition("/")
    if operation in _FS_OPERATIONS:
        raise Invalid("must provide a valid alloc id")
    raise NotFound("Invalid method")


_C = "/v1/client/allocation/{alloc_id}"
_STREAM = (Param("path"), Param("offset", "integer"), Param("origin"), Param("follow", "boolean"))

OPERATIONS: tuple[Operation, ...] = (
    Operation(at=AGENT, methods=READ, path="/v1/client/stats", endpoint=host_stats, answer=HostStats,
              query=(Param("node_id"),)),
    Operation(at=AGENT, methods=(*READ, "PUT"), path="/v1/client/gc", endpoint=gc, query=(Param("node_id"),)),
    Operation(at=AGENT, methods=READ, path="/v1/client/metadata", endpoint=metadata, query=(Param("node_id"),)),
    Operation(at=AGENT, methods=WRITE, path="/v1/client/metadata", endpoint=apply_metadata, body=MetadataRequest),
    Operation(at=AGENT, methods=READ, path=_C + "/stats", endpoint=alloc_stats, answer=AllocResourceUsage,
              query=(Param("task"),)),
    Operation(at=AGENT, methods=READ, path=_C + "/checks", endpoint=alloc_checks),
    Operation(at=AGENT, methods=WRITE, path=_C + "/restart", endpoint=alloc_restart, body=RestartRequest),
    Operation(at=AGENT, methods=WRITE, path=_C + "/signal", endpoint=alloc_signal, body=SignalRequest),
    Operation(at=AGENT, methods=READ, path=_C + "/gc", endpoint=alloc_gc),
    Operation(at=AGENT, methods=READ, path="/v1/client/fs/ls/{alloc_id}", endpoint=fs_ls, answer=list[FileInfo],
              query=(Param("path"),)),
    Operation(at=AGENT, methods=READ, path="/v1/client/fs/stat/{alloc_id}", endpoint=fs_stat, answer=FileInfo,
              query=(Param("path"),)),
    Operation(at=AGENT, methods=READ, path="/v1/client/fs/cat/{alloc_id}", endpoint=fs_cat, query=(Param("path"),),
              stream=True),
    Operation(at=AGENT, methods=READ, path="/v1/client/fs/readat/{alloc_id}", endpoint=fs_readat, stream=True,
              query=(Param("path"), Param("offset", "integer"), Param("limit", "integer"))),
    Operation(at=AGENT, methods=READ, path="/v1/client/fs/stream/{alloc_id}", endpoint=fs_stream, stream=True,
              query=_STREAM),
    Operation(at=AGENT, methods=READ, path="/v1/client/fs/logs/{alloc_id}", endpoint=fs_logs, stream=True,
              query=(Param("task"), Param("type"), Param("plain", "boolean"), *_STREAM[1:])),
    Operation(at=AGENT, methods=READ, path="/v1/client/fs/{rest}", endpoint=unknown_fs),
)  # fmt: skip
