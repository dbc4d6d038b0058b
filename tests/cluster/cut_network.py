"""A network of namespaces on a bridge, in which links between machines can be cut, in one direction or both.

The bridge is in a namespace of its own, so that the host's firewall has no say in what it carries. The host itself is
connected, too, and is never cut off: tests can ask every machine at any time.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterable


def missing() -> str | None:
    """Why no network can be made here, or None."""
    if os.geteuid() != 0:
        return "not root"
    for tool in ("ip", "iptables", "nsenter"):
        if shutil.which(tool) is None:
            return f"no {tool} command"
    name = f"npy{os.getpid()}x"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespaces: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=False)
    return None


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")


def sweep() -> None:
    """Removes what a process that does not exist any more has left behind."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=False).stdout
    for kind, text in (("netns", listed), ("link", links)):
        for name, pid in set(re.findall(r"\b(npy(\d+)[a-j]\w*)", text)):
            if not os.path.exists(f"/proc/{pid}"):
                subprocess.run(["ip", kind, "del", name], capture_output=True, check=False)


class CutNetwork:
    """``size`` machines, counted from 1."""

    def __init__(self, size: int) -> None:
        self._id = f"npy{os.getpid()}{random.choice('abcdefghij')}{random.randint(0, 99)}"
        self._subnet = f"10.{random.randint(200, 250)}.{random.randint(1, 250)}"
        self.size = size
        sweep()
        self._switch = f"{self._id}sw"
        self._uplink = f"{self._id}"[:15]
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        in_switch = ("ip", "-n", self._switch)
        _run("ip", "netns", "add", self._switch)
        _run(*in_switch, "link", "add", "br0", "type", "bridge")
        _run(*in_switch, "link", "set", "br0", "up")
        _run("ip", "link", "add", self._uplink, "type", "veth", "peer", "name", "up0", "netns", self._switch)
        _run("ip", "addr", "add", f"{self._subnet}.254/24", "dev", self._uplink)
        _run("ip", "link", "set", self._uplink, "up")
        _run(*in_switch, "link", "set", "up0", "master", "br0", "up")
        for number in range(1, self.size + 1):
            name, port = self.namespace(number), f"p{number}"
            _run("ip", "netns", "add", name)
            _run(*in_switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            _run(*in_switch, "link", "set", port, "master", "br0", "up")
            _run("ip", "-n", name, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
            _run("ip", "-n", name, "link", "set", "lo", "up")
            _run("ip", "-n", name, "link", "set", "eth0", "up")

    def namespace(self, number: int) -> str:
        """The name of a machine's namespace."""
        return f"{self._id}m{number}"

    def address(self, number: int) -> str:
        """The address of a machine."""
        return f"{self._subnet}.{number}"

    def prefix(self, number: int) -> list[str]:
        """Enters the machine's network and nothing else."""
        return ["nsenter", f"--net=/run/netns/{self.namespace(number)}"]

    # --- faults ----------------------------------------------------------------------------------------------------

    def deafen(self, listener: int, speaker: int) -> None:
        """Nothing that ``speaker`` sends reaches ``listener`` any more; the other direction stays."""
        self._filter(listener, "-A", "INPUT", "-s", self.address(speaker), "-j", "DROP")

    def cut(self, one: int, other: int) -> None:
        """Neither hears the other."""
        self.deafen(one, other)
        self.deafen(other, one)

    def part(self, some: Iterable[int], others: Iterable[int]) -> None:
        """Nobody of ``some`` hears anybody of ``others``, nor the other way."""
        theirs = list(others)
        for one in some:
            for other in theirs:
                self.cut(one, other)

    def heal(self) -> None:
        """Everybody hears everybody."""
        for number in range(1, self.size + 1):
            self._filter(number, "-F", "INPUT")

    def _filter(self, number: int, *words: str) -> None:
        _run("ip", "netns", "exec", self.namespace(number), "iptables", "-w", *words)

    def close(self) -> None:
        """Removes everything that was made."""
        for name in (*(self.namespace(n) for n in range(1, self.size + 1)), self._switch):
            with contextlib.suppress(RuntimeError):
                _run("ip", "netns", "del", name)
        with contextlib.suppress(RuntimeError):
            _run("ip", "link", "del", self._uplink)
