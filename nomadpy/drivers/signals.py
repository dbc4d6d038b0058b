"""Signals by the names that job files and operators use: ``SIGHUP``, ``HUP``, ``hup`` or ``1``.

>>> number("hup"), number("SIGTERM"), number("9")
(1, 15, 9)
"""

from __future__ import annotations

import signal

from nomadpy.model.errors import Invalid


def number(name: str) -> int:
    """The number of a signal. Raises Invalid ("invalid signal: X") when there is none of that name or number."""
    text = name.strip().upper()
    if text.isascii() and text.isdecimal():
        value = int(text)
        if value in set(signal.Signals) or signal.SIGRTMIN <= value <= signal.SIGRTMAX:
            return value
        raise Invalid(f"invalid signal: {name}")
    full = text if text.startswith("SIG") else f"SIG{text}"
    try:
        return signal.Signals[full].value
    except KeyError:
        raise Invalid(f"invalid signal: {name}") from None
