"""Who a node is: an id and a secret that are made once and kept in files of the state directory."""

from __future__ import annotations

import os
import random
import uuid
from pathlib import Path

import msgspec

from nomadpy.model.errors import Invalid
from nomadpy.model.ids import new_uuid


class NodeIdentity(msgspec.Struct, frozen=True):
    """The public id of a node and the secret that only it and the servers know."""

    node_id: str
    secret_id: str


def load_identity(state_dir: str | None, rng: random.Random) -> NodeIdentity:
    """The node's identity, made and stored (mode 0600) when there is none yet. None keeps it in memory only.

    Blocks. Raises Invalid when a file does not hold a UUID, OSError when it cannot be read or written.
    """
    if state_dir is None:
        return NodeIdentity(new_uuid(rng), new_uuid(rng))
    Path(state_dir).mkdir(parents=True, exist_ok=True, mode=0o700)
    return NodeIdentity(
        _load(Path(state_dir) / "client-id", rng),
        _load(Path(state_dir) / "secret-id", rng),
    )


def _load(path: Path, rng: random.Random) -> str:
    if path.exists():
        text = path.read_text(encoding="utf-8").strip().lower()
        try:
            return str(uuid.UUID(text))
        except ValueError as error:
            raise Invalid(f"{path} must hold a UUID, holds {text!r}; remove it to become a new node") from error
    text = new_uuid(rng)
    partial = path.with_suffix(".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return text
