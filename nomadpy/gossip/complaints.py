"""Warnings about other agents, each as often as a person wants to read it."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)

_SAY_AGAIN_S = 60.0
_REMEMBERED_MAX = 256


class Complaints:
    """Says a thing about an address once a minute."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, str], float] = {}

    def say(self, now: float, address: str, reason: str, *, event: str = "gossip.not-understood") -> None:
        """Logs it, unless that was done within the last minute. ``address`` may be a member's name as well."""
        if len(self._said) >= _REMEMBERED_MAX:
            self._said = {key: at for key, at in self._said.items() if now - at < _SAY_AGAIN_S}
        if len(self._said) >= _REMEMBERED_MAX or now - self._said.get((address, reason), -_SAY_AGAIN_S) < _SAY_AGAIN_S:
            return
        self._said[address, reason] = now
        log.warning(event, extra={"fields": {"member": address, "reason": reason}})
