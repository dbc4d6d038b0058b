"""How gossip is tuned, and why these numbers.

The aim: a member that dies is declared failed by everybody after 2.3 to about 3.5 seconds in a small pool and within 6
seconds in one of 500, while an agent that is restarted within two seconds is not declared failed at all. Hence a
verdict never falls before ``period_s + suspicion_s`` = 2.3 seconds have passed since the first unanswered probe.
"""

from __future__ import annotations

import math

import msgspec

from nomadpy.model.errors import Invalid

DEFAULT_PORT = 4648


class GossipSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Timing and sizes. All agents of a pool should have the same. ``scaled`` stretches them for slow networks."""

    # One member is probed per period; what has not answered by its end is suspected.
    period_s: float = 0.5
    # After this time without an ack the helpers are asked, and TCP is tried.
    ping_timeout_s: float = 0.2
    helpers: int = 3
    tcp_ping: bool = True
    # A suspicion lasts so long in pools of up to ten, and so much longer for each tenfold: word needs more rounds.
    suspicion_s: float = 1.8
    suspicion_growth_s: float = 0.3
    # Without independent confirmations it lasts this many times longer (Lifeguard: it may be us who are deaf).
    suspicion_max_factor: float = 3.0
    confirmations: int = 2
    # About so many of those who hear of a suspicion probe the member at once: they confirm it, or tell it of it.
    second_looks: int = 4
    # Local health is 0 (well) to this; period and timeout are multiplied by one more than it.
    awareness_max: int = 8
    gossip_s: float = 0.1
    gossip_fanout: int = 3
    # A message is passed on this many times log10 of the pool's size.
    retransmit: int = 4
    # All that is known is exchanged with one other this often; more seldom in pools beyond 32.
    exchange_s: float = 30.0
    # How often a failed member is called again, on average by one agent of the pool.
    reconnect_s: float = 5.0
    # So long the failed are still sent what is new, so that they can contradict.
    gossip_to_failed_s: float = 30.0
    reap_failed_s: float = 72 * 3600.0
    reap_left_s: float = 24 * 3600.0
    reap_pruned_s: float = 600.0
    # An agent that did not run for this long itself drops what it believed to be late.
    pause_s: float = 1.5
    # Not to be told twice within this time that a name is used by two agents.
    conflict_quiet_s: float = 60.0

    def scaled(self, factor: float) -> GossipSettings:
        """The same with all that depends on the network's delay multiplied."""
        return msgspec.structs.replace(
            self,
            period_s=self.period_s * factor,
            ping_timeout_s=self.ping_timeout_s * factor,
            suspicion_s=self.suspicion_s * factor,
            suspicion_growth_s=self.suspicion_growth_s * factor,
            gossip_s=self.gossip_s * factor,
            pause_s=self.pause_s * factor,
        )

    def check(self) -> None:
        """Raises Invalid when the numbers do not fit together."""
        if not 0 < self.ping_timeout_s < self.period_s:
            raise Invalid(
                f"a gossip probe period of {self.period_s} s must be longer than the ping timeout, "
                f"{self.ping_timeout_s} s, and both above 0"
            )
        if min(self.gossip_s, self.suspicion_s, self.exchange_s, self.reconnect_s, self.pause_s) <= 0:
            raise Invalid("every interval of gossip is above 0 seconds")
        if self.suspicion_max_factor < 1 or min(self.gossip_fanout, self.retransmit) < 1:
            raise Invalid("suspicion_max_factor, gossip_fanout and retransmit are at least 1")

    def suspicion_min_s(self, n_members: int) -> float:
        """How long a suspicion lasts at least.

        >>> [round(GossipSettings().suspicion_min_s(n), 2) for n in (3, 10, 100, 500)]
        [1.8, 1.8, 2.1, 2.31]
        """
        return self.suspicion_s + self.suspicion_growth_s * max(0.0, math.log10(max(1, n_members)) - 1)

    def transmit_limit(self, n_members: int) -> int:
        """How many times each agent passes a message on.

        >>> [GossipSettings().transmit_limit(n) for n in (2, 9, 10, 500)]
        [4, 4, 8, 12]
        """
        return self.retransmit * math.ceil(math.log10(n_members + 1))

    def exchange_interval_s(self, n_members: int) -> float:
        """How often one agent exchanges everything: grows with the pool beyond 32, as its cost does.

        >>> [GossipSettings().exchange_interval_s(n) for n in (3, 32, 64, 500)]
        [30.0, 30.0, 60.0, 150.0]
        """
        if n_members <= 32:
            return self.exchange_s
        return self.exchange_s * (math.ceil(math.log2(n_members / 32)) + 1)
