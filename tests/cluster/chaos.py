"""Random faults on a real cluster for a while, judged after each: ``scripts/chaos`` and a short test.

The faults follow from the seed. Between faults the cluster heals, and then everything that clients were told has to be
explained by one copy of the registers, and tasks that no fault touched have to run undisturbed.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median

from call_history import DONE, SWAP, WRITE, indexes_are_one_order
from cluster_agents import Cluster, Machine, tidy_when_told_to_stop
from cut_network import CutNetwork, missing
from register_writers import Writers, check

JOB = "chaos-tasks"
N_TASKS = 4


class Chaos:
    """The faults, drawn from one source of chance."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.cluster, self.rng = cluster, random.Random(seed)
        self.network = cluster.net if isinstance(cluster.net, CutNetwork) else None
        self.faults: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.pauses_s: list[float] = []
        self.seconds = 0.0
        self.kinds: list[tuple[Callable[[], None], bool]] = [
            (self.kill_leader, False),
            (self.kill_some, False),
            (self.kill_all, False),
            (self.stop_one, False),
            (self.restart_one, False),
            (self.kill_node, True),
            (self.restart_node, False),
        ]
        if self.network is not None:
            self.kinds += [(self.isolate, False), (self.one_way, False), (self.cut_link, False), (self.blip, False)]

    # --- faults ----------------------------------------------------------------------------------------------------

    def _server(self) -> Machine:
        return self.rng.choice(self.cluster.servers)

    def _wait(self, least_s: float, most_s: float) -> None:
        time.sleep(self.rng.uniform(least_s, most_s))  # how long the fault lasts

    def _kill(self, machines: list[Machine], least_s: float, most_s: float) -> None:
        for machine in machines:
            machine.send(signal.SIGKILL)
        for machine in machines:
            machine.kill()
        self._wait(least_s, most_s)
        for machine in machines:
            machine.start()

    def kill_leader(self) -> None:
        """The leader's agent."""
        self._kill([self.cluster.wait_leader()], 0.0, 3.0)

    def kill_some(self) -> None:
        """One or two servers."""
        self._kill(self.rng.sample(self.cluster.servers, self.rng.randint(1, 2)), 0.0, 3.0)

    def kill_all(self) -> None:
        """All servers at once."""
        self._kill(self.cluster.servers, 0.0, 1.0)

    def stop_one(self) -> None:
        """SIGSTOP and SIGCONT."""
        server = self._server()
        server.send(signal.SIGSTOP)
        self._wait(0.2, 5.0)
        server.send(signal.SIGCONT)

    def restart_one(self) -> None:
        """An orderly restart."""
        server = self._server()
        server.end(signal.SIGTERM)
        server.start()

    def kill_node(self) -> None:
        """A client's machine, with its tasks."""
        node = self.rng.choice(self.cluster.clients)
        node.die()
        self._wait(0.0, 6.0)
        node.start()

    def restart_node(self) -> None:
        """An orderly restart of a client's agent."""
        node = self.rng.choice(self.cluster.clients)
        node.end(signal.SIGTERM)
        self._wait(0.0, 3.0)
        node.start()

    def isolate(self) -> None:
        """One server is cut off from the others."""
        server = self._server()
        self._cut(lambda net: net.part([server.number], [other.number for other in self.cluster.others(server)]))

    def one_way(self) -> None:
        """One server hears nobody, or nobody hears it."""
        server, deaf = self._server(), self.rng.random() < 0.5
        numbers = [other.number for other in self.cluster.others(server)]

        def cut(net: CutNetwork) -> None:
            for number in numbers:
                net.deafen(*((server.number, number) if deaf else (number, server.number)))

        self._cut(cut)

    def cut_link(self) -> None:
        """Two servers do not hear each other."""
        one, other = self.rng.sample(self.cluster.servers, 2)
        self._cut(lambda net: net.cut(one.number, other.number))

    def blip(self) -> None:
        """No client hears any server."""
        servers, clients = ([m.number for m in side] for side in (self.cluster.servers, self.cluster.clients))
        self._cut(lambda net: net.part(servers, clients))

    def _cut(self, cut: Callable[[CutNetwork], None]) -> None:
        assert self.network is not None
        cut(self.network)
        self._wait(0.5, 6.0)
        self.network.heal()

    # --- rounds ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Tasks to be watched."""
        self.cluster.submit(self.cluster.witness_job(JOB, N_TASKS))
        self.cluster.wait_running(JOB, N_TASKS)

    def round(self, number: int) -> str:
        """One or two faults under load, healing, judgement. Returns a line; raises AssertionError."""
        before, began = picture_of_running(self.cluster), time.monotonic()
        chosen = self.rng.choices(self.kinds, k=self.rng.randint(1, 2))
        seed = self.rng.randrange(1 << 30)
        with Writers(
            self.cluster, 12, keys=6, name=f"chaos{number}", seed=seed, reads=0.3, swaps=0.3, timeout_s=4.0
        ) as writers:
            writers.wait_more(20)
            for fault, _ in chosen:
                fault()
                self.faults[fault.__name__] += 1
            writers.wait_more(20)
        history = writers.history
        self.cluster.wait_whole()
        assert indexes_are_one_order(history.ops), "two writes were acknowledged out of order"
        check(self.cluster, history)
        self.cluster.wait_running(JOB, N_TASKS)
        if not any(moves for _, moves in chosen):
            assert picture_of_running(self.cluster) == before, "a task was touched"
        took_s = time.monotonic() - began
        self.seconds += took_s
        self.outcomes.update(op.outcome for op in history.ops)
        ends = sorted(op.ended for op in history.of(DONE, WRITE, SWAP))
        pause_s = max(after - one for one, after in itertools.pairwise(ends))
        self.pauses_s.append(pause_s)
        names = "+".join(fault.__name__ for fault, _ in chosen)
        return f"{number:4} {names:28} {took_s:5.1f} s, {len(history.ops):5} calls, longest pause {pause_s:.2f} s"

    def figures(self) -> str:
        """What all rounds came to."""
        calls, done = sum(self.outcomes.values()), self.outcomes[DONE]
        faults = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        return (
            f"{len(self.pauses_s)} rounds in {self.seconds:.0f} s: {faults}\n"
            f"{calls} calls: {dict(self.outcomes)}, {done / max(1.0, self.seconds):.0f} acknowledged a second\n"
            f"longest pause between acknowledged writes: median {median(self.pauses_s):.2f} s, "
            f"worst {max(self.pauses_s):.2f} s"
        )


def picture_of_running(cluster: Cluster) -> list[tuple[str, str, int]]:
    """The tasks that run: (allocation, node, restarts)."""
    return sorted(
        (stub["ID"], stub["NodeID"], stub["TaskStates"]["main"]["Restarts"])
        for stub in cluster.wait_running(JOB, N_TASKS)
    )


def main() -> int:
    """The script: rounds until the time is over. The exit code is 1 when a round failed."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("-minutes", type=float, default=5.0)
    parser.add_argument("-seed", type=int, default=random.randrange(1 << 20))

    options = parser.parse_args()
    tidy_when_told_to_stop()
    reason = missing()
    directory = Path(tempfile.mkdtemp(prefix="nomadpy-chaos-"))
    print(f"seed {options.seed}; {reason or 'with a network that is cut'}; logs in {directory}", flush=True)
    net = None if reason else CutNetwork(5)
    cluster = Cluster(directory, net, clients=2)
    chaos, number = Chaos(cluster, options.seed), 0
    try:
        cluster.start()
        chaos.begin()
        while chaos.seconds < options.minutes * 60:
            number += 1
            print(chaos.round(number), flush=True)
    except AssertionError as error:
        print(f"FAILED in round {number} of seed {options.seed}: {error}\n{cluster.tail(15)}", file=sys.stderr)
        return 1
    finally:
        cluster.close()
    print(chaos.figures())
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
