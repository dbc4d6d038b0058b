"""What is still to be passed on: each message a limited number of times, the least often sent first."""

from __future__ import annotations

from typing import TypeAlias

Subject: TypeAlias = tuple[str, int]
"""What a message is about: a newer one about the same subject takes its place."""

# So many messages that do not fit are passed over before a packet counts as full.
_TRIES = 8


class Broadcasts:
    """Encoded messages by subject, in tiers: tier i holds what was sent i times."""

    def __init__(self) -> None:
        self._tiers: list[dict[Subject, bytes]] = [{}]
        self._tier_of: dict[Subject, int] = {}

    def __len__(self) -> int:
        return len(self._tier_of)

    def __contains__(self, subject: Subject) -> bool:
        return subject in self._tier_of

    def put(self, subject: Subject, message: bytes) -> None:
        """Adds a message, in place of an older one about the same subject."""
        self.drop(subject)
        self._tiers[0][subject] = message
        self._tier_of[subject] = 0

    def drop(self, subject: Subject) -> None:
        """Forgets the message about a subject, if there is one."""
        tier = self._tier_of.pop(subject, None)
        if tier is not None:
            del self._tiers[tier][subject]

    def take(self, budget: int, limit: int) -> list[bytes]:
        """Messages for one packet of at most ``budget`` bytes. What was now sent ``limit`` times is forgotten."""
        if not self._tier_of:
            return []
        chosen: list[tuple[int, Subject, bytes]] = []
        tries = _TRIES
        for tier, messages in enumerate(self._tiers):
            for subject in reversed(messages):
                message = messages[subject]
                if len(message) <= budget:
                    chosen.append((tier, subject, message))
                    budget -= len(message)
                else:
                    tries -= 1
                if not tries or budget < 8:
                    break
            if not tries or budget < 8:
                break
        for tier, subject, message in chosen:
            self._count(tier, subject, message, limit)
        return [message for _, _, message in chosen]

    def _count(self, tier: int, subject: Subject, message: bytes, limit: int) -> None:
        del self._tiers[tier][subject]
        if tier + 1 >= limit:
            del self._tier_of[subject]
            return
        if tier + 1 == len(self._tiers):
            self._tiers.append({})
        self._tiers[tier + 1][subject] = message
        self._tier_of[subject] = tier + 1
