"""Identifiers: UUIDs in Nomad's form, and the rules for looking one up by its beginning."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

from nomadpy.model.errors import Invalid

EDGE_RNG: random.Random = random.SystemRandom()
"""The operating system's source of randomness. For the edge of the program only; pure rooms get their rng passed in."""

SHORT_LENGTH = 8

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")
_HEX_AND_HYPHENS = re.compile(r"[0-9a-fA-F-]*\Z")


def new_uuid(rng: random.Random) -> str:
    """A UUID of 128 random bits in lower-case hex. Like Nomad's it carries no version bits.

    >>> new_uuid(random.Random(1))
    'cd613e30-d8f1-6adf-91b7-584a2265b1f5'
    """
    digits = f"{rng.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def new_uuids(rng: random.Random, count: int) -> list[str]:
    """So many of them."""
    digits = rng.randbytes(16 * count).hex()
    words = [digits[at : at + 32] for at in range(0, len(digits), 32)]
    return [f"{word[:8]}-{word[8:12]}-{word[12:16]}-{word[16:20]}-{word[20:]}" for word in words]


def is_uuid(text: str) -> bool:
    """Whether the text is a full lower-case UUID of 36 characters."""
    return _UUID.match(text) is not None


def short(uuid: str) -> str:
    """The first eight characters, which people read and type."""
    return uuid[:SHORT_LENGTH]


def check_uuid(text: str) -> str:
    """The id itself when it may be looked up. Raises Invalid (500, as Nomad does) unless it has 36 characters."""
    if len(text) != 36:
        raise Invalid("index error: UUID must be 36 characters", status=500)
    return text


def check_prefix(prefix: str) -> str:
    """The prefix of a UUID in lower case, as list queries take it.

    Raises Invalid (500, as Nomad does) when it has something else than hex digits and hyphens, is longer than a UUID,
    or has an odd number of digits.
    """
    if not _HEX_AND_HYPHENS.match(prefix):
        raise Invalid(f'index error: Invalid UUID prefix "{prefix}": it must be hexadecimal', status=500)
    if len(prefix) > 36:
        raise Invalid("index error: Invalid UUID length", status=500)
    hyphens = prefix.count("-")
    if hyphens > 4:
        raise Invalid(f"index error: UUID should have maximum of 4; got {hyphens}", status=500)
    if (len(prefix) - hyphens) % 2:
        raise Invalid("index error: Input (without hyphens) must be even length", status=500)
    return prefix.lower()


def even_prefix(prefix: str) -> str:
    """The prefix without its last digit when the number of digits is odd, as search and the CLI round it.

    >>> even_prefix("abc"), even_prefix("0123456789-a")
    ('ab', '0123456789')
    """
    if len(prefix.replace("-", "")) % 2:
        prefix = prefix[:-1]
    return prefix.rstrip("-")


def matching(prefix: str, ids: Iterable[str]) -> list[str]:
    """The ids that begin with the prefix, in order."""
    return sorted(id_ for id_ in ids if id_.startswith(prefix))
