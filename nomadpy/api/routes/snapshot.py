"""Routes that save the state of the cluster and restore it."""

from __future__ import annotations

import base64
import hashlib

from starlette.responses import Response

from nomadpy.api.call import Call, Reply
from nomadpy.api.router import READ, WRITE, Operation, Param
from nomadpy.model.errors import Invalid
from nomadpy.state.archive import BYTES_MAX

_PATH = "/v1/operator/snapshot"


async def save(call: Call) -> Response:
    """An archive of the whole state. Its checksum is in the header Digest."""
    meta, archive = await call.server.backups.save(call.caller, stale=call.stale)
    digest = base64.b64encode(hashlib.sha256(archive).digest()).decode()
    headers = {"Digest": f"sha-256={digest}", "X-Nomad-Index": str(meta.index)}
    return Response(archive, media_type="application/x-gzip", headers=headers)


async def restore(call: Call) -> Reply:
    """Replaces the state of all servers by the one in the archive that is sent."""
    call.caller.require("", "management")
    archive = bytearray()
    async for part in call.request.stream():
        archive += part
        if len(archive) > BYTES_MAX:
            raise Invalid(f"the snapshot is larger than {BYTES_MAX >> 30} GiB", status=413)
    index = await call.server.backups.restore(call.caller, bytes(archive))
    return Reply(value={"Index": index}, index=index)


OPERATIONS: tuple[Operation, ...] = (
    Operation(methods=READ, path=_PATH, endpoint=save, query=(Param("stale", "boolean"),)),
    Operation(methods=WRITE, path=_PATH, endpoint=restore),
)
