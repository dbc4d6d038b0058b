"""Makes the certificates that agents show each other: an authority of one's own, and what it issues.

Names and file names are Nomad's, so configuration files of either program fit.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import re
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nomadpy.model.errors import Invalid

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")
# Other machines' clocks may be a little behind.
_BACKDATED = dt.timedelta(minutes=5)


class CaRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What an authority is to be called, and for how long. ``permitted`` limits the DNS names that it may issue."""

    common_name: str = ""
    days: int = 1825
    permitted: tuple[str, ...] = ()
    subject: dict[str, str] = {}


class CertRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate for one kind of agent: ``server``, ``client`` or ``cli``; ``node`` ties it to one server."""

    kind: str
    region: str = "global"
    domain: str = "nomad"
    node: str = ""
    days: int = 365
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[str, ...] = ()

    @property
    def file_stem(self) -> str:
        """``global-server-nomad``; with a node ``global-server-<node>-nomad``."""
        return "-".join(part for part in (self.region, self.kind, self.node, self.domain) if part)


_SUBJECT = {
    "country": NameOID.COUNTRY_NAME,
    "province": NameOID.STATE_OR_PROVINCE_NAME,
    "locality": NameOID.LOCALITY_NAME,
    "street-address": NameOID.STREET_ADDRESS,
    "postal-code": NameOID.POSTAL_CODE,
    "organization": NameOID.ORGANIZATION_NAME,
    "organizational-unit": NameOID.ORGANIZATIONAL_UNIT_NAME,
}


def make_ca(request: CaRequest, now: dt.datetime) -> tuple[bytes, bytes]:
    """A new authority: certificate and private key as PEM. Raises Invalid."""
    _check_days(request.days)
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    try:
        names = [x509.NameAttribute(_SUBJECT[kind], value) for kind, value in request.subject.items() if value]
        common_name = request.common_name or f"Nomad Agent CA {serial}"
        name = x509.Name([*names, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    except ValueError as error:
        raise Invalid(f"the subject of the authority: {error}") from error
    builder = _builder(name, name, key, serial, now, request.days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(_usage(issues=True), critical=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = builder.add_extension(identifier, critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
    )
    if request.permitted:
        constraints = x509.NameConstraints([_dns(one) for one in request.permitted], None)
        builder = builder.add_extension(constraints, critical=True)
    return _pem(builder.sign(key, hashes.SHA256())), _key_pem(key)


def issue(request: CertRequest, ca_pem: bytes, ca_key_pem: bytes, now: dt.datetime) -> tuple[bytes, bytes]:
    """A certificate that the authority issues, and its private key, as PEM. Raises Invalid."""
    _check_days(request.days)
    ca, ca_key = _authority(ca_pem, ca_key_pem, now)
    until = now + dt.timedelta(days=request.days)
    if until > ca.not_valid_after_utc:
        raise Invalid(
            f"the authority expires on {ca.not_valid_after_utc:%Y-%m-%d}, before the certificate would: use fewer days"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    names = subject_names(request)
    common_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    builder = _builder(common_name, ca.subject, key, x509.random_serial_number(), now, request.days)
    alternatives = [*map(_dns, names), *(x509.IPAddress(one) for one in _addresses(request))]
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if request.kind != "cli":
        usages.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
    authority = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(issues=False), True),
        (x509.ExtendedKeyUsage(usages), False),
        (x509.SubjectAlternativeName(alternatives), False),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority), False),
    ]
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return _pem(builder.sign(ca_key, hashes.SHA256())), _key_pem(key)


def subject_names(request: CertRequest) -> list[str]:
    """The DNS names of a certificate, the one that agents look for first."""
    for what, label in (("region", request.region), ("node name", request.node)):
        if label and not _LABEL.match(label):
            raise Invalid(f'the {what} "{label}" cannot be part of a DNS name: use letters, digits and dashes')
    role = f"{request.kind}.{request.region}.{request.domain}"
    own = [role, f"{request.node}.{role}"] if request.node else [role]
    return list(dict.fromkeys([*own, *request.dns_names, "localhost"]))


def describe(pem: bytes) -> dict[str, object]:
    """The facts of the first certificate in a PEM file. Raises Invalid."""
    try:
        certificate = x509.load_pem_x509_certificates(pem)[0]
    except ValueError as error:
        raise Invalid(f"no certificate in PEM form: {error}") from error
    found: dict[str, object] = {
        "SerialNumber": str(certificate.serial_number),
        "IssuerCN": _common_name(certificate.issuer),
        "CommonName": _common_name(certificate.subject),
        "NotBefore": f"{certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}",
        "ExpiryDate": f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        "IsCA": False,
        "DNSNames": [],
        "IPAddresses": [],
        "PermittedDNSDomains": [],
    }
    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints):
            found["IsCA"] = value.ca
        elif isinstance(value, x509.SubjectAlternativeName):
            found["DNSNames"] = value.get_values_for_type(x509.DNSName)
            found["IPAddresses"] = [str(one) for one in value.get_values_for_type(x509.IPAddress)]
        elif isinstance(value, x509.NameConstraints):
            permitted = value.permitted_subtrees or ()
            found["PermittedDNSDomains"] = [one.value for one in permitted if isinstance(one, x509.DNSName)]
    return found


def write_new(files: dict[Path, tuple[bytes, int]]) -> None:
    """Writes files that do not exist yet: path → (content, mode). Raises Invalid when one of them does; then none is
    written."""
    for path in files:
        if path.exists() or path.is_symlink():
            raise Invalid(f"{path} exists already; nothing was written")
    for path, (content, mode) in files.items():
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except FileExistsError as error:
            raise Invalid(f"{path} exists already; it was left as it is") from error
        with os.fdopen(handle, "wb") as file:
            file.write(content)


# ------------------------------------------------------------------ inside


def _authority(ca_pem: bytes, key_pem: bytes, now: dt.datetime) -> tuple[x509.Certificate, Key]:
    try:
        ca = x509.load_pem_x509_certificate(ca_pem)
        key = serialization.load_pem_private_key(key_pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Invalid(f"cannot read the authority's certificate and key: {error}") from error
    if not isinstance(key, Key):
        raise Invalid("the authority's key is neither of an elliptic curve nor RSA")
    if key.public_key() != ca.public_key():
        raise Invalid("the key does not belong to the authority's certificate")
    try:
        constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints).value
        ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        ca.verify_directly_issued_by(ca)
    except (x509.ExtensionNotFound, ValueError, TypeError, InvalidSignature) as error:
        raise Invalid(f"the certificate is not one of an authority: {error}") from error
    if not constraints.ca:
        raise Invalid("the certificate is not one of an authority")
    if not ca.not_valid_before_utc <= now <= ca.not_valid_after_utc:
        raise Invalid(f"the authority is valid from {ca.not_valid_before_utc} to {ca.not_valid_after_utc}, not now")
    return ca, key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Key, serial: int, now: dt.datetime, days: int
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), serial)
    return builder.not_valid_before(now - _BACKDATED).not_valid_after(now + dt.timedelta(days=days))


def _usage(*, issues: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not issues,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=issues,
        crl_sign=issues,
        encipher_only=False,
        decipher_only=False,
    )


def _check_days(days: int) -> None:
    if not 0 < days <= 36_500:
        raise Invalid(f"a certificate cannot be valid for {days} days: use 1 to 36500")


def _dns(name: str) -> x509.DNSName:
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise Invalid(f'"{name}" is not a DNS name: {error}') from error


def _addresses(request: CertRequest) -> list[IpAddress]:
    try:
        found = [ipaddress.ip_address(one) for one in (*request.ip_addresses, "127.0.0.1")]
    except ValueError as error:
        raise Invalid(str(error)) from error
    return list(dict.fromkeys(found))


def _common_name(name: x509.Name) -> str:
    return "".join(str(one.value) for one in name.get_attributes_for_oid(NameOID.COMMON_NAME)[:1])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: Key) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
