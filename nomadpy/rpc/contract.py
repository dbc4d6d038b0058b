"""The words that clients and servers say to each other.

``ServerEndpoint`` is what a client asks of the servers, ``ClientEndpoint`` what the servers (for the HTTP API) ask of
the node that owns an allocation. Inside one process both are plain method calls (``loopback.py``); between machines the
same words travel as frames.

Every order to a node carries the log index it came from; a node ignores older ones.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from nomadpy.model.alloc import Allocation, AllocResourceUsage, AllocUpdate
from nomadpy.model.naming import Noun
from nomadpy.model.node import Node, NodeEvent
from nomadpy.model.time import Moment


class NodeLease(Noun):
    """The servers' answer to a registration or a heartbeat: beat again within ``heartbeat_ttl_s``. ``servers`` and
    ``gossip`` are where the servers listen for agents and for gossip."""

    heartbeat_ttl_s: float = 10.0
    index: int = 0
    status: str = ""
    servers: tuple[str, ...] = ()
    gossip: tuple[str, ...] = ()


class Assignments(Noun):
    """What a node should know: allocation id → the index of the servers' last change to it, as of log ``index``."""

    index: int = 0
    allocs: dict[str, int] = {}


class ServerEndpoint(Protocol):
    """What a client asks of the servers. Raises NomadError: NoLeader and TimedOut are worth a retry; NotFound from
    ``heartbeat`` means "register again"; Forbidden means that the secret does not match."""

    async def register_node(self, node: Node) -> NodeLease:
        """Creates or updates the node (facts only) and starts its lease; a first registration becomes ready with the
        first heartbeat that says so."""

    async def heartbeat(self, node_id: str, secret_id: str, status: str) -> NodeLease:
        """Renews the lease and sets the node's status ("ready")."""

    async def wait_assignments(self, node_id: str, secret_id: str, after: int, wait_s: float) -> Assignments:
        """The node's allocations as soon as something newer than index ``after`` happened, or at the end of wait_s."""

    async def get_allocs(self, node_id: str, secret_id: str, alloc_ids: list[str]) -> list[Allocation]:
        """Full allocations with their jobs; ids that are gone are left out."""

    async def update_allocs(self, node_id: str, secret_id: str, updates: list[AllocUpdate]) -> int:
        """Reports allocation states; returns the log index once they are durable."""

    async def emit_node_events(self, node_id: str, secret_id: str, events: list[NodeEvent]) -> None:
        """Adds to the node's event list."""


class FileInfo(Noun):
    """An entry of an allocation's directory."""

    name: str = ""
    is_dir: bool = False
    size: int = 0
    file_mode: str = ""
    mod_time_ns: Moment = 0
    content_type: str = ""


class StreamChunk(Noun):
    """A piece of a followed file. ``event`` is "file deleted" or "file truncated"; a chunk without data, file and event
    is a heartbeat."""

    offset: int = 0
    data: bytes = b""
    file: str = ""
    event: str = ""


class HostStats(Noun):
    """What a node uses; the JSON shapes of Nomad's ``/v1/client/stats``."""

    memory: dict[str, int] = {}
    cpu: tuple[dict[str, Any], ...] = ()
    disk_stats: tuple[dict[str, Any], ...] = ()
    alloc_dir_stats: dict[str, Any] = {}
    device_stats: tuple[dict[str, Any], ...] = ()
    uptime: int = 0
    timestamp_ns: int = 0
    cpu_ticks_consumed: float = 0.0


class ExecSession(Protocol):
    """A command running in an allocation, for ``alloc exec``; frames as in the drivers' ``ExecProcess``."""

    async def send_stdin(self, data: bytes) -> None:
        """Feeds the command; empty bytes close its input."""

    async def resize(self, height: int, width: int) -> None:
        """Sets the size of its terminal."""

    def output(self) -> AsyncIterator[tuple[str, bytes]]:
        """("stdout" | "stderr", data) until the command has ended."""

    async def wait(self) -> int:
        """Its exit code."""


class ClientEndpoint(Protocol):
    """What is asked of the node that owns an allocation. Raises NomadError with Nomad's texts and status codes:
    NotFound 'Unknown allocation "<id>"', Invalid for paths that escape, and so on."""

    node_id: str

    def has_alloc(self, alloc_id: str) -> bool:
        """Whether this node runs or remembers the allocation."""

    async def host_stats(self) -> HostStats:
        """What the machine uses now."""

    async def alloc_stats(self, alloc_id: str, task: str = "") -> AllocResourceUsage:
        """What the allocation's running tasks use now; one task only when it is named."""

    async def alloc_restart(self, alloc_id: str, task: str = "", *, all_tasks: bool = False) -> None:
        """Restarts one task, all running tasks, or with ``all_tasks`` also those that are dead."""

    async def alloc_signal(self, alloc_id: str, task: str, signal: str) -> None:
        """Sends a signal to one task or, with "", to all running ones."""

    async def alloc_gc(self, alloc_id: str) -> None:
        """Removes one terminal allocation from the node's disk."""

    async def gc_all(self) -> None:
        """Removes every terminal allocation from the node's disk."""

    async def fs_list(self, alloc_id: str, path: str) -> list[FileInfo]:
        """The entries of a directory inside the allocation directory."""

    async def fs_stat(self, alloc_id: str, path: str) -> FileInfo:
        """One entry."""

    async def fs_read(self, alloc_id: str, path: str, offset: int = 0, limit: int = 0) -> AsyncIterator[bytes]:
        """The bytes of a file from ``offset``; ``limit`` 0 reads to the end. The first error comes before the first
        byte (await returns the iterator only once the file is open)."""

    def fs_stream(
        self, alloc_id: str, path: str, *, offset: int, origin: str, follow: bool
    ) -> AbstractAsyncContextManager[AsyncIterator[StreamChunk]]:
        """Follows one file; entering the context raises for a missing file or a directory."""

    def logs(
        self, alloc_id: str, task: str, log_type: str, *, offset: int, origin: str, follow: bool
    ) -> AbstractAsyncContextManager[AsyncIterator[StreamChunk]]:
        """Follows a task's log over its rotated files."""

    def exec(
        self, alloc_id: str, task: str, command: list[str], *, tty: bool
    ) -> AbstractAsyncContextManager[ExecSession]:
        """Runs a command in a running task."""

    def metadata(self) -> dict[str, dict[str, str | None]]:
        """``Meta``, ``Dynamic`` and ``Static`` metadata of the node."""

    async def apply_metadata(self, changes: dict[str, str | None]) -> None:
        """Merges dynamic node metadata; None removes a key. Persists."""
