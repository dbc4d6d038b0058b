"""TLS between agents: both ends show a certificate of the same authority, and names in it say what they may be.

As Nomad's: a server's certificate carries ``server.<region>.nomad``, a client's ``client.<region>.nomad``. A server's
may also carry ``<node name>.server.<region>.nomad``; then it is good for the server of that name only, so that a stolen
certificate does not make its thief any server that it likes.
"""

from __future__ import annotations

import datetime as dt
import logging
import ssl
from collections.abc import Callable
from pathlib import Path

import msgspec
import trio
from cryptography import x509

from nomadpy.model.errors import Forbidden, Invalid
from nomadpy.rpc.frames import SERVER
from nomadpy.rpc.peer import Peer

log = logging.getLogger(__name__)

_SOON = dt.timedelta(days=14)
_VERIFY_SENTENCES = {
    9: "its certificate is not valid yet: the clock of one of the two machines is wrong",
    10: "its certificate has expired, or the clock of this machine is ahead",
    **dict.fromkeys((18, 19, 20, 21), "its certificate was not issued by the authority in our ca_file"),
}
_REASON_SENTENCES = {
    "WRONG_VERSION_NUMBER": "it does not speak TLS: is tls.rpc set on both agents?",
    "HTTP_REQUEST": "it speaks plain HTTP: this port is for agents",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it has shown no certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know the authority that issued our certificate",
    "TLSV1_ALERT_CERTIFICATE_REQUIRED": "it asks for a certificate and we have shown none",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it says that our certificate has expired: renew it, or set the clocks right",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not accept our certificate: perhaps its clock is behind",
}


class RpcTlsFiles(msgspec.Struct, frozen=True, kw_only=True):
    """``tls`` of the configuration, as far as the wire between agents is concerned."""

    ca_file: str
    cert_file: str
    key_file: str
    region: str = "global"
    verify_server_hostname: bool = False


def _utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class RpcTls:
    """TLS for dialing and accepting, from files that can be read again.

    Raises:
        Invalid: a file is missing, unreadable, or does not fit the others.
    """

    def __init__(self, files: RpcTlsFiles, *, now: Callable[[], dt.datetime] = _utc_now) -> None:
        self.files = files
        self._now = now
        self.reload()

    def reload(self) -> None:
        """Reads the files again. New connections use what they hold, open ones keep theirs.

        Raises:
            Invalid: the files cannot be used; the certificate in use stays.
        """
        accepting, dialing = self._context(ssl.PROTOCOL_TLS_SERVER), self._context(ssl.PROTOCOL_TLS_CLIENT)
        for problem in self.problems():
            log.warning("tls.certificate", extra={"fields": {"problem": problem}})
        self._accepting, self._dialing = accepting, dialing

    def _context(self, protocol: ssl._SSLMethod) -> ssl.SSLContext:
        files = self.files
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # Names are checked by check_server and check_peer, which know more than one of them.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_cert_chain(files.cert_file, files.key_file)
            context.load_verify_locations(files.ca_file)
        except (OSError, ssl.SSLError) as error:
            names = ", ".join((files.cert_file, files.key_file, files.ca_file))
            raise Invalid(f"cannot use the TLS files {names}: {error}") from error
        return context

    def problems(self) -> list[str]:
        """What is wrong with our own certificates, in sentences: expired, about to expire, not valid yet, without the
        names that the other agents will ask for."""
        now, found = self._now(), []
        for path in (self.files.cert_file, self.files.ca_file):
            for certificate in _certificates(path):
                since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
                if now < since:
                    found.append(
                        f"{path} is not valid before {since:%Y-%m-%d %H:%M} UTC: is this machine's clock right?"
                    )
                elif now > until:
                    found.append(f"{path} has expired on {until:%Y-%m-%d %H:%M} UTC: other agents will refuse it")
                elif now > until - _SOON:
                    found.append(f"{path} expires on {until:%Y-%m-%d %H:%M} UTC: renew it and reload the agent")
        own = _dns_names(_certificates(self.files.cert_file)[:1])
        if self.files.verify_server_hostname and not own & {self._server_name, self._client_name}:
            wanted = f"{self._server_name} nor {self._client_name}"
            found.append(f"{self.files.cert_file} carries neither {wanted}: other agents will refuse it")
        return found

    # ------------------------------------------------------------------ streams

    def wrap_dialed(self, stream: trio.SocketStream) -> trio.SSLStream[trio.SocketStream]:
        """TLS over a stream that was dialed; no handshake has been made."""
        return trio.SSLStream(stream, self._dialing, server_hostname=self._server_name)

    def wrap_accepted(self, stream: trio.SocketStream) -> trio.SSLStream[trio.SocketStream]:
        """TLS over a stream that was accepted; no handshake has been made."""
        return trio.SSLStream(stream, self._accepting, server_side=True)

    # ------------------------------------------------------------------ names

    @property
    def _server_name(self) -> str:
        return f"server.{self.files.region}.nomad"

    @property
    def _client_name(self) -> str:
        return f"client.{self.files.region}.nomad"

    def check_server(self, names: frozenset[str]) -> None:
        """Raises Forbidden when a certificate with these names is not one of a server of our region. Without
        ``verify_server_hostname`` every certificate of the authority will do."""
        if self.files.verify_server_hostname and self._server_name not in names:
            raise Forbidden(f"the certificate is not one of a server: it does not carry {self._server_name}")

    def check_peer(self, peer: Peer) -> None:
        """Raises Forbidden when the peer's certificate does not allow what it says of itself: ``admit`` of connections
        and listeners."""
        names = peer.certificate_names
        if peer.role == SERVER:
            self.check_server(names)
            self.check_pinned(names, peer.name)
        elif self.files.verify_server_hostname and not names & {self._server_name, self._client_name}:
            wanted = f"{self._client_name} nor {self._server_name}"
            raise Forbidden(f"the certificate is not one of a client: it carries neither {wanted}")

    def check_pinned(self, names: frozenset[str], node_name: str) -> None:
        """Raises Forbidden when the certificate names servers and ``node_name`` (with or without the region behind it)
        is none of them. A certificate that names no server will do for all."""
        suffix = "." + self._server_name
        pinned = {name.removesuffix(suffix).lower() for name in names if name.endswith(suffix)}
        if pinned and node_name.removesuffix("." + self.files.region).lower() not in pinned:
            raise Forbidden(f"the certificate is for the server {' or '.join(sorted(pinned))}, not for {node_name}")

    def explain(self, error: BaseException) -> str:
        """Why a handshake failed, in a sentence about the other end."""
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ssl.SSLError | OSError):
            cause = cause.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _VERIFY_SENTENCES.get(cause.verify_code, f"its certificate is refused: {cause.verify_message}")
        if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionResetError) or cause is None:
            return "it closed the connection during the TLS handshake; its log says why"
        if isinstance(cause, ssl.SSLError):
            return _REASON_SENTENCES.get(cause.reason or "", f"the TLS handshake failed: {cause.reason or cause}")
        return str(cause)


def _certificates(path: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise Invalid(f"cannot read the certificates in {path}: {error}") from error


def _dns_names(certificates: list[x509.Certificate]) -> frozenset[str]:
    try:
        found = [one.extensions.get_extension_for_class(x509.SubjectAlternativeName).value for one in certificates]
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(name for names in found for name in names.get_values_for_type(x509.DNSName))
