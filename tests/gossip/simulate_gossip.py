"""Figures of simulated pools: how fast a death is seen, and how often the living are taken for dead."""

from __future__ import annotations

import argparse
import statistics
import time

from gossip_sim import Network, Simulation, detection


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-members", type=int, action="append", help="sizes of pools (default 3, 10, 100, 500)")
    parser.add_argument("-loss", type=float, default=0.05, help="share of packets lost (default 0.05)")
    parser.add_argument("-seeds", type=int, default=0, help="deaths per size (default 200, 100, 20, 5)")
    parser.add_argument("-minutes", type=float, default=20.0, help="simulated minutes for false positives (default 20)")
    parser.add_argument("-pool", type=int, default=100, help="members of that pool (default 100)")
    parser.add_argument("-tcp", action="store_true", help="let TCP pings help there; without, packets are all there is")
    options = parser.parse_args()
    print(f"loss {options.loss:.0%}, default settings; seconds from the death to the verdict, of all who see it")
    print("members  deaths   first   median     max")
    for members in options.members or [3, 10, 100, 500]:
        seeds = options.seeds or max(5, min(200, 2000 // members))
        runs = [detection(seed, members, loss=options.loss) for seed in range(seeds)]
        times = [at for run in runs for at in run]
        print(
            f"{members:7}  {seeds:6}  {min(times):6.2f}  {statistics.median(times):7.2f}  {max(times):6.2f}",
            flush=True,
        )
    false_positives(options.pool, options.minutes, options.loss, tcp=options.tcp)


def false_positives(members: int, minutes: float, loss: float, *, tcp: bool) -> None:
    """Prints how often the living were suspected and declared failed."""
    started = time.monotonic()
    simulation = Simulation(1, network=Network(loss=loss, tcp=tcp))
    simulation.grow(members)
    simulation.run(minutes * 60)
    node_days = members * minutes / 1440
    refutations = sum(agent.swim.counters.refutations for agent in simulation.agents.values())
    print(
        f"{members} living members, {minutes:g} minutes ({node_days:.2f} node-days), {'with' if tcp else 'no'} TCP: "
        f"{refutations / node_days:.0f} refutations and {simulation.false_positives() / node_days:.2f} false positives "
        f"per node-day; {simulation.packets / members / minutes / 60:.1f} packets a second and member; "
        f"simulated {minutes * 60 / (time.monotonic() - started):.0f} times faster than life"
    )


if __name__ == "__main__":
    main()
