"""Runs ``nomadpy`` as its next minor version might be: it says more than this version understands, everywhere that
agents talk to each other and in the entries of the log."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import msgspec

FUTURE = "said by a newer agent"


def _longer(encode: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """An array with one more element."""

    def encode_more(message: Any) -> bytes:
        made = msgspec.msgpack.decode(encode(message))
        assert isinstance(made, list)
        return msgspec.msgpack.encode([*made, FUTURE])

    return encode_more


def _wider(encode: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """A map with one more field."""

    def encode_more(command: Any) -> bytes:
        return msgspec.msgpack.encode({**msgspec.msgpack.decode(encode(command)), "FieldOfTheFuture": FUTURE})

    return encode_more


def grow() -> None:
    """Before anybody has imported the functions by name."""
    from nomadpy.gossip import messages as gossip
    from nomadpy.raft import messages as raft
    from nomadpy.rpc import frames as rpc
    from nomadpy.state import commands

    gossip.encode = _longer(gossip.encode)  # type: ignore[assignment]
    raft.encode = _longer(raft.encode)
    commands.encode = _wider(commands.encode)
    pack = rpc.pack

    def pack_more(frame: Any) -> bytes:
        # What follows the fields of data and of single bytes stays as it is: they are counted.
        if not isinstance(frame, rpc.Hello | rpc.Request | rpc.Response | rpc.Open):
            return pack(frame)
        made = msgspec.msgpack.encode([*msgspec.msgpack.decode(pack(frame)[4:]), FUTURE])
        return len(made).to_bytes(4, "little") + made

    rpc.pack = pack_more


if __name__ == "__main__":
    grow()
    print("this is a newer agent", file=sys.stderr, flush=True)
    from nomadpy.cli.main import main

    main()
