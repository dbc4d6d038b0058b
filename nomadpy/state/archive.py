"""A saved state as people keep it: a tar.gz with ``meta.json``, ``state.bin`` and ``SHA256SUMS``, as Nomad's is laid
out. (What is in ``state.bin`` is our own, so neither program reads the other's.)"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zlib

import msgspec

from nomadpy.model.errors import Invalid
from nomadpy.model.naming import Noun
from nomadpy.model.wire import encode

_META, _STATE, _SUMS = "meta.json", "state.bin", "SHA256SUMS"
BYTES_MAX = 4 << 30


class SnapshotMeta(Noun):
    """What an archive says of itself. ``index`` is the state's, ``term`` that of the log when it was saved."""

    version: int = 1
    id: str = ""
    index: int = 0
    term: int = 0
    size: int = 0
    cluster_id: str = ""
    server_version: str = ""
    schema: int = 0


class Archive(msgspec.Struct, frozen=True):
    """An archive that checked out."""

    meta: SnapshotMeta
    state: bytes


def pack(meta: SnapshotMeta, state: bytes) -> bytes:
    """The archive of a state; ``size`` is filled in. Takes a while: not for the event loop."""
    described = encode(meta.replace(size=len(state)), pretty=True)
    sums = "".join(
        f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in ((_META, described), (_STATE, state))
    )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in ((_META, described), (_STATE, state), (_SUMS, sums.encode())):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o600
            tar.addfile(info, io.BytesIO(data))
    # The state is compressed already; this is for those who expect a gzip file.
    return gzip.compress(buffer.getvalue(), compresslevel=1, mtime=0)


def unpack(data: bytes) -> Archive:
    """The state in an archive. Raises Invalid with the reason when it is no archive, is cut off or was changed. Takes a
    while: not for the event loop."""
    files = _files(_expand(data))
    for name in (_META, _STATE, _SUMS):
        if name not in files:
            raise Invalid(f"the archive is no snapshot: it holds no {name}")
    lines = [line.split() for line in files[_SUMS].decode("utf-8", "replace").splitlines()]
    sums = {line[1]: line[0] for line in lines if len(line) == 2}
    for name in (_META, _STATE):
        if sums.get(name) != hashlib.sha256(files[name]).hexdigest():
            raise Invalid(f"the snapshot is damaged: {name} does not have the checksum that {_SUMS} gives")
    try:
        meta = msgspec.json.decode(files[_META], type=SnapshotMeta)
    except msgspec.DecodeError as error:
        raise Invalid(f"the snapshot's {_META} cannot be read: {error}") from error
    return Archive(meta, files[_STATE])


def _expand(data: bytes) -> bytes:
    if not data:
        raise Invalid("the snapshot is empty")
    expander = zlib.decompressobj(wbits=31)
    try:
        tar = expander.decompress(data, BYTES_MAX)
    except zlib.error as error:
        raise Invalid(f"the snapshot is no gzip archive, or damaged: {error}") from error
    if expander.unconsumed_tail:
        raise Invalid(f"the snapshot is larger than {BYTES_MAX >> 30} GiB")
    if not expander.eof:
        raise Invalid("the snapshot is cut off")
    return tar


def _files(tar: bytes) -> dict[str, bytes]:
    files = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as members:
            for member in members:
                file = members.extractfile(member) if member.isreg() else None
                if file is not None:
                    files[member.name] = file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise Invalid(f"the snapshot is no tar archive, or damaged: {error}") from error
    return files
