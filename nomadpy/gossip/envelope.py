"""What is around a payload: one byte of version, and encryption when there is a key.

    packet          version │ payload                        or   version │ nonce 12 │ encrypted payload │ tag 16
    conversation    accepter: version, 16 random bytes ▸ caller: length 4, payload ▸ accepter: length 4, payload

Encrypted frames of a conversation are bound to its random bytes and their direction: a recorded one is worth nothing in
another. Without a key encrypted input is refused, and with one plain input is.
"""

from __future__ import annotations

import os
import struct

import msgspec

from nomadpy.gossip.keyring import Keyring
from nomadpy.model.errors import Invalid

PLAIN, SEALED = b"\x11", b"\x12"
PACKET_BYTES_MAX = 1400
GREETING_BYTES = 17
FRAME_BYTES_MAX = 8 << 20
ASKING, ANSWERING = b"?", b"!"
LENGTH = struct.Struct("!I")
_STRANGER = "it does not speak this gossip protocol"
_HAS_KEY = "it encrypts gossip, but this agent has no key (encrypt)"
_HAS_NO_KEY = "it does not encrypt gossip, but this agent does (encrypt)"
_OTHER_KEY = "no gossip key of this agent opens what it said: the keys (encrypt) differ"


class Refusals(msgspec.Struct):
    """How many packets and frames were not read, by the reason."""

    plain: int = 0
    sealed: int = 0
    wrong_key: int = 0
    unknown: int = 0
    oversized: int = 0


class Envelope:
    """Opens and closes envelopes with a keyring, and counts what it refuses."""

    def __init__(self, keyring: Keyring) -> None:
        self.keyring = keyring
        self.refusals = Refusals()
        self.refusal = ""  # why the last packet was not read

    def pack(self, payload: bytes) -> bytes:
        """A packet."""
        return SEALED + self.keyring.seal(payload, SEALED) if self.keyring else PLAIN + payload

    def unpack(self, packet: bytes) -> bytes | None:
        """A packet's payload; None when it is refused."""
        version = packet[:1]
        if len(packet) > PACKET_BYTES_MAX:
            self.refusals.oversized += 1
            self.refusal = f"it sent a packet of more than {PACKET_BYTES_MAX} bytes"
        elif version not in (PLAIN, SEALED):
            self.refusals.unknown += 1
            self.refusal = _STRANGER
        elif not self.keyring and version == SEALED:
            self.refusals.sealed += 1
            self.refusal = _HAS_KEY
        elif self.keyring and version == PLAIN:
            self.refusals.plain += 1
            self.refusal = _HAS_NO_KEY
        elif not self.keyring:
            return packet[1:]
        elif (payload := self.keyring.unseal(packet[1:], SEALED)) is not None:
            return payload
        else:
            self.refusals.wrong_key += 1
            self.refusal = _OTHER_KEY
        return None

    def greeting(self) -> bytes:
        """What the accepting end says first."""
        return (SEALED if self.keyring else PLAIN) + os.urandom(GREETING_BYTES - 1)

    def check_greeting(self, greeting: bytes) -> None:
        """Raises Invalid when the other end does not do as this one does."""
        version = greeting[:1]
        if version not in (PLAIN, SEALED):
            raise Invalid(_STRANGER)
        if version == SEALED and not self.keyring:
            raise Invalid(_HAS_KEY)
        if version == PLAIN and self.keyring:
            raise Invalid(_HAS_NO_KEY)

    def frame(self, payload: bytes, greeting: bytes, direction: bytes) -> bytes:
        """A frame of the conversation that began with this greeting. Raises Invalid when it gets too large."""
        body = self.keyring.seal(payload, greeting + direction) if self.keyring else payload
        if len(body) > FRAME_BYTES_MAX:
            raise Invalid(f"a gossip message of {len(body)} bytes; at most {FRAME_BYTES_MAX} are taken")
        return LENGTH.pack(len(body)) + body

    def frame_length(self, header: bytes) -> int:
        """How long the frame is that this header announces. Raises Invalid when that is too long."""
        (length,) = LENGTH.unpack(header)
        if length > FRAME_BYTES_MAX:
            self.refusals.oversized += 1
            raise Invalid(f"a gossip message of {length} bytes was announced; at most {FRAME_BYTES_MAX} are taken")
        return int(length)

    def unframe(self, body: bytes, greeting: bytes, direction: bytes) -> bytes:
        """A frame's payload. Raises Invalid when no key opens it."""
        if not self.keyring:
            return body
        payload = self.keyring.unseal(body, greeting + direction)
        if payload is None:
            self.refusals.wrong_key += 1
            raise Invalid(_OTHER_KEY)
        return payload
