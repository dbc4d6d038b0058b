"""The route about the machine below an agent, for those who look for the cause of trouble."""

from __future__ import annotations

import os
import platform
import socket
from pathlib import Path
from typing import Any

import psutil
import trio

from nomadpy.api.call import Call
from nomadpy.api.forward import AGENT
from nomadpy.api.router import READ, Operation, Param
from nomadpy.api.routes.agent import check_target
from nomadpy.model.errors import Forbidden

_TEXT_BYTES_MAX = 1 << 20
_SECRET = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "KEY", "CREDENTIAL", "LICENSE", "AUTH", "DSN", "COOKIE")
_REDACTED = "<redacted>"


async def host(call: Call) -> Any:
    """What the agent's machine looks like; only where ``enable_debug`` is set, for it tells a lot."""
    call.caller.require("", "agent:read")
    check_target(call)
    if not call.context.config.get("EnableDebug"):
        raise Forbidden("the agent tells about its machine only with enable_debug = true")
    data = await trio.to_thread.run_sync(look)
    if call.text("node_id") or call.text("server_id"):
        return {"AgentID": call.text("node_id") or call.text("server_id"), "HostData": data}
    return data


def look() -> dict[str, Any]:
    """The machine as it is now. Looks at files: call it in a thread."""
    return {
        "OS": " ".join(platform.uname()),
        "Network": [_interface(name, addresses) for name, addresses in sorted(psutil.net_if_addrs().items())],
        "ResolvConf": _text("/etc/resolv.conf"),
        "Hosts": _text("/etc/hosts"),
        "Environment": {name: _shown(name, value) for name, value in sorted(os.environ.items())},
        "Disk": _disks(),
    }


def _interface(name: str, addresses: list[Any]) -> dict[str, Any]:
    kinds = (socket.AF_INET, socket.AF_INET6)
    return {"Name": name, "Addresses": [one.address for one in addresses if one.family in kinds]}


def _text(path: str) -> str:
    try:
        return Path(path).read_bytes()[:_TEXT_BYTES_MAX].decode(errors="replace")
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"


def _shown(name: str, value: str) -> str:
    """Values that may be secrets are not shown: by the variable's name, or as a URL that names who asks."""
    secret = any(word in name.upper() for word in _SECRET) or ("://" in value and "@" in value)
    return _REDACTED if secret else value


def _disks() -> dict[str, Any]:
    found = {}
    for part in psutil.disk_partitions():
        try:
            usage = psutil.disk_usage(part.mountpoint)
        except OSError:  # unmounted meanwhile, or not for us
            continue
        found[part.device] = {"DiskMB": usage.total >> 20, "UsedMB": usage.used >> 20}
    return found


OPERATIONS: tuple[Operation, ...] = (
    Operation(at=AGENT, methods=READ, path="/v1/agent/host", endpoint=host,
              query=(Param("node_id"), Param("server_id"))),
)  # fmt: skip
