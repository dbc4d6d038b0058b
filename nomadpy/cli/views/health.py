"""How machines are doing, as gossip tells: shares of CPU, memory and disk, pressure on IO, drivers that fail."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from nomadpy.cli.views.base import Details, bar, plain

_FIGURES = (("CPU", "cpu"), ("Memory", "mem"), ("Disk", "disk"), ("IOPressure", "io"))
_HIGH, _FULL = 0.7, 0.9
# Nomad and people call a machine healthy that waits for IO now and then.
_PRESSURE_HIGH, _PRESSURE_FULL = 0.2, 0.5


def _style(name: str, share: float) -> str:
    high, full = (_PRESSURE_HIGH, _PRESSURE_FULL) if name == "IOPressure" else (_HIGH, _FULL)
    return "green" if share < high else "yellow" if share < full else "red"


def brief(health: dict[str, Any] | None) -> Text:
    """One short cell: what is not well by name, else the fullest figure; a dash when nothing is known."""
    if health is None:
        return Text("-")
    gossip = health.get("Gossip", "alive")
    if gossip != "alive":
        return Text(gossip, style="yellow" if gossip == "suspect" else "red")
    drivers = health.get("UnhealthyDrivers") or []
    if drivers:
        return Text(f"no {','.join(drivers)}", style="red")
    known = [(name, label, health[name]) for name, label in _FIGURES if health.get(name) is not None]
    if not known:
        return Text("alive", style="green")
    busy = [one for one in known if _style(one[0], one[2]) != "green"]
    if not busy:
        return Text("well", style="green")
    name, label, share = max(busy, key=lambda one: one[2])
    return Text(f"{label} {share:.0%}", style=_style(name, share))


def details(health: dict[str, Any] | None) -> Details:
    """Every figure with a bar."""
    if health is None:
        return Details([("Gossip", "nothing was heard of this machine")])
    pairs: list[tuple[str, str | Text]] = []
    if health.get("Gossip"):
        word = str(health["Gossip"])
        pairs.append(("Gossip", Text(word, style="green" if word == "alive" else "red")))
    for name, label in (("CPU", "CPU"), ("Memory", "Memory"), ("Disk", "Disk"), ("IOPressure", "IO Pressure")):
        share = health.get(name)
        if share is None:
            pairs.append((label, "not measured"))
        else:
            pairs.append((label, Text.assemble(bar(share, 1, 10), (f" {share:>4.0%}", _style(name, share)))))
    drivers = health.get("UnhealthyDrivers") or []
    pairs.append(("Unhealthy Drivers", Text(plain(drivers), style="red" if drivers else "")))
    return Details(pairs)
