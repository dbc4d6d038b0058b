"""Registrations whose text differs only in the job's id.

Reading the JSON of a job, and looking up what it has in common with others, takes several times as long as looking for
its id in the text. So the text without the id, its skeleton, is remembered together with the ``Shape`` that it led to.

A skeleton is learned only when each hole in it was seen to be the value of the job's ``ID``, or of its ``Name``: then
nothing else in the text can depend on what stands there, for an id of plain characters needs no escapes in JSON.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import msgspec

from nomadpy.server.alike import Shape

_ID = re.compile(rb'"ID"\s*:\s*("[A-Za-z0-9][A-Za-z0-9._-]{0,127}")').search
_HOLE = b'"\0"'  # no JSON text has a zero byte
_MARKERS = ("1" * 200, "2" * 200)  # longer than any id that is cut out
_BYTES_MAX, _SKELETONS_MAX, _CIRCUMSTANCES_MAX = 16_384, 512, 8
_decode = msgspec.json.Decoder().decode

Known = dict[bytes, Shape]


def cut(text: bytes) -> tuple[str, bytes] | None:
    """The id that a registration seems to have, and the text with a hole wherever the id stands as a whole string; None
    when there is none. The text must not have zero bytes."""
    found = _ID(text)
    if found is None:
        return None
    quoted = found[1]
    return quoted[1:-1].decode(), text.replace(quoted, _HOLE)


class Skeletons:
    """The skeletons seen lately, under the circumstances in which they led to their shapes."""

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, Known] = OrderedDict()

    def under(self, circumstances: Hashable) -> Known:
        """What is known in these circumstances: a shape by skeleton."""
        known = self._known.setdefault(circumstances, {})
        self._known.move_to_end(circumstances)
        if len(self._known) > _CIRCUMSTANCES_MAX:
            self._known.popitem(last=False)
        return known


def learn(known: Known, job_id: str, skeleton: bytes, raw: dict[str, Any], shape: Shape) -> None:
    """Remembers the skeleton of the text ``{"Job": raw}``, which led to the shape, unless something in it besides the
    id and the name follows from the id."""
    if len(skeleton) > _BYTES_MAX or raw.get("ID") != job_id or not _is_exact(skeleton, raw, shape):
        return
    if len(known) >= _SKELETONS_MAX:
        known.clear()
    known[skeleton] = shape


def _is_exact(skeleton: bytes, raw: dict[str, Any], shape: Shape) -> bool:
    named = shape.named and raw.get("Name") == raw["ID"]
    pieces = skeleton.split(_HOLE)
    markers = _MARKERS[: 2 if named else 1]
    if len(pieces) != len(markers) + 1:
        return False
    filled = b"".join(part + b'"' + mark.encode() + b'"' for part, mark in zip(pieces, markers, strict=False))
    try:
        other = _decode(filled + pieces[-1])["Job"]
    except msgspec.DecodeError:
        return False  # it was read in spite of something that only Go overlooks
    return {other["ID"], other["Name"]} == set(markers) if named else other["ID"] == markers[0]
