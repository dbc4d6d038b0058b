"""One response on its way out: ASGI messages in, bytes for the wire out, no I/O.

A response with one body message goes out with Content-Length, in one piece when it is small. A streamed one
goes out as chunks (or, to HTTP/1.0, until the connection closes). Bodies are compressed when the client asks
for it and the response does not refuse: streams flush the compressor after every message, so that a reader
sees each message when it is sent.

A response may carry ``x-no-compression``; the header is taken out and nothing is compressed. Event streams
and content that is compressed already are never touched.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from nomadpy.api._http_machine import Headers, Refusal, RequestHead

# One piece handed to the socket: large enough to be efficient, small enough to be a unit of progress
# for the stalled-writer limit and of fairness for compression.
PIECE_BYTES = 1 << 18

_COMPRESSED_TYPES = (
    b"text/event-stream",
    b"application/gzip",
    b"application/x-gzip",
    b"application/zip",
    b"image/",
    b"video/",
    b"audio/",
    b"font/woff",
)
_REASONS = {status.value: f"{status.value} {status.phrase}".encode() for status in HTTPStatus}
_BODILESS = frozenset({204, 304})
# Sentences in answers of the server itself are UTF-8 plain text, like every error of the API.
_PLAIN = (b"content-type", b"text/plain; charset=utf-8")


class ResponseError(Exception):
    """The application broke the ASGI or HTTP rules for a response."""


class ResponseWriter:
    """Frames one response. ``send`` answers what to put on the wire for each ASGI message.

    ``started``: bytes were produced, so the status can no longer change. ``complete``: nothing follows.
    ``keep_alive``: the connection can carry another response after this one.
    """

    def __init__(self, head: RequestHead | None, *, date: bytes, compress_min_bytes: int) -> None:
        self.started = False
        self.complete = False
        self.keep_alive = head is not None and head.keep_alive
        self.status = 0
        self._is_head = head is not None and head.method == "HEAD"
        self._is_http10 = head is not None and head.http_version == "1.0"
        self._accept_encoding = head.accept_encoding if head is not None else b""
        self._date = date
        self._compress_min_bytes = compress_min_bytes
        self._headers: Headers = []
        self._chunked = False
        self._bodiless = False
        self._n_body_left: int | None = None
        self._compressor: Any = None

    def send(self, message: Mapping[str, Any]) -> Iterable[bytes]:
        """The pieces to write for one message, in order; none until the head's framing is decided.

        Raises:
            ResponseError: the message is out of order, or its headers or length are impossible.
        """
        kind = message["type"]
        if kind == "http.response.start":
            return self._start(message)
        if kind != "http.response.body":
            raise ResponseError(f"unexpected ASGI message {kind!r} in an HTTP response")
        if not self.status:
            raise ResponseError("http.response.body before http.response.start")
        if self.complete:
            raise ResponseError("http.response.body after the response was complete")
        data = message.get("body", b"")
        more = message.get("more_body", False)
        self.complete = not more
        if self.started:
            return self._next_pieces(data, more)
        self.started = True
        return self._first_pieces(data, more)

    def refuse(self, refusal: Refusal, *, headers: Headers | None = None) -> bytes:
        """A complete answer by the server itself, after which the connection closes."""
        self.keep_alive = False
        return self.plain(refusal.status, refusal.text, headers=headers)

    def plain(self, status: int, text: str, *, headers: Headers | None = None) -> bytes:
        """A complete plain text answer by the server itself."""
        self.status = 0
        self._start({"status": status, "headers": [_PLAIN, *(headers or [])]})
        self._accept_encoding = b""
        self.started = self.complete = True
        return b"".join(self._first_pieces(text.encode(), more=False))

    # ------------------------------------------------------------------ framing

    def _start(self, message: Mapping[str, Any]) -> tuple[bytes, ...]:
        if self.status:
            raise ResponseError("http.response.start was sent twice")
        self.status = message["status"]
        if not 200 <= self.status <= 599:
            raise ResponseError(f"impossible response status {self.status!r}")
        self._headers = message.get("headers", [])
        return ()

    def _first_pieces(self, data: bytes, more: bool) -> Iterable[bytes]:
        lines = [b"HTTP/1.1 ", _REASONS.get(self.status) or b"%d Unknown" % self.status, b"\r\n"]
        declared, encoding = self._copy_headers(lines, data, more)
        self._bodiless = self._is_head or self.status in _BODILESS
        if encoding is not None:
            self._compressor = _compressor(encoding)
            lines += (b"Content-Encoding: ", encoding, b"\r\n")
        streams = more or (encoding is not None and len(data) > PIECE_BYTES)
        if encoding is not None and not streams:
            data = self._compressor.compress(data) + self._compressor.flush()
            self._compressor = None
        self._frame(lines, None if streams else len(data), None if encoding is not None else declared)
        lines.append(b"\r\n")
        head = b"".join(lines)
        _check_head(head, lines.count(b"\r\n"))
        if not streams and (self._bodiless or len(data) <= PIECE_BYTES):
            self._spend(len(data), more)
            return (head if self._bodiless else head + data,)
        return self._head_then_body(head, data, more)

    def _head_then_body(self, head: bytes, data: bytes, more: bool) -> Iterator[bytes]:
        yield head
        yield from self._next_pieces(data, more)

    def _copy_headers(self, lines: list[bytes], data: bytes, more: bool) -> tuple[int | None, bytes | None]:
        """Write out the application's headers; the declared length and the encoding to use come back."""
        declared: int | None = None
        content_type = b""
        compressible = True
        has_date = False
        for name, value in self._headers:
            lowered = name.lower()
            if lowered == b"content-length":
                declared = _declared_length(value)
                continue
            if lowered in (b"transfer-encoding", b"connection", b"x-no-compression"):
                compressible = compressible and lowered != b"x-no-compression"
                if lowered == b"connection" and b"close" in value.lower():
                    self.keep_alive = False
                continue
            if lowered == b"content-type":
                content_type = value
            elif lowered in (b"content-encoding", b"content-range"):
                compressible = False
            elif lowered == b"date":
                has_date = True
            lines += (canonical_name(lowered), b": ", value, b"\r\n")
        if not has_date:
            lines += (b"Date: ", self._date, b"\r\n")
        if not compressible or not (more or len(data) >= self._compress_min_bytes):
            return declared, None
        if self.status in (*_BODILESS, 206) or content_type.startswith(_COMPRESSED_TYPES):
            return declared, None
        lines += (b"Vary: Accept-Encoding", b"\r\n")
        return declared, None if self._is_head else negotiate(self._accept_encoding)

    def _frame(self, lines: list[bytes], n_bytes: int | None, declared: int | None) -> None:
        """Say how the body's end is found; ``n_bytes`` is None for a body that is still being made."""
        if self.status == 204:
            declared, n_bytes = None, None
        elif self._bodiless:
            # HEAD and 304 announce what GET would have sent, or nothing when that is not known.
            n_bytes = declared if declared is not None else (n_bytes or None)
        elif n_bytes is None:
            n_bytes = declared
            self._n_body_left = declared
            self._chunked = declared is None and not self._is_http10
        else:
            self._n_body_left = declared if declared is not None else n_bytes
            n_bytes = self._n_body_left
        if n_bytes is not None:
            lines += (b"Content-Length: ", b"%d" % n_bytes, b"\r\n")
        elif self._chunked:
            lines += (b"Transfer-Encoding: chunked", b"\r\n")
        elif not self._bodiless:
            self.keep_alive = False
        if not self.keep_alive:
            lines += (b"Connection: close", b"\r\n")
        elif self._is_http10:
            lines += (b"Connection: keep-alive", b"\r\n")

    def _next_pieces(self, data: bytes, more: bool) -> Iterator[bytes]:
        if self._bodiless:
            return
        view = memoryview(data)
        for start in range(0, len(view), PIECE_BYTES):
            piece: bytes | memoryview = view[start : start + PIECE_BYTES]
            if self._compressor is not None:
                piece = self._compressor.compress(piece)
            yield from self._framed(piece)
        if self._compressor is not None:
            yield from self._framed(self._compressor.flush(zlib.Z_SYNC_FLUSH if more else zlib.Z_FINISH))
        if not more and self._chunked:
            yield b"0\r\n\r\n"
        self._spend(0, more)

    def _framed(self, piece: bytes | memoryview) -> Iterator[bytes]:
        if not piece:
            return
        if self._chunked:
            yield b"".join((b"%x\r\n" % len(piece), piece, b"\r\n"))
        else:
            self._spend(len(piece), more=True)
            yield bytes(piece)

    def _spend(self, n_bytes: int, more: bool) -> None:
        if self._n_body_left is None or self._bodiless:
            return
        self._n_body_left -= n_bytes
        if self._n_body_left < 0 or (self._n_body_left and not more):
            self.complete = False
            raise ResponseError("the response's body does not have its declared Content-Length")


@lru_cache(maxsize=1024)
def canonical_name(lowered: bytes) -> bytes:
    """A header name as Go writes it, which is what people search for in curl's output.

    >>> canonical_name(b"x-nomad-index")
    b'X-Nomad-Index'
    """
    if not lowered or any(byte <= 32 or byte >= 127 or byte in b'"(),/:;<=>?@[\\]{}' for byte in lowered):
        raise ResponseError(f"invalid response header name {lowered!r}")
    return b"-".join(part.capitalize() for part in lowered.split(b"-"))


@lru_cache(maxsize=256)
def negotiate(accept_encoding: bytes) -> bytes | None:
    """The best of gzip and deflate that an Accept-Encoding allows, or None (RFC 9110 §12.5.3).

    >>> negotiate(b"deflate, gzip;q=0.5")
    b'deflate'
    """
    weights: dict[bytes, float] = {}
    for item in accept_encoding.lower().split(b","):
        coding, _, parameter = item.partition(b";")
        weights[coding.strip()] = _weight(parameter.strip())
    anything = weights.get(b"*", 0.0)
    gzip, deflate = weights.get(b"gzip", anything), weights.get(b"deflate", anything)
    if gzip <= 0 and deflate <= 0:
        return None
    return b"gzip" if gzip >= deflate else b"deflate"


def _weight(parameter: bytes) -> float:
    if not parameter.startswith(b"q="):
        return 1.0
    try:
        weight = float(parameter[2:])
    except ValueError:
        return 0.0
    return weight if 0.0 <= weight <= 1.0 else 0.0


def _compressor(encoding: bytes) -> Any:
    # Level 1: JSON shrinks to nearly the same size as at level 6 for a third of the processor time.
    return zlib.compressobj(1, zlib.DEFLATED, 31 if encoding == b"gzip" else 15)


def _declared_length(value: bytes) -> int:
    if not value.isdigit():
        raise ResponseError(f"invalid Content-Length {value!r} in a response")
    return int(value)


def _check_head(head: bytes, n_lines: int) -> None:
    """A line break inside a header value would let the value's author write headers of their own."""
    if head.count(b"\n") != n_lines or head.count(b"\r") != n_lines or b"\0" in head:
        raise ResponseError("a response header contains a line break or a NUL")
