"""The simulation stands on parts of other tests: the pretend disk, and the independent look at the state."""

from __future__ import annotations

import sys
from pathlib import Path

_TESTS = Path(__file__).parents[1]
for _part in ("raft/engine", "state"):
    if str(_TESTS / _part) not in sys.path:
        sys.path.append(str(_TESTS / _part))
