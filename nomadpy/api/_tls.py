"""TLS for listeners: certificates from files, which can be read again while connections are open."""

from __future__ import annotations

import ssl

import msgspec
import trio

from nomadpy.model.errors import Invalid


class TlsFiles(msgspec.Struct, frozen=True):
    """Where the certificate of a listener lies, and whether clients must show one of their own."""

    cert_file: str
    key_file: str
    ca_file: str = ""
    verify_client: bool = False

    def context(self) -> ssl.SSLContext:
        """A server context from the files as they are now.

        Raises:
            Invalid: a file is missing, unreadable, or does not fit the others.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self.cert_file, self.key_file)
            if self.ca_file:
                context.load_verify_locations(self.ca_file)
        except (OSError, ssl.SSLError) as error:
            names = ", ".join(name for name in (self.cert_file, self.key_file, self.ca_file) if name)
            raise Invalid(f"cannot load the TLS files {names}: {error}") from error
        if self.verify_client:
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class TlsListener(trio.abc.Listener[trio.SSLStream[trio.SocketStream]]):
    """A listener whose streams speak TLS with the newest certificate that could be loaded."""

    def __init__(self, transport: trio.SocketListener, files: TlsFiles) -> None:
        self.transport = transport
        self._files = files
        self._context = files.context()

    def reload(self) -> None:
        """Read the files again. New connections use what they hold; open ones keep theirs.

        Raises:
            Invalid: the files cannot be used; the certificate in use stays.
        """
        self._context = self._files.context()

    async def accept(self) -> trio.SSLStream[trio.SocketStream]:
        """The next connection; its handshake has not been made yet."""
        stream = await self.transport.accept()
        return trio.SSLStream(stream, self._context, server_side=True, https_compatible=True)

    async def aclose(self) -> None:
        """Stop listening."""
        await self.transport.aclose()
