"""The connection to a Docker Engine: short calls through the docker SDK in worker threads, long ones as streams.

The SDK blocks, hence a limiter bounds the threads. What lasts (the events of the engine, the output of containers,
pulls, commands run in containers) would pin a thread each and could not be cancelled, so it goes over trio sockets.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import docker
import docker.tls
import httpx
import msgspec
import requests
import trio
from docker.errors import APIError, DockerException

from nomadpy.drivers.docker.options import PluginOptions
from nomadpy.model.errors import NotFound, Temporary

log = logging.getLogger(__name__)
T = TypeVar("T")
ReceiveBytes = Callable[[], Awaitable[bytes]]

MAX_CALLS = 16
CALL_TIMEOUT_S = 60
CONNECT_TIMEOUT_S = 5.0
_RAW_READ_BYTES = 256 * 1024


class Unreachable(Temporary):
    """No engine answered. Tasks may well be running; ask again later."""

    code = "docker-unreachable"


class EngineRefused(Temporary):
    """The engine answered with an error; ``status_code`` is its HTTP status."""

    code = "docker-refused"

    def __init__(self, message: str, status_code: int) -> None:
        super().__init__(message)
        self.status_code = status_code


class Engine:
    """One Docker Engine. Calls raise Unreachable, NotFound (404) or EngineRefused."""

    def __init__(self, options: PluginOptions) -> None:
        self.endpoint = options.endpoint
        self._options = options
        self._limiter = trio.CapacityLimiter(MAX_CALLS)
        self._api: docker.APIClient | None = None
        self._api_lock = trio.Lock()
        self._http: httpx.AsyncClient | None = None

    async def call(self, ask: Callable[[docker.APIClient], T]) -> T:
        """What ``ask`` returns; it runs in a worker thread with the SDK's client. A call that has begun runs to its
        end even when the caller is cancelled, so that its effect is known."""
        api = await self._connected()
        return await self._in_thread(lambda: ask(api))

    async def _connected(self) -> docker.APIClient:
        async with self._api_lock:
            if self._api is None:
                self._api = await self._in_thread(self._make_api)
            return self._api

    def _make_api(self) -> docker.APIClient:
        options = self._options
        tls: docker.tls.TLSConfig | bool = False
        if options.tls_cert or options.tls_ca:
            pair = (options.tls_cert, options.tls_key) if options.tls_cert else None
            tls = docker.tls.TLSConfig(client_cert=pair, ca_cert=options.tls_ca or None, verify=bool(options.tls_ca))
        return docker.APIClient(
            base_url=options.endpoint,
            version="auto",
            timeout=CALL_TIMEOUT_S,
            tls=tls,
            num_pools=MAX_CALLS,
            max_pool_size=MAX_CALLS,
        )

    async def _in_thread(self, run: Callable[[], T]) -> T:
        def probe_and_run() -> T:
            self._probe()
            return run()

        try:
            return await trio.to_thread.run_sync(probe_and_run, limiter=self._limiter)
        except APIError as error:
            raise refusal(error.explanation or str(error), error.status_code or 500) from error
        except requests.exceptions.RequestException as error:
            raise Unreachable(f"no Docker Engine answers at {self.endpoint}: {_cause(error)}") from error
        except DockerException as error:
            # The SDK wraps what went wrong while it asked for the version; everything else it raises is an APIError.
            raise Unreachable(f"no Docker Engine answers at {self.endpoint}: {_cause(error)}") from error

    def _probe(self) -> None:
        """Raises Unreachable when nobody listens. The SDK would find out too, but leaves a socket open each time."""
        url = urlsplit(self.endpoint)
        if url.scheme != "unix":
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(url.path)
            except OSError as error:
                raise Unreachable(f"no Docker Engine answers at {self.endpoint}: {error}") from error

    @property
    def api_version(self) -> str:
        """The version spoken; known after the first call."""
        return str(self._api.api_version) if self._api else ""

    async def aclose(self) -> None:
        """Gives every connection back."""
        api, self._api = self._api, None
        http, self._http = self._http, None
        if api is not None:
            api.close()
        if http is not None:
            await http.aclose()

    # --- streams ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, params: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """An open answer, to be read as it comes. Raises as ``call`` does, also while it is read."""
        await self._connected()
        try:
            async with self._client().stream(
                method, f"/v{self.api_version}{path}", params=dict(params), headers=dict(headers or {})
            ) as response:
                if response.status_code >= 400:
                    raise refusal(_message(await response.aread()), response.status_code)
                yield response
        except httpx.HTTPError as error:
            raise Unreachable(f"the Docker Engine at {self.endpoint} went away: {_cause(error)}") from error

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=4)
            url = urlsplit(self.endpoint)
            context = self._tls_context()
            if url.scheme == "unix":
                transport = httpx.AsyncHTTPTransport(uds=url.path, limits=limits)
                base = "http://docker"
            else:
                transport = httpx.AsyncHTTPTransport(limits=limits, verify=context or True)
                base = f"{'https' if context else 'http'}://{url.netloc}"
            self._http = httpx.AsyncClient(transport=transport, base_url=base, timeout=timeout, trust_env=False)
        return self._http

    def _tls_context(self) -> ssl.SSLContext | None:
        options = self._options
        if not (options.tls_cert or options.tls_ca):
            return None
        context = ssl.create_default_context(cafile=options.tls_ca or None)
        if options.tls_cert:
            context.load_cert_chain(options.tls_cert, options.tls_key)
        return context

    @asynccontextmanager
    async def raw_stream(self, path: str, params: Mapping[str, str]) -> AsyncIterator[ReceiveBytes]:
        """An open answer as a function that gives the next bytes, b"" at the end: for answers of very many very small
        chunks. Asked for in HTTP/1.0, which has no chunks, they come together in large reads."""
        request = f"GET {{prefix}}{path}?{urlencode(params)} HTTP/1.0\r\nHost: docker\r\n\r\n"
        stream, received = await self._send(request, b"")
        pending = [received] if received else []

        async def receive() -> bytes:
            if pending:
                return pending.pop()
            try:
                return bytes(await stream.receive_some(_RAW_READ_BYTES))
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise Unreachable(f"the Docker Engine at {self.endpoint} went away: {_cause(error)}") from error

        try:
            yield receive
        finally:
            await trio.aclose_forcefully(stream)

    async def hijack(self, path: str, body: Mapping[str, Any]) -> tuple[trio.abc.HalfCloseableStream, bytes]:
        """A raw two-way connection that the engine hands over after a request, and the bytes that already came."""
        payload = msgspec.json.encode(body)
        request = (
            f"POST {{prefix}}{path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n"
            f"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: {len(payload)}\r\n\r\n"
        )
        return await self._send(request, payload)

    async def _send(self, head: str, body: bytes) -> tuple[trio.abc.HalfCloseableStream, bytes]:
        """Sends a request on a connection of its own; the connection and what came of the answer's body."""
        await self._connected()
        stream: trio.abc.HalfCloseableStream | None = None
        try:
            stream = await self._open_socket()
            await stream.send_all(head.format(prefix=f"/v{self.api_version}").encode() + body)
            answer, received = await _read_head(stream)
            status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 500
            if status < 400:
                kept, stream = stream, None
                return kept, received
            raise refusal(_message(received or bytes(await stream.receive_some(_RAW_READ_BYTES))), status)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Unreachable(f"no Docker Engine answers at {self.endpoint}: {_cause(error)}") from error
        finally:
            if stream is not None:
                await trio.aclose_forcefully(stream)

    async def _open_socket(self) -> trio.abc.HalfCloseableStream:
        url = urlsplit(self.endpoint)
        if url.scheme == "unix":
            return await trio.open_unix_socket(url.path)
        plain = await trio.open_tcp_stream(url.hostname or "localhost", url.port or 2375)
        context = self._tls_context()
        return trio.SSLStream(plain, context, server_hostname=url.hostname) if context else plain  # type: ignore[return-value]


def refusal(message: str, status_code: int) -> EngineRefused | NotFound:
    """The engine's error as one of ours."""
    text = message.strip() or f"the Docker Engine answered {status_code}"
    return NotFound(text) if status_code == 404 else EngineRefused(text, status_code)


async def _read_head(stream: trio.abc.ReceiveStream) -> tuple[bytes, bytes]:
    received = b""
    while b"\r\n\r\n" not in received:
        data = await stream.receive_some(65536)
        if not data:
            raise trio.BrokenResourceError("the connection ended within the answer's head")
        received += data
    head, _, rest = received.partition(b"\r\n\r\n")
    return head, rest


def _message(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body)["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return body.decode(errors="replace")


def _cause(error: BaseException) -> str:
    """The innermost reason in a few words; the SDK nests the same text several times."""
    inner: BaseException = error
    while inner.__cause__ is not None or inner.__context__ is not None:
        inner = inner.__cause__ or inner.__context__ or inner
    return str(inner) or type(inner).__name__
