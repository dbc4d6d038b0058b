"""The servers that this one has met, kept on disk: after a restart they are found without anybody's help."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec

log = logging.getLogger(__name__)


class KnownServer(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server was last heard of: ``host:port`` of its RPC and of its gossip."""

    rpc: str = ""
    gossip: str = ""


class KnownServers:
    """Server id → where it was, in one small file. What cannot be read or written is only logged: it is a convenience,
    and joining finds everybody again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.servers: dict[str, KnownServer] = {}
        try:
            self.servers = msgspec.json.decode(path.read_bytes(), type=dict[str, KnownServer])
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning("servers.not_remembered", extra={"fields": {"path": str(path), "error": str(error)}})

    def update(self, met: dict[str, KnownServer]) -> None:
        """Takes over what gossip says now; servers that it does not mention stay known."""
        merged = {**self.servers, **met}
        if merged == self.servers:
            return
        self.servers = merged
        self._store()

    def forget(self, server_id: str) -> None:
        """The server does not come back."""
        if self.servers.pop(server_id, None) is not None:
            self._store()

    def _store(self) -> None:
        partial = self._path.with_suffix(".partial")
        try:
            partial.write_bytes(msgspec.json.encode(self.servers))
            os.replace(partial, self._path)
        except OSError as error:
            log.warning("servers.not_remembered", extra={"fields": {"path": str(self._path), "error": str(error)}})
