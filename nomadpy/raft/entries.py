"""What an entry of the replicated log is: bytes whose first byte says for whom they are, an index and a term.

Entries are plain tuples because the engine inside compares and slices them as such.
"""

from __future__ import annotations

from typing import TypeAlias

# (kind byte and payload, index from 1, term)
Entry: TypeAlias = tuple[bytes, int, int]

# For the state machine.
COMMAND = b"\x00"
# Appended by a new leader, so that something of its own term can commit. The engine fixes this value.
NO_OP = b"\x01"
# The names of the voters, separated by blanks; takes effect when it is appended. The engine knows no such kind, and
# its own kinds 2 (membership) and 3 (version), whose payloads it would unpickle, are refused at the door.
CONFIGURATION = b"\x09"

KINDS = frozenset({COMMAND, NO_OP, CONFIGURATION})

# Every server starts from this entry; the engine fabricates it and it carries nothing.
FIRST_INDEX = 1


def configuration_entry(voters: tuple[str, ...]) -> bytes:
    """The entry that makes ``voters`` the configuration."""
    return CONFIGURATION + " ".join(sorted(voters)).encode()


def configuration_of(data: bytes) -> tuple[str, ...]:
    """The voters that a configuration entry names, sorted.

    >>> configuration_of(configuration_entry(("b", "a")))
    ('a', 'b')
    """
    return tuple(data[1:].decode().split())
