"""Linux capabilities by name, and which of them an isolated task gets."""

from __future__ import annotations

from collections.abc import Iterable

from nomadpy.model.errors import Fatal

# In the order of the kernel's numbers (include/uapi/linux/capability.h).
NAMES = (
    *("chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap"),
    *("linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner"),
    *("sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice"),
    *("sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap"),
    *("mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf"),
    "checkpoint_restore",
)
ALLOWED_BY_DEFAULT = (
    *("audit_write", "chown", "dac_override", "fowner", "fsetid", "kill", "mknod", "net_bind_service", "setfcap"),
    *("setgid", "setpcap", "setuid", "sys_chroot"),
)


def normalise(names: Iterable[str]) -> set[str]:
    """Names in small letters without ``CAP_``; ``all`` is every one. Raises Fatal for one that does not exist."""
    found: set[str] = set()
    for name in names:
        plain = name.strip().lower().removeprefix("cap_")
        if plain == "all":
            found.update(NAMES)
        elif plain in NAMES:
            found.add(plain)
        else:
            raise Fatal(f'unknown capability "{name}"')
    return found


def bits(names: Iterable[str]) -> int:
    """The kernel's bit mask of normalised names."""
    return sum(1 << NAMES.index(name) for name in set(names))


def grant(allowed: Iterable[str], add: Iterable[str], drop: Iterable[str]) -> tuple[int, int]:
    """(bounding set, capabilities that an unprivileged user really holds) as bit masks.

    The bounding set is Nomad's default set within what the operator allows, with the job's changes. An ordinary user
    holds only what the job asked for, and the right to bind low ports. Raises Fatal for what is not allowed."""
    may, wanted, dropped = normalise(allowed), normalise(add), normalise(drop)
    refused = wanted - may - (set(NAMES) if set(add) == {"all"} else set())
    if refused:
        raise Fatal(f"capabilities not allowed on this node by allow_caps: {', '.join(sorted(refused))}")
    bound = ((set(ALLOWED_BY_DEFAULT) & may) - dropped) | (wanted & may)
    return bits(bound), bits(bound & (wanted | {"net_bind_service"}))
