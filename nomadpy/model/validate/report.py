"""The form in which problems are reported: lists of texts, nested the way Nomad nests them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator

Problems = Iterator[str]

# Beyond this no machine goes; sums of such numbers still fit into 64 bits.
QUANTITY_MAX = 1 << 40

_RFC1123_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")
_REFERENCE = re.compile(r"\$\{[^}]*\}")


def multi_error(problems: Iterable[str]) -> str:
    """One text of all problems.

    >>> multi_error(["Missing job ID"])
    '1 error occurred:\\n\\t* Missing job ID\\n\\n'
    """
    items = list(problems)
    count = "1 error" if len(items) == 1 else f"{len(items)} errors"
    return f"{count} occurred:\n\t" + "\n\t".join(f"* {item}" for item in items) + "\n\n"


def nested(place: str, problems: Iterable[str]) -> Problems:
    """One problem, "<place> validation failed: …", that holds all the given ones; none when there are none."""
    items = list(problems)
    if items:
        yield f"{place} validation failed: {multi_error(items)}"


def quoted(values: Iterable[str]) -> str:
    """The values in quotes, with commas."""
    return ", ".join(f'"{value}"' for value in values)


def is_dns_label(text: str) -> bool:
    """Whether the text is a label of RFC 1123 once every run-time reference in it has become a letter."""
    return _RFC1123_LABEL.match(_REFERENCE.sub("x", text)) is not None


def is_dns_name(text: str) -> bool:
    """Whether the text is a DNS name of at most 253 characters."""
    return len(text) <= 253 and all(_RFC1123_LABEL.match(label) for label in text.removesuffix(".").split("."))


def escapes_alloc_dir(path: str) -> bool:
    """Whether a path, taken from the task's directory, leads out of the allocation's directory."""
    joined = posixpath.normpath("task/" + path)
    return joined == ".." or joined.startswith("../")


def escapes_task_local(path: str) -> bool:
    """Whether a path, taken from the task's ``local`` directory, leads out of the task's directory."""
    joined = posixpath.normpath("local/" + path)
    return joined == ".." or joined.startswith("../")
