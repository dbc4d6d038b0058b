"""Which nodes are lost: a machine that asks two witnesses, and itself.

The first witness is gossip: it says within seconds that a client is gone, and is sometimes wrong. The second is the
lease: the leader hears of a node by heartbeats and by everything else that it asks for. The third question is whether
not we are cut off or were stopped.

| gossip says | and | verdict |
| --- | --- | --- |
| failed | not heard since it was suspected, or its connection broke since it was heard | lost, ``SETTLE_NS`` later |
| failed | heard since | as without gossip: what gossip cannot reach may well be alive |
| anything | the lease and its grace ran out (Nomad's rule), and others were heard in that grace or later | lost |

and for all of them:

- **Many at once are probably us.** Where more than a third of the nodes fall silent (at least three; of three nodes
  two), or all of them, be it a single one, nobody is lost until the others are back, or for ``mass_grace_ns`` (60 s): a
  network that fails for half a minute restarts nothing. One of two or three nodes is a machine that died, and replaced
  at once. (If a rack with more than a third of the machines dies, its work moves a minute later than it could; the
  opposite mistake would kill what runs on healthy machines. The work of a single node could go nowhere else.)
- **Before a verdict others are probed out of turn**, and gossip is believed only once some of them answered: where
  nobody else does, it shows soon that they are silent too. When they answer again, the silent one gets time to.
- **A stop of our own is nobody's silence.** When this server did not run for more than a second (SIGSTOP, a frozen VM),
  leases move by that time, and what gossip said before counts anew after it.
- **A new leader** gives long leases (``failover_heartbeat_ttl``), but believes gossip after ``OBSERVE_NS`` of its own.
  Nodes that gossip has missed for more than ``DOUBT_NS`` by then and that are not down were heard by the leader before:
  gossip cannot reach them, and only their lease counts.

Time is the monotonic clock in nanoseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from nomadpy.gossip.contract import FAILED, SUSPECT
from nomadpy.model.time import MILLISECOND, SECOND
from nomadpy.server.config import ServerConfig
from nomadpy.server.heartbeat import Heartbeats

SETTLE_NS = 700 * MILLISECOND
OBSERVE_NS = 3 * SECOND
PAUSE_NS = 1 * SECOND
DOUBT_NS = 60 * SECOND
# After a stop gossip is believed after as long a time, within these limits.
_HOLD_NS_MAX = 30 * SECOND
_PROBES = 8
# How long it is waited for the answers of others, each time.
_ANSWER_NS = 100 * MILLISECOND
# How much later than others a node may be heard again after a network healed: gossip calls the failed every 5 s.
_RETURN_NS = 7 * SECOND
_TICK_NS = 1 * SECOND

Answered = Callable[[str], float | None]
"""How many seconds ago a node last answered gossip, infinity when it never did; None where gossip does not ask it."""


def _not_asked(node_id: str) -> None:
    """Of a server without gossip."""


class Lost(msgspec.Struct, frozen=True):
    """A node that is lost, and why, for people."""

    node_id: str
    reason: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What one look came to: who is lost; which nodes gossip should probe at once; how many are silent and held back;
    when to look again at the latest."""

    lost: tuple[Lost, ...] = ()
    probe: tuple[str, ...] = ()
    held: int = 0
    wake_ns: int = 0


class _Rumour(msgspec.Struct):
    """What gossip said of a node, as this machine saw it."""

    suspected_ns: int
    failed_ns: int | None = None
    # The node was heard of while gossip said so.
    doubted: bool = False
    # Nobody else answered when the verdict was due; and when they did, the node has until then to return, too.
    put_off: bool = False
    not_before_ns: int = 0


class LostNodes:
    """The judgement of one leader during one term. ``long_failed`` are the nodes that gossip has missed for more than
    ``DOUBT_NS``."""

    def __init__(
        self, config: ServerConfig, heartbeats: Heartbeats, now_ns: int, *, long_failed: Iterable[str] = ()
    ) -> None:
        self._config, self._heartbeats = config, heartbeats
        self._rumours = {node_id: _Rumour(now_ns, now_ns, doubted=True) for node_id in long_failed}
        # Lost by an earlier verdict whose carrying out is under way.
        self._judged: set[str] = set()
        # Nodes whose lease ran out, and when.
        self._expired: dict[str, int] = {}
        self._believe_from_ns = now_ns + OBSERVE_NS
        self._planned_ns = now_ns
        self._mass_since_ns: int | None = None
        # The most nodes there were since the silence of many began; judging some must not make it a silence of few.
        self._mass_of = 0

    def look(
        self, now_ns: int, nodes: frozenset[str], gossip: Mapping[str, str], answered: Answered = _not_asked
    ) -> Verdict:
        """Judges. ``nodes`` are those expected to be alive (neither down nor disconnected); ``gossip`` gives the status
        of those that it does not call alive, by node id."""
        self._notice_pause(now_ns)
        self._judged = {n for n in self._judged if n in nodes and not self._heartbeats.has_lease(n)}
        nodes -= self._judged
        self._take_in(now_ns, nodes, gossip)
        # By gossip or by their beats: nodes that may follow those that are silent already.
        uneasy = self._uneasy(now_ns, nodes) if self._expired or self._rumours else set()
        held = self._holds_back(now_ns, len(nodes), len(uneasy))
        silent = self._silent(now_ns, nodes)
        self._wait_for_witnesses(now_ns, silent, nodes - uneasy, answered)
        due = {} if held else {name: reason for name, (at_ns, reason) in silent.items() if at_ns <= now_ns}
        for node_id in due:
            self._forget(node_id)
        wake_ns = min([now_ns + _TICK_NS, *(at_ns for at_ns, _ in silent.values() if at_ns > now_ns)])
        if (deadline_ns := self._heartbeats.next_deadline()) is not None:
            wake_ns = min(wake_ns, max(deadline_ns, now_ns))
        self._planned_ns = wake_ns
        return Verdict(
            lost=tuple(Lost(node_id, reason) for node_id, reason in sorted(due.items())),
            probe=self._probes(now_ns, nodes, uneasy, silent),
            held=len(silent) if held else 0,
            wake_ns=wake_ns,
        )

    # --- what is known ---------------------------------------------------------------------------------------------

    def _notice_pause(self, now_ns: int) -> None:
        gap_ns = now_ns - self._planned_ns
        if gap_ns > PAUSE_NS:
            self._heartbeats.extend(gap_ns)
            hold_ns = max(OBSERVE_NS, min(gap_ns, _HOLD_NS_MAX))
            self._believe_from_ns = max(self._believe_from_ns, now_ns + hold_ns)
            self._rumours = {n: r for n, r in self._rumours.items() if not self._believed(n, r)}
            self._expired = {node_id: at_ns + gap_ns for node_id, at_ns in self._expired.items()}
            if self._mass_since_ns is not None:
                self._mass_since_ns += gap_ns

    def _take_in(self, now_ns: int, nodes: frozenset[str], gossip: Mapping[str, str]) -> None:
        for node_id in self._heartbeats.expired(now_ns):
            self._expired[node_id] = now_ns
        for node_id, at_ns in list(self._expired.items()):
            # Heard in its grace, though not by a beat, it is not silent: the beat itself may be tried again later.
            returned = self._heartbeats.heard_since(node_id, at_ns + 1 - self._config.heartbeat_grace_ns)
            if returned and not self._heartbeats.has_lease(node_id):
                self._heartbeats.tolerate(node_id, now_ns)
            if returned or node_id not in nodes or self._heartbeats.has_lease(node_id):
                del self._expired[node_id]
        for node_id in [n for n in self._rumours if gossip.get(n) not in (SUSPECT, FAILED)]:
            del self._rumours[node_id]
        for node_id, status in gossip.items():
            # Also of nodes that are down: one that returns while gossip cannot reach it must not be lost again.
            if status in (SUSPECT, FAILED):
                rumour = self._rumours.setdefault(node_id, _Rumour(now_ns))
                rumour.doubted |= self._heartbeats.heard_since(node_id, rumour.suspected_ns)
                if status == FAILED and rumour.failed_ns is None:
                    rumour.failed_ns = now_ns
                elif status == SUSPECT:
                    rumour.failed_ns = None

    def _believed(self, node_id: str, rumour: _Rumour) -> bool:
        """Whether nothing contradicts what gossip says."""
        return not rumour.doubted or self._heartbeats.is_cut_off(node_id)

    def _silent(self, now_ns: int, nodes: frozenset[str]) -> dict[str, tuple[int, str]]:
        """Nodes that seem lost: from when on they may be judged, and why."""
        silent = {}
        for node_id, at_ns in self._expired.items():
            # Nobody heard at all says more about us; either somebody is heard soon, or all turn out to be silent.
            hearing = self._heartbeats.last_heard_ns >= at_ns - self._config.heartbeat_grace_ns
            proven = hearing or self._mass_since_ns is not None
            silent[node_id] = (now_ns if proven else now_ns + _TICK_NS, "its heartbeats stopped")
        for node_id, rumour in self._rumours.items():
            if node_id not in nodes or node_id in silent:
                continue
            if rumour.failed_ns is not None and self._believed(node_id, rumour):
                at_ns = max(rumour.failed_ns + SETTLE_NS, self._believe_from_ns, rumour.not_before_ns)
                silent[node_id] = (at_ns, "gossip cannot reach it, and nothing was heard of it since")
        return silent

    def _wait_for_witnesses(
        self, now_ns: int, silent: dict[str, tuple[int, str]], others: frozenset[str], answered: Answered
    ) -> None:
        """Puts off what gossip alone says until enough others gave a sign of life since it said so."""
        for node_id, (at_ns, reason) in silent.items():
            rumour = self._rumours.get(node_id)
            if at_ns > now_ns or node_id in self._expired or rumour is None or rumour.failed_ns is None:
                continue
            ages_s = {other: age_s for other in others if (age_s := answered(other)) is not None}
            limit_s, since_ns = (now_ns - rumour.failed_ns) / SECOND, rumour.failed_ns
            n_heard = sum(
                age_s <= limit_s or self._heartbeats.heard_since(other, since_ns) for other, age_s in ages_s.items()
            )
            if n_heard < (min(len(ages_s), _PROBES) + 1) // 2:
                rumour.put_off = True
                silent[node_id] = (now_ns + _ANSWER_NS, reason)
            elif rumour.put_off:
                rumour.put_off, rumour.not_before_ns = False, now_ns + _RETURN_NS
                silent[node_id] = (rumour.not_before_ns, reason)

    def _uneasy(self, now_ns: int, nodes: frozenset[str]) -> set[str]:
        uneasy = {n for n, rumour in self._rumours.items() if n in nodes and self._believed(n, rumour)}
        uneasy.update(self._expired)
        if self._expired:
            uneasy.update(node_id for node_id in self._heartbeats.overdue(now_ns) if node_id in nodes)
        return uneasy

    # --- whether it is us ------------------------------------------------------------------------------------------

    def _holds_back(self, now_ns: int, n_nodes: int, n_uneasy: int) -> bool:
        if n_uneasy == 0:
            self._mass_since_ns, self._mass_of = None, 0
            return False
        n_nodes = max(n_nodes, self._mass_of)
        share = 3 if n_uneasy >= 3 else 2
        many = n_uneasy >= n_nodes or (n_uneasy >= 2 and share * n_uneasy > n_nodes)
        if self._mass_since_ns is None and many:
            self._mass_since_ns = now_ns
        if self._mass_since_ns is None:
            return False
        if now_ns - self._mass_since_ns >= self._config.mass_grace_ns:
            # They do not come back. Judging the first must not begin another wait for the next, at least for a while.
            if now_ns - self._mass_since_ns >= 2 * self._config.mass_grace_ns:
                self._mass_since_ns, self._mass_of = None, 0
            return False
        if not many:
            self._mass_since_ns, self._mass_of = None, 0
            # The first are back. Clients that could not beat try again after a while; each gets time for that.
            for node_id in self._expired:
                self._heartbeats.tolerate(node_id, now_ns)
            self._expired.clear()
            return False
        self._mass_of = n_nodes
        return True

    def _probes(
        self, now_ns: int, nodes: frozenset[str], uneasy: set[str], silent: Mapping[str, tuple[int, str]]
    ) -> tuple[str, ...]:
        """Some others, while somebody waits for a verdict: evenly chosen, others each time."""
        if not any(at_ns > now_ns for at_ns, _ in silent.values()):
            return ()
        others = sorted(nodes - uneasy)
        step = max(1, len(others) // _PROBES)
        return tuple(others[(now_ns // MILLISECOND) % step :: step][:_PROBES])

    def _forget(self, node_id: str) -> None:
        self._expired.pop(node_id, None)
        self._judged.add(node_id)
        self._heartbeats.forget(node_id)
