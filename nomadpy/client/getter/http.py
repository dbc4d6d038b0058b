"""Files over HTTP: streamed to disk, with a limit on size and time, and a checksum on the way."""

from __future__ import annotations

import hashlib
import ssl
from contextlib import aclosing
from typing import IO, Any

import httpx
import trio

from nomadpy.client.getter.source import Source
from nomadpy.model.errors import Invalid, Temporary

_CHUNK = 1 << 20
_CONNECT_TIMEOUT_S = 30.0
_SILENCE_TIMEOUT_S = 60.0
_MAX_REDIRECTS = 10


async def fetch_http(
    source: Source, path: str, *, headers: dict[str, str], insecure: bool, max_bytes: int, timeout_s: float
) -> None:
    """Downloads to ``path`` and compares the checksum, if there is one.

    Raises:
        Temporary: the server, the network or the checksum is against it; another attempt may succeed.
        Invalid: no attempt can succeed, as with a URL that is none.
    """
    timeout = httpx.Timeout(_SILENCE_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
    try:
        with trio.fail_after(timeout_s):
            async with (
                httpx.AsyncClient(
                    verify=_tls(insecure), timeout=timeout, follow_redirects=True, max_redirects=_MAX_REDIRECTS
                ) as client,
                client.stream("GET", source.url, headers={"Accept-Encoding": "identity", **headers}) as answer,
            ):
                if answer.status_code != 200:
                    raise Temporary(f"{source.shown} answers with HTTP status {answer.status_code}")
                with open(path, "xb") as file:  # noqa: ASYNC230 - made at once; what follows is written in threads
                    await _store(answer, file, source, max_bytes)
    except trio.TooSlowError as error:
        raise Temporary(f"{source.shown} was not read within {timeout_s:g}s") from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
        raise Invalid(f"{source.shown}: {error}") from error
    except (httpx.HTTPError, httpx.StreamError) as error:
        raise Temporary(f"{source.shown} could not be read: {error or type(error).__name__}") from error


def _tls(insecure: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def _store(answer: httpx.Response, file: IO[bytes], source: Source, max_bytes: int) -> None:
    digest = hashlib.new(source.checksum[0]) if source.checksum else None
    n_bytes = 0

    def take(chunk: bytes) -> None:
        file.write(chunk)
        if digest is not None:
            digest.update(chunk)

    # Bytes as they come: what was asked for is the file itself, so an encoding belongs to the file.
    chunks: Any = answer.aiter_raw(_CHUNK)
    async with aclosing(chunks):
        async for chunk in chunks:
            n_bytes += len(chunk)
            if max_bytes and n_bytes > max_bytes:
                raise Invalid(f"{source.shown} is larger than the {max_bytes} bytes that this client allows")
            await trio.to_thread.run_sync(take, chunk)
    if digest is not None and source.checksum is not None and digest.hexdigest() != source.checksum[1]:
        kind, expected = source.checksum
        raise Temporary(f"{source.shown}: the {kind} checksum is {digest.hexdigest()}, {expected} was expected")
