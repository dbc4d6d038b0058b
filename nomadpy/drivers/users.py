"""Users of tasks: from the ``user`` of a job file to numbers, and the operator's ranges of numbers that are refused."""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass

from nomadpy.model.errors import Fatal


@dataclass(frozen=True)
class TaskUser:
    """Who a task runs as."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def look_up(user: str) -> TaskUser:
    """The user ``name``, ``uid``, ``name:group`` or ``uid:gid``. Raises Fatal naming what does not exist."""
    name, _, group = user.partition(":")
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        if not name.isdecimal():
            raise Fatal(f'user "{name}" does not exist on this node') from None
        # A number needs no entry, as container tools have it.
        gid = _group_id(group) if group else int(name)
        return TaskUser(name, int(name), gid, (gid,), "/")
    gid = _group_id(group) if group else entry.pw_gid
    groups = (gid,) if group else tuple(os.getgrouplist(entry.pw_name, gid))
    return TaskUser(entry.pw_name, entry.pw_uid, gid, groups, entry.pw_dir)


def parse_ranges(text: str) -> list[range]:
    """Ranges such as ``0,100-199``. Raises ValueError naming the part that is none."""
    ranges = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        low, dash, high = part.partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()) or (dash and int(high) < int(low)):
            raise ValueError(f'not a range of ids: "{part}"')
        ranges.append(range(int(low), int(high or low) + 1))
    return ranges


def refuse_denied(user: TaskUser, denied_uids: list[range], denied_gids: list[range]) -> None:
    """Raises Fatal when the operator denied the user or one of its groups to tasks."""
    if any(user.uid in denied for denied in denied_uids):
        raise Fatal(f'running as uid {user.uid} ("{user.name}") is not allowed by denied_host_uids on this node')
    for gid in user.groups:
        if any(gid in denied for denied in denied_gids):
            raise Fatal(f'running with gid {gid} (user "{user.name}") is not allowed by denied_host_gids on this node')


def _group_id(group: str) -> int:
    if group.isdecimal():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise Fatal(f'group "{group}" does not exist on this node') from None
