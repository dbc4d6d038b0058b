"""Functions for digests, passwords, keys and UUIDs. Chance comes from the surroundings only."""

from __future__ import annotations

import base64
import binascii
import hashlib
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING

from nomadpy.jobspec.hcl.functions._registry import ArgumentError, CallFailure, Parameter, function
from nomadpy.jobspec.hcl.types import NUMBER, STRING

if TYPE_CHECKING:
    import random

    from nomadpy.jobspec.hcl.scope import Surroundings

_STR = Parameter("str", STRING)
BCRYPT_COST_DEFAULT = 10
# Each step doubles the time; 14 takes about a second.
BCRYPT_COST_MAX = 14
_BCRYPT_ALPHABET = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def _declare_digest(name: str) -> None:
    def digest(text: str) -> str:
        return hashlib.new(name, text.encode("utf-8"), usedforsecurity=False).hexdigest()

    function(name, _STR)(digest)


for _name in ("md5", "sha1", "sha256", "sha512"):
    _declare_digest(_name)


def _rng(surroundings: Surroundings) -> random.Random:
    if surroundings.rng is None:
        raise CallFailure("chance is not available here")
    return surroundings.rng


@function("bcrypt", _STR, variadic=Parameter("cost", NUMBER), in_surroundings=True)
def bcrypt(surroundings: Surroundings, text: str, *costs: int | Decimal) -> str:
    """A ``$2a$`` hash with a salt from the surroundings; the cost is 10 unless given."""
    if len(costs) > 1:
        raise CallFailure("bcrypt takes no more than two arguments")
    cost = costs[0] if costs else BCRYPT_COST_DEFAULT
    if not isinstance(cost, int) or not 4 <= cost <= BCRYPT_COST_MAX:
        raise ArgumentError(1, f"cost must be a whole number between 4 and {BCRYPT_COST_MAX}")
    password = text.encode("utf-8")
    if len(password) > 72:
        raise ArgumentError(0, "bcrypt takes at most 72 bytes")
    import bcrypt as library

    # 22 characters of 6 bits hold the 128 bits of salt, of which the last gives only two.
    rng = _rng(surroundings)
    salt = "".join(_BCRYPT_ALPHABET[rng.randrange(64)] for _ in range(21)) + _BCRYPT_ALPHABET[rng.randrange(4) * 16]
    return library.hashpw(password, f"$2a${cost:02d}${salt}".encode()).decode("ascii")


@function("rsadecrypt", Parameter("ciphertext", STRING), Parameter("privatekey", STRING))
def rsa_decrypt(ciphertext: str, private_key: str) -> str:
    """The text of a base64 message that was encrypted with RSA PKCS #1 v1.5; the key is PEM."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        message = base64.b64decode(ciphertext, validate=True)
    except (binascii.Error, ValueError) as wrong:
        raise ArgumentError(0, "must be base64-encoded") from wrong
    try:
        key = load_pem_private_key(private_key.encode("utf-8"), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as wrong:
        raise ArgumentError(1, "must be an unencrypted RSA private key in PEM form") from wrong
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ArgumentError(1, "must be an RSA private key")
    try:
        return key.decrypt(message, padding.PKCS1v15()).decode("utf-8")
    except UnicodeDecodeError as wrong:
        raise CallFailure("the decrypted text is not valid UTF-8") from wrong
    except ValueError as wrong:
        raise CallFailure("the text could not be decrypted with this key") from wrong


@function("uuidv4", in_surroundings=True)
def uuid_v4(surroundings: Surroundings) -> str:
    return str(uuid.UUID(int=_rng(surroundings).getrandbits(128), version=4))


_NAMESPACES: dict[str, uuid.UUID] = {
    "dns": uuid.NAMESPACE_DNS,
    "url": uuid.NAMESPACE_URL,
    "oid": uuid.NAMESPACE_OID,
    "x500": uuid.NAMESPACE_X500,
}


@function("uuidv5", Parameter("namespace", STRING), Parameter("name", STRING))
def uuid_v5(namespace: str, name: str) -> str:
    space = _NAMESPACES.get(namespace)
    if space is None:
        try:
            space = uuid.UUID(namespace)
        except ValueError as wrong:
            raise ArgumentError(0, 'must be "dns", "url", "oid", "x500" or a UUID') from wrong
    return str(uuid.uuid5(space, name))
