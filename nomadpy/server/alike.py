"""Jobs that differ in nothing but their names are prepared once.

Who sends many jobs usually sends the same one under many ids. Filling in defaults, admitting and validating a job takes
forty times as long as reading it, and comes to the same each time as long as nothing in it follows from the id. Whether
something does is tried out with another id when a shape is seen for the second time; what then differs in more than the
id is prepared anew each time.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Hashable
from enum import Enum
from typing import Any

import msgspec

from nomadpy.model.errors import Invalid
from nomadpy.model.job import Job

Raw = dict[str, Any]
Prepare = Callable[[Raw], tuple[Job, list[str]]]

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_OTHER_ID = "another-id.of-the_same-shape"
_SHAPES_MAX, _BYTES_MAX = 512, 16_384
_encode = msgspec.msgpack.Encoder().encode


class Shape(msgspec.Struct, frozen=True):
    """A prepared job, whatever it is called. ``named``: its name follows its id."""

    job: Job
    warnings: tuple[str, ...]
    named: bool

    def as_job(self, job_id: str) -> Job:
        """The job under an id."""
        return with_id(self.job, job_id, named=self.named)


def with_id(job: Job, job_id: str, *, named: bool) -> Job:
    """The job under another id, and with ``named`` under that name."""
    if named:
        return msgspec.structs.replace(job, id=job_id, name=job_id)
    return msgspec.structs.replace(job, id=job_id)


class _Sight(Enum):
    """How often a shape was seen that was not tried yet."""

    NEW = 0
    ONCE = 1


class Shapes:
    """The shapes seen lately."""

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, Shape | _Sight | None] = OrderedDict()

    def find(self, raw: Raw, circumstances: Hashable, prepare: Prepare) -> Shape | None:
        """The shape of an input dict with Go's names; None when the job has to be prepared by itself.
        ``circumstances`` are what else ``prepare`` goes by. Raises what ``prepare`` raises."""
        job_id = raw.get("ID")
        if type(job_id) is not str or not _PLAIN.match(job_id):
            return None
        if any(key not in ("ID", "Name") and key.lower() in ("id", "name") for key in raw):
            return None
        named = raw.get("Name") in (None, "", job_id) and ("Name" not in raw or raw["Name"] != "")
        rest = {key: value for key, value in raw.items() if key != "ID" and not (named and key == "Name")}
        try:
            text = _encode(rest)
        except (TypeError, ValueError, OverflowError, RecursionError):
            return None  # numbers beyond 64 bits and the like
        if len(text) > _BYTES_MAX:
            return None
        key = (text, named, circumstances)
        found = self._known.get(key, _Sight.NEW)
        if found is None or isinstance(found, Shape):
            self._known.move_to_end(key)
            return found
        # Whoever sends one job should not wait for it to be prepared twice.
        self._known[key] = _Sight.ONCE if found is _Sight.NEW else _tried(raw, job_id, prepare, named=named)
        if len(self._known) > _SHAPES_MAX:
            self._known.popitem(last=False)
        known = self._known[key]
        return known if isinstance(known, Shape) else None


def _tried(raw: Raw, job_id: str, prepare: Prepare, *, named: bool) -> Shape | None:
    job, warnings = prepare(raw)
    try:
        other, other_warnings = prepare({**raw, "ID": _OTHER_ID, **({"Name": _OTHER_ID} if named else {})})
    except Invalid:
        return None  # something is made of the id that the other id does not do for
    if job.id != job_id or warnings != other_warnings or with_id(job, _OTHER_ID, named=named) != other:
        return None
    return Shape(job, tuple(warnings), named)
