"""Commands that look into the replicated log of a server that is stopped."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nomadpy.cli.flags import AsJSON
from nomadpy.cli.session import Session

if TYPE_CHECKING:
    from nomadpy.raft.entries import Entry

_BYTES_SHOWN = 64
_Path = Annotated[Path, typer.Argument(metavar="<path>", help="The data directory of the server, or its server/raft.")]


def info(session: Session, path: _Path, *, as_json: AsJSON = False) -> None:
    """Show what the replicated log of a stopped server holds: its entries, its term, its newest snapshot."""
    from nomadpy.raft.inspect import read_log

    log = read_log(path)
    entries, snapshot = log.entries, log.snapshot
    facts: dict[str, Any] = {
        "Path": str(log.path),
        "Length": len(entries),
        "FirstIndex": entries[0][1] if entries else 0,
        "LastIndex": entries[-1][1] if entries else 0,
        "LastTerm": entries[-1][2] if entries else 0,
        "CurrentTerm": log.term,
        "VotedFor": log.voted_for,
        "CommittedAtLeast": log.commit_hint,
        "Voters": list(log.voters),
        "Segments": log.segments,
        "Bytes": log.bytes,
        "CutOffBytes": log.cut_off_bytes,
        "SnapshotIndex": snapshot.point.index if snapshot else 0,
        "SnapshotTerm": snapshot.point.term if snapshot else 0,
        "SnapshotBytes": snapshot.size if snapshot else 0,
    }
    if as_json:
        print(json.dumps(facts, indent=4))
        return
    for name, value in facts.items():
        session.say(f"{name:<17}= {', '.join(value) if isinstance(value, list) else value}")


def logs(
    session: Session,
    path: _Path,
    *,
    pretty: Annotated[bool, typer.Option("-pretty", help="Indent the JSON.")] = False,
) -> None:
    """Print the entries in the replicated log of a stopped server, one JSON object a line, oldest first."""
    from nomadpy.raft.inspect import read_log

    for entry in read_log(path).entries:
        sys.stdout.write(json.dumps(_described(entry), indent=4 if pretty else None) + "\n")


def _described(entry: Entry) -> dict[str, Any]:
    from nomadpy.raft.entries import configuration_of
    from nomadpy.raft.inspect import kind_of

    data, index, term = entry
    kind = kind_of(entry)
    described: dict[str, Any] = {"Index": index, "Term": term, "Kind": kind, "Bytes": len(data)}
    if kind == "configuration":
        described["Voters"] = list(configuration_of(data))
    elif kind == "command":
        described.update(_command(data[1:]))
    return described


def _command(data: bytes) -> dict[str, Any]:
    """Type and fields as they are stored, also those of a newer version that nothing else in this one understands."""
    import msgspec

    try:
        fields = msgspec.msgpack.decode(data)
    except msgspec.DecodeError as error:
        return {"Type": "", "Error": f"it cannot be read: {error}"}
    if not isinstance(fields, dict):
        return {"Type": "", "Error": "it is no command"}
    return {"Type": str(fields.pop("type", "")), "Fields": _readable(fields)}


def _readable(value: Any) -> Any:
    """Bytes as hex digits, or only their number; the names of fields as text."""
    if isinstance(value, bytes):
        return value.hex() if len(value) <= _BYTES_SHOWN else f"({len(value)} bytes)"
    if isinstance(value, dict):
        return {str(name): _readable(held) for name, held in value.items()}
    return [_readable(held) for held in value] if isinstance(value, list) else value
