"""Orders about keys, carried out by every member: one question each over TCP, so that every answer is counted."""

from __future__ import annotations

from collections import Counter

import trio

from nomadpy.gossip.contract import KeyringReport, Member
from nomadpy.gossip.envelope import Envelope
from nomadpy.gossip.messages import KeyAnswer, KeyOrder, Refusal
from nomadpy.gossip.talk import Unanswered, ask
from nomadpy.model.errors import Invalid

_ANSWER_TIMEOUT_S = 5.0
_AT_ONCE = 16


class KeyOrders:
    """Gives such orders, and carries them out."""

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope
        self._lock = trio.Lock()

    async def carry_out(self, order: KeyOrder) -> KeyAnswer:
        """Changes this agent's own keyring; the answer says what it holds then, and what went wrong."""
        trouble = ""
        try:
            await self._apply(order)
        except Invalid as error:
            trouble = error.message
        except OSError as error:
            trouble = f"the keyring's file cannot be written: {error}"
        keyring = self._envelope.keyring
        return KeyAnswer(keyring.keys, keyring.primary, trouble)

    async def _apply(self, order: KeyOrder) -> None:
        async with self._lock:
            await trio.to_thread.run_sync(self._envelope.keyring.order, order.action, order.key)

    async def everywhere(self, name: str, others: list[Member], order: KeyOrder) -> KeyringReport:
        """The order carried out by this agent (``name``) and then by the others. Raises Invalid when this agent's own
        keyring refuses it."""
        try:
            await self._apply(order)
        except OSError as error:
            raise Invalid(f"the keyring's file cannot be written: {error}", status=500) from error
        keyring = self._envelope.keyring
        answers = {name: KeyAnswer(keyring.keys, keyring.primary)}
        limiter = trio.CapacityLimiter(_AT_ONCE)
        async with trio.open_nursery() as nursery:
            for member in others:
                nursery.start_soon(self._ask, member, order, answers, limiter)
        return KeyringReport(
            messages={who: answer.trouble for who, answer in sorted(answers.items()) if answer.trouble},
            keys=dict(Counter(key for answer in answers.values() for key in answer.keys)),
            primary_keys=dict(Counter(answer.primary for answer in answers.values() if answer.primary)),
            num_nodes=len(others) + 1,
        )

    async def _ask(
        self, member: Member, order: KeyOrder, answers: dict[str, KeyAnswer], limiter: trio.CapacityLimiter
    ) -> None:
        async with limiter:
            try:
                place = (member.address, member.port)
                answer = await ask(self._envelope, place, order, timeout_s=_ANSWER_TIMEOUT_S)
            except Unanswered as error:
                answers[member.name] = KeyAnswer([], "", str(error))
                return
        if isinstance(answer, KeyAnswer):
            answers[member.name] = answer
        else:
            text = answer.sentence if isinstance(answer, Refusal) else "it gave an answer to another question"
            answers[member.name] = KeyAnswer([], "", text)
