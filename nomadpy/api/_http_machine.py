"""One connection's requests: bytes in, exchanges out, no I/O.

``RequestMachine`` wraps the llhttp parser (through httptools), which already refuses the classic smuggling
shapes: bare LF, folded headers, space before the colon, a repeated or listed Content-Length, Content-Length
beside Transfer-Encoding, a bad chunk size. On top of it stand the rules that llhttp leaves open: the limits,
Host, transfer codings we do not decode, versions and methods we do not serve, Expect, and upgrades.

A request becomes an ``Exchange`` as soon as its head is complete; its body follows piece by piece. A request
that must be refused becomes an exchange with a ``Refusal``, queued behind the requests that came before it, so
that pipelined answers keep their order. After a refusal, or after a request that ends the connection, further
bytes are dropped: ``finished`` is then true.

    idle --first byte--> head --blank line--> body --last byte--> idle
                           |                    |
                           +------ refusal -----+--> finished

Not handled on purpose: trailers are counted and dropped, and obsolete line folding is refused. llhttp takes
several spaces before the target, which RFC 9112 §3 allows; nothing else is taken that h11 would refuse.
"""

from __future__ import annotations

from collections import deque
from urllib.parse import unquote_to_bytes

import httptools
import msgspec

Headers = list[tuple[bytes, bytes]]

# What an application may be asked for. Anything else that parses is 501: not implemented here at all.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})

# Websocket frames sent before the upgrade was granted; no client has reason to send many.
_MAX_EARLY_FRAME_BYTES = 64 * 1024
_TOKEN_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+.^_`|~-")
_FRAMING = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect", b"accept-encoding", b"upgrade"})


class Limits(msgspec.Struct, frozen=True):
    """How much of a request is taken before it is refused."""

    max_header_bytes: int
    max_request_line_bytes: int
    max_body_bytes: int
    max_large_body_bytes: int
    large_body_paths: frozenset[str]
    max_discard_bytes: int
    max_buffered_body_bytes: int
    max_pipelined: int


class Refusal(msgspec.Struct, frozen=True):
    """Why the server itself answers: the status and the text of the body."""

    status: int
    text: str


class RequestHead(msgspec.Struct, frozen=True):
    """A request line and its headers, names in lower case, in the order they came."""

    method: str
    path: str
    raw_path: bytes
    query_string: bytes
    headers: Headers
    http_version: str
    keep_alive: bool
    expects_continue: bool
    accept_encoding: bytes
    wants_websocket: bool


class Exchange:
    """One request on its way through: the head, and the pieces of the body that have arrived."""

    __slots__ = ("aborted", "body", "body_complete", "discarding", "head", "n_body_bytes", "refusal")

    def __init__(self, head: RequestHead | None, refusal: Refusal | None = None) -> None:
        self.head = head
        self.refusal = refusal
        self.body: deque[bytes] = deque()
        self.body_complete = False
        self.discarding = False
        self.aborted = False
        self.n_body_bytes = 0


class _RefusedError(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.refusal = Refusal(status=status, text=text)


class RequestMachine:
    """Turns received bytes into exchanges; see the module's text for its states.

    ``exchanges`` holds those that nobody has taken yet; the owner pops them from the left.
    """

    def __init__(self, limits: Limits) -> None:
        self.exchanges: deque[Exchange] = deque()
        self.finished = False
        self.in_head = False
        self.n_heads_begun = 0
        self.upgraded: deque[bytes] | None = None
        self.n_buffered_body_bytes = 0
        self._limits = limits
        self._current: Exchange | None = None
        self._url = b""
        self._lead = b""
        self._headers: Headers = []
        self._n_head_bytes = 0
        self._n_fed_bytes = 0
        self._n_framing_bytes = 0
        self._max_body_bytes = 0
        self._declined_upgrade = False
        self._parser = httptools.HttpRequestParser(self)

    @property
    def in_body(self) -> bool:
        """Whether a request's head is complete and its body is not."""
        return self._current is not None

    @property
    def saturated(self) -> bool:
        """Whether so much is waiting to be used that reading should pause."""
        return (
            len(self.exchanges) >= self._limits.max_pipelined
            or self.n_buffered_body_bytes >= self._limits.max_buffered_body_bytes
            or (self.upgraded is not None and sum(map(len, self.upgraded)) >= _MAX_EARLY_FRAME_BYTES)
        )

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the peer. Never raises for what they contain: a refusal is queued instead."""
        if self.upgraded is not None:
            self.upgraded.append(data)
            return
        if self.finished:
            return
        n_heads_before = self.n_heads_begun
        was_in_body = self._current
        if not self.in_head:
            self._lead = b""
        if len(self._lead) < 32:
            self._lead += data[:32]
        try:
            self._feed(data)
            if not self.finished:
                self._count(data, n_heads_before, was_in_body)
        except _RefusedError as error:
            self._refuse(error.refusal)

    def receive_eof(self) -> None:
        """The peer will send nothing more; a request that is not complete never will be."""
        self.finished = True
        self.in_head = False
        if self._current is not None:
            self._current.aborted = True
            self._current = None

    def refuse(self, status: int, text: str) -> None:
        """Refuse whatever is being received now, for a reason the caller knows (a timeout)."""
        self._refuse(Refusal(status=status, text=text))

    def take_body(self, exchange: Exchange) -> bytes:
        """Everything of the body that has arrived and was not taken yet."""
        if len(exchange.body) == 1:
            data = exchange.body.popleft()
        else:
            data = b"".join(exchange.body)
            exchange.body.clear()
        self.n_buffered_body_bytes -= len(data)
        return data

    def discard_body(self, exchange: Exchange) -> None:
        """Drop the rest of a body that nobody wants; too long a rest ends the connection."""
        self.take_body(exchange)
        exchange.discarding = True
        exchange.n_body_bytes = 0

    # ------------------------------------------------------------------ feeding

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            if self._declined_upgrade:
                self._replay_without_upgrade(rest)
            else:
                self.finished = True
                self.upgraded = deque([rest] if rest else [])
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, _RefusedError):
                raise error.__context__ from None
            raise
        except httptools.HttpParserInvalidMethodError:
            raise self._method_error() from None
        except httptools.HttpParserError as error:
            # Bytes behind a request that said "Connection: close" are nobody's business.
            if not self.finished:
                raise _parse_error(str(error)) from None

    def _count(self, data: bytes, n_heads_before: int, body_before: Exchange | None) -> None:
        """Hold the limits for what the parser swallowed without telling: a half header, chunk framing.

        Only feeds that begin inside the part count, so the true size may exceed the limit by one read.
        """
        if self.in_head and self.n_heads_begun == n_heads_before:
            self._n_fed_bytes += len(data)
            if not self._url and self._n_fed_bytes > self._limits.max_request_line_bytes:
                raise _too_long_line(self._limits)
            if self._n_fed_bytes > self._limits.max_header_bytes:
                raise _too_many_headers(self._limits)
        elif self._current is not None and self._current is body_before:
            self._n_framing_bytes += len(data)
            allowed = self._max_body_bytes + self._limits.max_header_bytes
            # A one-byte chunk costs six bytes, so honest framing stays below eight times the body.
            if self._n_framing_bytes > 8 * allowed:
                raise _RefusedError(413, "Request body has too much chunk framing")

    def _refuse(self, refusal: Refusal) -> None:
        self.finished = True
        self.in_head = False
        if self._current is not None:
            self._current.refusal = refusal
            self._current = None
        else:
            self.exchanges.append(Exchange(None, refusal))

    def _method_error(self) -> _RefusedError:
        word = self._lead.lstrip(b"\r\n").split(b" ", 1)[0]
        if word and all(byte in _TOKEN_BYTES for byte in word):
            return _RefusedError(501, "Method not implemented")
        return _RefusedError(400, "Malformed request: not an HTTP request line")

    def _replay_without_upgrade(self, rest: bytes) -> None:
        """Read the request again as if no upgrade had been offered, which RFC 9110 §7.8 allows.

        llhttp stops at an upgrade and leaves the body unread; clients that offer ``h2c`` (Java's, curl's)
        expect a plain HTTP/1.1 answer and may send a body.
        """
        self._declined_upgrade = False
        method = self._parser.get_method()
        lines = [method + b" " + self._url + b" HTTP/1.1"]
        for name, value in self._headers:
            if name == b"connection":
                value = b", ".join(w for w in _words(value) if w not in (b"upgrade", b"http2-settings"))
            if name not in (b"upgrade", b"http2-settings"):
                lines.append(name + b": " + value)
        self._parser = httptools.HttpRequestParser(self)
        self._feed(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    # ------------------------------------------------------------------ parser callbacks

    def on_message_begin(self) -> None:
        self.in_head = True
        self.n_heads_begun += 1
        self._url = b""
        self._headers = []
        self._n_head_bytes = 0
        self._n_fed_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > self._limits.max_request_line_bytes:
            raise _too_long_line(self._limits)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._n_head_bytes += len(name) + len(value) + 4
        if self._n_head_bytes > self._limits.max_header_bytes:
            raise _too_many_headers(self._limits)
        if self.in_head:  # otherwise it is a trailer
            self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        head = self._build_head()
        if head is None:
            return
        self.in_head = False
        self._n_framing_bytes = 0
        self._current = Exchange(head)
        self.exchanges.append(self._current)

    def on_body(self, data: bytes) -> None:
        exchange = self._current
        if exchange is None:
            return
        exchange.n_body_bytes += len(data)
        if exchange.discarding:
            if exchange.n_body_bytes > self._limits.max_discard_bytes:
                self.finished = True
                self._current = None
            return
        if exchange.n_body_bytes > self._max_body_bytes:
            raise _too_large_body(self._max_body_bytes)
        exchange.body.append(data)
        self.n_buffered_body_bytes += len(data)

    def on_message_complete(self) -> None:
        exchange = self._current
        if exchange is None or exchange.head is None:
            return
        exchange.body_complete = True
        self._current = None
        if not exchange.head.keep_alive:
            self.finished = True

    # ------------------------------------------------------------------ the head

    def _build_head(self) -> RequestHead | None:
        """The finished head, or None when it has to be read again without its upgrade."""
        if self.finished:
            raise _RefusedError(400, "Malformed request: data after the last request")
        parser = self._parser
        version = parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise _RefusedError(505, "HTTP version not supported: use HTTP/1.1")
        method = parser.get_method().decode("ascii")
        if method not in METHODS:
            raise _RefusedError(501, f"Method not implemented: {method}")
        special = {name: value for name, value in self._headers if name in _FRAMING}
        self._check_host(version)
        _check_coding(special.get(b"transfer-encoding"), version)
        wants_websocket = False
        if parser.should_upgrade():
            wants_websocket = b"websocket" in _words(special.get(b"upgrade", b"")) and method == "GET"
            if not wants_websocket:
                self._declined_upgrade = True
                return None
        path, raw_path, query_string = _split_target(self._url)
        self._max_body_bytes = (
            self._limits.max_large_body_bytes if path in self._limits.large_body_paths else self._limits.max_body_bytes
        )
        if int(special.get(b"content-length", 0)) > self._max_body_bytes:
            raise _too_large_body(self._max_body_bytes)
        return RequestHead(
            method=method,
            path=path,
            raw_path=raw_path,
            query_string=query_string,
            headers=self._headers,
            http_version=version,
            keep_alive=parser.should_keep_alive(),
            expects_continue=_expects_continue(special.get(b"expect"), version),
            accept_encoding=special.get(b"accept-encoding", b""),
            wants_websocket=wants_websocket,
        )

    def _check_host(self, version: str) -> None:
        hosts = [value for name, value in self._headers if name == b"host"]
        if len(hosts) > 1:
            raise _RefusedError(400, "Malformed request: more than one Host header")
        if not hosts and version == "1.1":
            raise _RefusedError(400, "Malformed request: missing Host header")
        if hosts and any(byte in b" \t/@\\" for byte in hosts[0]):
            raise _RefusedError(400, "Malformed request: invalid Host header")


def _words(value: bytes) -> list[bytes]:
    return [word.strip().lower() for word in value.split(b",")]


def _split_target(target: bytes) -> tuple[str, bytes, bytes]:
    """The decoded path, the path as sent, and the query of a request target (RFC 9112 §3.2).

    Bytes that are not UTF-8 become U+FFFD, so that no lone surrogate reaches an encoder.
    """
    raw, _, query = target.partition(b"?")
    raw = raw.partition(b"#")[0]
    query = query.partition(b"#")[0]
    if b"://" in raw and not raw.startswith(b"/"):
        _, slash, rest = raw.partition(b"://")[2].partition(b"/")
        raw = slash + rest or b"/"
    if b"%" in raw:
        return unquote_to_bytes(raw).decode("utf-8", "replace"), raw, query
    return raw.decode("utf-8", "replace"), raw, query


def _check_coding(coding: bytes | None, version: str) -> None:
    if coding is None:
        return
    if version == "1.0":
        # RFC 9112 §6.1: framing by Transfer-Encoding in a 1.0 message is faulty.
        raise _RefusedError(400, "Malformed request: Transfer-Encoding needs HTTP/1.1")
    words = _words(coding)
    if words[-1] != b"chunked" or words.count(b"chunked") > 1:
        raise _RefusedError(400, "Malformed request: chunked must be the last Transfer-Encoding")
    if len(words) > 1:
        raise _RefusedError(501, "Transfer-Encoding not implemented: only chunked is")


def _expects_continue(expect: bytes | None, version: str) -> bool:
    if expect is None or version == "1.0":
        return False
    if expect.lower() != b"100-continue":
        raise _RefusedError(417, "Expectation not supported: only 100-continue is")
    return True


def _parse_error(reason: str) -> _RefusedError:
    if reason in ("Invalid HTTP version", "Pause on PRI/Upgrade"):
        return _RefusedError(505, "HTTP version not supported: use HTTP/1.1")
    if reason == "Content-Length overflow":
        return _RefusedError(413, "Request body too large: Content-Length overflows")
    return _RefusedError(400, f"Malformed request: {reason}")


def _too_long_line(limits: Limits) -> _RefusedError:
    return _RefusedError(414, f"Request line too long: the limit is {limits.max_request_line_bytes} bytes")


def _too_many_headers(limits: Limits) -> _RefusedError:
    return _RefusedError(431, f"Request headers too large: the limit is {limits.max_header_bytes} bytes")


def _too_large_body(max_bytes: int) -> _RefusedError:
    return _RefusedError(413, f"Request body too large: the limit is {max_bytes} bytes")
