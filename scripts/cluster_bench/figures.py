"""What a benchmark found."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure in its unit, and what it should be at least or at most."""

    what: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    def as_dict(self, bench: str) -> dict[str, Any]:
        """For machines."""
        return {"bench": bench, **dataclasses.asdict(self), "met": self.met}

    @property
    def met(self) -> bool | None:
        """Whether the target was met, None where there is none."""
        if self.at_least is None and self.at_most is None:
            return None
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    def as_line(self, bench: str) -> str:
        """For people."""
        target = ""
        if self.met is not None:
            limit = f">= {self.at_least:,g}" if self.at_least is not None else f"<= {self.at_most:,g}"
            target = f"({limit}: {'yes' if self.met else 'NO'})"
        value = f"{self.value:,.0f}" if self.value >= 1000 else f"{self.value:,.2f}"
        return f"{bench:9} {self.what:52} {value:>10} {self.unit:6} {target:18} {self.note}".rstrip()
