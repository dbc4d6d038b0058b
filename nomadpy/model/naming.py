"""From Python's field names to the JSON names of Nomad's API.

``kill_timeout_ns`` is ``KillTimeout``, ``memory_mb`` is ``MemoryMB``, ``eval_id`` is ``EvalID``. A field whose name
does not follow from the rule says so with ``msgspec.field(name=…)``.

>>> [json_name(n) for n in ("id", "eval_id", "kill_timeout_ns", "memory_max_mb", "http_addr", "cpu", "task_groups")]
['ID', 'EvalID', 'KillTimeout', 'MemoryMaxMB', 'HTTPAddr', 'CPU', 'TaskGroups']
"""

from __future__ import annotations

from typing import Any, Self, dataclass_transform

import msgspec

_INITIALISMS = frozenset(
    (
        *(
            "id",
            "mb",
            "cpu",
            "http",
            "tls",
            "dns",
            "ttl",
            "ip",
            "ui",
            "iops",
            "numa",
            "cni",
            "cidr",
            "csi",
            "acl",
            "gc",
        ),
        *("grpc", "rss", "rpc", "url", "tcp", "pci", "uid", "ca", "sni", "tg"),
    )
)


def json_name(field: str) -> str:
    """The Go-style name of a snake_case field; a trailing ``_ns`` (the unit of durations and times) is dropped."""
    words = field.removesuffix("_ns").split("_")
    return "".join(word.upper() if word in _INITIALISMS else word[:1].upper() + word[1:] for word in words)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Noun(msgspec.Struct, frozen=True, kw_only=True, rename=json_name, gc=False):
    """The base of every record that Nomad's API prints with all its fields."""

    def replace(self, **changes: Any) -> Self:
        """A copy with ``changes`` applied; the original stays as it is."""
        return msgspec.structs.replace(self, **changes)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class SparseNoun(msgspec.Struct, frozen=True, kw_only=True, rename=json_name, omit_defaults=True, gc=False):
    """The base of the few records whose empty fields Nomad's API leaves out."""

    def replace(self, **changes: Any) -> Self:
        """A copy with ``changes`` applied; the original stays as it is."""
        return msgspec.structs.replace(self, **changes)


OMIT_EMPTY = msgspec.Meta(extra={"go": "omitempty"})
"""Marks single fields of a ``Noun`` that the wire leaves out when empty: ``items: Annotated[..., OMIT_EMPTY]``."""
