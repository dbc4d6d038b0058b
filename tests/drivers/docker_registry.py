"""An image registry that fits on a page, on loopback: enough of the distribution protocol for a real engine to pull."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"


class Registry:
    """One repository with one image under every tag. ``asked`` counts requests for its manifest."""

    def __init__(self, binary: Path, *, credentials: tuple[str, str] | None = None) -> None:
        self.credentials = credentials
        self.asked = 0
        self.layers_sent = 0
        self.hold = threading.Event()  # layers are sent once this is set
        self.hold.set()
        layer = make_layer(binary)
        self.layer_digest = digest(gzip.compress(layer, mtime=0))
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Cmd": ["/busybox", "echo", "pulled"]},
                "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
            }
        ).encode()
        self.blobs = {self.layer_digest: gzip.compress(layer, mtime=0), digest(config): config}
        self.manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": describe(config, "application/vnd.docker.container.image.v1+json"),
                "layers": [
                    describe(self.blobs[self.layer_digest], "application/vnd.docker.image.rootfs.diff.tar.gzip")
                ],
            }
        ).encode()
        self.host = ""

    @contextmanager
    def serving(self) -> Iterator[Registry]:
        """Answers on a port of loopback until the context is left; ``host`` names it."""
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                registry.answer(self)

            def do_HEAD(self) -> None:
                registry.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                """Tests need no log of requests."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.host = f"127.0.0.1:{server.server_address[1]}"
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            try:
                yield self
            finally:
                self.hold.set()
                server.shutdown()
                thread.join()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One answer of the protocol."""
        if self.credentials and request.headers.get("Authorization") != basic(*self.credentials):
            reply(request, 401, b"{}", {"WWW-Authenticate": 'Basic realm="test"'})
        elif request.path == "/v2/":
            reply(request, 200, b"{}", {})
        elif "/manifests/" in request.path and "/missing/" not in request.path:
            self.asked += 1
            headers = {"Content-Type": MANIFEST_TYPE, "Docker-Content-Digest": digest(self.manifest)}
            reply(request, 200, self.manifest, headers)
        elif (name := request.path.rpartition("/")[2]) in self.blobs:
            if name == self.layer_digest and request.command == "GET":
                self.hold.wait(30)
                self.layers_sent += 1
            reply(request, 200, self.blobs[name], {"Content-Type": "application/octet-stream"})
        else:
            error = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
            reply(request, 404, json.dumps(error).encode(), {"Content-Type": "application/json"})


def reply(request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
    request.send_response(status)
    for name, value in {"Docker-Distribution-Api-Version": "registry/2.0", **headers}.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(body)


def make_layer(binary: Path) -> bytes:
    """A layer that holds one program."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("busybox")
        entry.mode, entry.size = 0o755, binary.stat().st_size
        with binary.open("rb") as file:
            archive.addfile(entry, file)
    return buffer.getvalue()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def describe(data: bytes, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "size": len(data), "digest": digest(data)}


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
