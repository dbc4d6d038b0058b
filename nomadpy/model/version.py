"""Which Nomad this program answers to, for constraints such as ``${attr.nomad.version} >= 1.8.0``."""

from __future__ import annotations

# Job files in the wild constrain nodes by Nomad's version; this is the one whose job specification and API are spoken.
NOMAD_COMPATIBILITY_VERSION = "2.0.0"
