"""The HTTP client of the command line: one agent, synchronous, JSON in and out.

It is built on the standard library's ``http.client`` and not on httpx because a command is a new process each time:
importing httpx takes 120 to 170 ms on a small machine, importing ``http.client`` 25 ms, and the whole of ``job status``
should take less than 400 ms.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from nomadpy.cli.failures import ApiError, CommandFailed, Unreachable, UsageProblem

if TYPE_CHECKING:
    import ssl

DEFAULT_ADDRESS = "http://127.0.0.1:4646"
CONNECT_TIMEOUT_S = 10.0
# A blocking query is held for five minutes and a sixteenth of that at most; anything longer is a lost peer.
READ_TIMEOUT_S = 330.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where the agent is and who is asking, from flags first and the environment second."""

    address: str = DEFAULT_ADDRESS
    region: str = ""
    namespace: str = ""
    token: str = ""
    basic_auth: str = ""
    ca_cert: str = ""
    ca_path: str = ""
    client_cert: str = ""
    client_key: str = ""
    tls_server_name: str = ""
    skip_verify: bool = False

    @classmethod
    def of(cls, flags: Mapping[str, str | bool | None], environ: Mapping[str, str]) -> Settings:
        """The settings of one command; ``flags`` holds the general flags by their Python names."""

        def pick(flag: str, variable: str) -> str:
            value = flags.get(flag)
            return str(value) if value else environ.get(variable, "")

        return cls(
            address=pick("address", "NOMAD_ADDR") or DEFAULT_ADDRESS,
            region=pick("region", "NOMAD_REGION"),
            namespace=pick("namespace", "NOMAD_NAMESPACE"),
            token=pick("token", "NOMAD_TOKEN"),
            basic_auth=environ.get("NOMAD_HTTP_AUTH", ""),
            ca_cert=pick("ca_cert", "NOMAD_CACERT"),
            ca_path=pick("ca_path", "NOMAD_CAPATH"),
            client_cert=pick("client_cert", "NOMAD_CLIENT_CERT"),
            client_key=pick("client_key", "NOMAD_CLIENT_KEY"),
            tls_server_name=pick("tls_server_name", "NOMAD_TLS_SERVER_NAME"),
            skip_verify=bool(flags.get("tls_skip_verify")) or _is_true(environ.get("NOMAD_SKIP_VERIFY", "")),
        )


def _is_true(text: str) -> bool:
    return text.strip().lower() in ("1", "t", "true")


def job_path(job_id: str, *rest: str) -> str:
    """The path of a job; its id may hold slashes, which are escaped.

    >>> job_path("a/periodic-1", "allocations")
    '/v1/job/a%2Fperiodic-1/allocations'
    """
    return "/".join(("/v1/job", quote(job_id, safe=""), *rest))


def quoted(name: str) -> str:
    """A name as one part of a path.

    >>> quoted("a/b c")
    'a%2Fb%20c'
    """
    return quote(name, safe="")


class Api:
    """One agent's HTTP API. A kept-alive connection serves plain requests, each stream has one of its own."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._idle: http.client.HTTPConnection | None = None
        self._scheme, self._host, self._port, self._unix = _parse_address(settings.address)

    def get(self, path: str, /, **query: Any) -> Any:
        """The decoded JSON answer of a GET. Raises ApiError or Unreachable."""
        return self.request("GET", path, query=query)

    def put(self, path: str, body: Any = None, /, **query: Any) -> Any:
        """The decoded JSON answer of a PUT, None when the answer is empty. Raises ApiError or Unreachable."""
        return self.request("PUT", path, body=body, query=query)

    def delete(self, path: str, /, **query: Any) -> Any:
        """The decoded JSON answer of a DELETE. Raises ApiError or Unreachable."""
        return self.request("DELETE", path, query=query)

    def request(self, method: str, path: str, *, body: Any = None, query: Mapping[str, Any] | None = None) -> Any:
        """The decoded JSON answer of any request. Raises ApiError, Unreachable, or CommandFailed when it is no JSON."""
        payload = None if body is None else json.dumps(body).encode()
        answer = self.send(method, path, body=payload, query=query)
        if not answer.strip():
            return None
        try:
            return json.loads(answer)
        except ValueError as problem:
            raise CommandFailed(
                f"{self.settings.address} answered {method} {path} with something that is not JSON: is it an agent?"
            ) from problem

    def send(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        query: Mapping[str, Any] | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> bytes:
        """The raw bytes of a successful answer; ``extra`` are further headers. Raises ApiError or Unreachable."""
        target = self._target(path, query or {})
        reused = self._idle is not None
        connection = self._idle or self._connect()
        self._idle = connection
        try:
            response = _ask(connection, method, target, body, {**self.headers(), **(extra or {})})
            answer = response.read()
        except (OSError, http.client.HTTPException) as problem:
            connection.close()
            self._idle = None
            # An agent may close an idle connection at any time; only then, and only for reads, is asking again safe.
            if reused and method == "GET":
                return self.send(method, path, body=body, query=query, extra=extra)
            raise self._unreachable(problem) from problem
        if response.will_close:
            connection.close()
            self._idle = None
        if response.status >= 300:
            raise ApiError(method, path, status=response.status, body=answer.decode(errors="replace"))
        return answer

    def stream(self, path: str, /, **query: Any) -> Iterator[bytes]:
        """The pieces of a streamed answer, as they arrive. Raises ApiError or Unreachable."""
        connection = self._connect()
        try:
            response = _ask(connection, "GET", self._target(path, query), None, self.headers())
            if response.status >= 300:
                raise ApiError("GET", path, status=response.status, body=response.read().decode(errors="replace"))
            if connection.sock is not None:
                connection.sock.settimeout(None)
            while piece := response.read1(65536):
                yield piece
        except (OSError, http.client.HTTPException) as problem:
            raise self._unreachable(problem) from problem
        finally:
            connection.close()

    def download(self, path: str, /, **query: Any) -> tuple[bytes, dict[str, str]]:
        """An answer that is a file, and its headers. Raises ApiError or Unreachable."""
        connection = self._connect()
        try:
            response = _ask(connection, "GET", self._target(path, query), None, self.headers())
            answer = response.read()
        except (OSError, http.client.HTTPException) as problem:
            raise self._unreachable(problem) from problem
        finally:
            connection.close()
        if response.status >= 300:
            raise ApiError("GET", path, status=response.status, body=answer.decode(errors="replace"))
        return answer, dict(response.headers.items())

    def frames(self, path: str, /, **query: Any) -> Iterator[dict[str, Any]]:
        """The JSON objects of a streamed answer that is a row of objects; empty heartbeats are left out."""
        decoder = json.JSONDecoder()
        pending = b""
        for piece in self.stream(path, **query):
            pending += piece
            text = pending.decode(errors="ignore").lstrip()
            while text:
                try:
                    frame, end = decoder.raw_decode(text)
                except ValueError:
                    break
                text = text[end:].lstrip()
                if frame:
                    yield frame
            pending = text.encode()

    def close(self) -> None:
        """Close the idle connection; the next request opens another."""
        if self._idle is not None:
            self._idle.close()
            self._idle = None

    def headers(self) -> dict[str, str]:
        """The headers of every request: who asks, and that plain answers are wanted."""
        headers = {"Accept": "application/json", "User-Agent": "nomadpy-cli"}
        if self.settings.token:
            headers["X-Nomad-Token"] = self.settings.token
        if self.settings.basic_auth:
            headers["Authorization"] = "Basic " + base64.b64encode(self.settings.basic_auth.encode()).decode()
        return headers

    def open_socket(self) -> socket.socket:
        """A connected socket to the agent, TLS done where configured; the caller closes it. Raises Unreachable."""
        connection = self._connect()
        assert connection.sock is not None
        return connection.sock

    def host_header(self) -> str:
        """What a request names as its host."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return "localhost" if self._unix else f"{host}:{self._port}"

    def target(self, path: str, query: Mapping[str, Any]) -> str:
        """The request target, with the region and namespace that apply to every request."""
        return self._target(path, query)

    def _target(self, path: str, query: Mapping[str, Any]) -> str:
        values = {"region": self.settings.region, "namespace": self.settings.namespace, **query}
        pairs: list[tuple[str, str]] = []
        for name, value in values.items():
            if value is None or value == "":
                continue
            for one in value if isinstance(value, list) else [value]:
                pairs.append((name, str(one).lower() if isinstance(one, bool) else str(one)))
        joined = urlencode(pairs)
        return f"{path}{'&' if '?' in path else '?'}{joined}" if joined else path

    def _connect(self) -> http.client.HTTPConnection:
        connection = self._connection()
        try:
            connection.connect()
        except OSError as problem:
            connection.close()
            raise self._unreachable(problem) from problem
        assert connection.sock is not None
        connection.sock.settimeout(READ_TIMEOUT_S)
        return connection

    def _connection(self) -> http.client.HTTPConnection:
        if self._unix:
            return _UnixConnection(self._unix)
        if self._scheme == "https":
            name = self.settings.tls_server_name or self._host
            return _TLSConnection(self._host, self._port, context=_tls_context(self.settings), server_name=name)
        return http.client.HTTPConnection(self._host, self._port, timeout=CONNECT_TIMEOUT_S)

    def _unreachable(self, problem: BaseException) -> Unreachable:
        where = self.settings.address
        if isinstance(problem, ConnectionRefusedError | FileNotFoundError):
            return Unreachable(
                f"no agent answers at {where} (connection refused). Start one with `nomadpy agent -dev`, "
                "or name another with -address or NOMAD_ADDR."
            )
        if isinstance(problem, TimeoutError):
            return Unreachable(f"the agent at {where} did not answer in time.")
        hung_up = isinstance(problem, http.client.RemoteDisconnected)
        if isinstance(problem, http.client.BadStatusLine) and not hung_up and self._scheme == "http":
            return Unreachable(f"the agent at {where} does not speak plain HTTP; does it want https://?")
        if "WRONG_VERSION_NUMBER" in str(problem):
            return Unreachable(f"the agent at {where} does not speak TLS; does it want http://?")
        reason = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
        return Unreachable(f"cannot talk to the agent at {where}: {reason}")


def _ask(
    connection: http.client.HTTPConnection, method: str, target: str, body: bytes | None, headers: dict[str, str]
) -> http.client.HTTPResponse:
    if body is not None:
        headers = {**headers, "Content-Type": "application/json"}
    connection.request(method, target, body=body, headers=headers)
    return connection.getresponse()


def _parse_address(address: str) -> tuple[str, str, int, str]:
    text = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as problem:
        raise UsageProblem(f'the address "{address}" cannot be read: {problem}') from problem
    if parts.scheme == "unix":
        return "unix", "localhost", 0, parts.netloc + parts.path
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageProblem(f'the address "{address}" is not one; expected something like {DEFAULT_ADDRESS}')
    return parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80), ""


def _tls_context(settings: Settings) -> ssl.SSLContext:
    import ssl

    try:
        context = ssl.create_default_context(cafile=settings.ca_cert or None, capath=settings.ca_path or None)
        if settings.client_cert:
            context.load_cert_chain(settings.client_cert, settings.client_key or None)
    except OSError as problem:
        raise UsageProblem(f"the TLS files cannot be used: {problem}") from problem
    if settings.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=CONNECT_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CONNECT_TIMEOUT_S)
        self.sock.connect(os.fspath(self._path))


class _TLSConnection(http.client.HTTPConnection):
    # The standard HTTPSConnection cannot check the certificate against a name other than the host it connects to.
    def __init__(self, host: str, port: int, *, context: ssl.SSLContext, server_name: str) -> None:
        super().__init__(host, port, timeout=CONNECT_TIMEOUT_S)
        self._context = context
        self._server_name = server_name

    def connect(self) -> None:
        super().connect()
        assert self.sock is not None
        self.sock = self._context.wrap_socket(self.sock, server_hostname=self._server_name)
