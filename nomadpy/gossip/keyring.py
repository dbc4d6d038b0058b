"""The keys of gossip: one encrypts, all decrypt, so that a key can be changed while everybody keeps talking.

``install`` the new key everywhere, ``use`` it everywhere, ``remove`` the old one. The file is a JSON list of base64
keys, the primary first (Nomad's ``serf.keyring``); once it exists it counts, and not the configured key.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nomadpy.model.errors import Invalid

FILE_NAME = "serf.keyring"
NONCE_BYTES, TAG_BYTES = 12, 16
_KEY_BYTES = (16, 24, 32)
_KEYS_MAX = 32


def decode_key(text: str) -> bytes:
    """The key that base64 text stands for. Raises Invalid unless it has 16, 24 or 32 bytes."""
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid("a gossip key must be base64 text") from error
    if len(key) not in _KEY_BYTES:
        raise Invalid(f"a gossip key must have 16, 24 or 32 bytes, not {len(key)}")
    return key


def encode_key(key: bytes) -> str:
    """A key as base64 text."""
    return base64.b64encode(key).decode()


class Keyring:
    """The keys of one agent, the primary first; without keys nothing is encrypted. ``path`` is where changes go."""

    def __init__(self, keys: list[bytes] | None = None, *, path: Path | None = None) -> None:
        self._path = path
        self._ciphers = {key: AESGCM(key) for key in keys or []}
        self._primary = next(iter(self._ciphers), b"")

    @classmethod
    def open(cls, path: Path | None, encrypt: str = "") -> Keyring:
        """The keyring in a file, or a new one that holds the configured key; that one is written to the file. Raises
        Invalid when a key or the file is malformed, OSError when the file cannot be read or written."""
        if path is not None and path.exists():
            try:
                texts = msgspec.json.decode(path.read_bytes(), type=list[str])
                return cls([decode_key(text) for text in texts], path=path)
            except (msgspec.MsgspecError, UnicodeDecodeError, Invalid) as error:
                raise Invalid(f"the gossip keyring {path} is damaged: {error}; delete it to start anew") from error
        keyring = cls([decode_key(encrypt)] if encrypt else [], path=path)
        if encrypt:
            keyring.save()
        return keyring

    def __bool__(self) -> bool:
        """Whether gossip is encrypted."""
        return bool(self._ciphers)

    @property
    def keys(self) -> list[str]:
        """Every key as base64, the primary first."""
        return [encode_key(key) for key in sorted(self._ciphers, key=lambda key: key != self._primary)]

    @property
    def primary(self) -> str:
        """The key that encrypts; "" without encryption."""
        return encode_key(self._primary) if self._primary else ""

    def seal(self, data: bytes, context: bytes) -> bytes:
        """The data encrypted with the primary key; whoever opens it must name the same context."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._ciphers[self._primary].encrypt(nonce, data, context)

    def unseal(self, sealed: bytes, context: bytes) -> bytes | None:
        """The data, by whichever key fits; None when none does."""
        if len(sealed) < NONCE_BYTES + TAG_BYTES:
            return None
        for cipher in self._ciphers.values():
            try:
                return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context)
            except InvalidTag:
                continue
        return None

    def order(self, action: str, text: str) -> None:
        """Carries out ``list`` (nothing), ``install``, ``use`` or ``remove`` and keeps the result. Raises Invalid when
        that cannot be, and OSError when the file cannot be written; the keys in memory then stay as they were."""
        before = self._ciphers, self._primary
        if action == "list":
            if not self:
                raise Invalid("gossip encryption is not enabled")
            return
        self._change(action, decode_key(text))
        try:
            self.save()
        except OSError:
            self._ciphers, self._primary = before
            raise

    def _change(self, action: str, key: bytes) -> None:
        if not self:
            raise Invalid("gossip encryption is not enabled: there is no keyring to change")
        # The dict is replaced, never changed: packets may be read with it meanwhile.
        if action == "install":
            if len(self._ciphers) >= _KEYS_MAX and key not in self._ciphers:
                raise Invalid(f"the keyring holds {_KEYS_MAX} keys already: remove some first")
            self._ciphers = self._ciphers | {key: AESGCM(key)}
        elif action == "use":
            if key not in self._ciphers:
                raise Invalid("the key is not in the keyring: install it first")
            self._primary = key
        elif action == "remove":
            if key == self._primary:
                raise Invalid("the primary key cannot be removed: use another one first")
            self._ciphers = {held: cipher for held, cipher in self._ciphers.items() if held != key}
        else:
            raise Invalid(f"unknown keyring action {action!r}: list, install, use or remove")

    def save(self) -> None:
        """Writes the file, if there is a path: readable by its owner only, and whole or not at all."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_name(self._path.name + ".new")
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(self.keys))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)
