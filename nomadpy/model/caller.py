"""Who asks, and what they may do.

Every handler takes a caller, so that access control can be switched on in one place. Today's only policy lets everybody
do everything, as Nomad does while ACLs are off.
"""

from __future__ import annotations

from nomadpy.model.errors import Forbidden
from nomadpy.model.naming import Noun


class Caller(Noun):
    """``management`` means all rights in all namespaces; otherwise ``capabilities`` lists them per namespace."""

    accessor_id: str = ""
    management: bool = True
    capabilities: dict[str, tuple[str, ...]] = {}

    def allows(self, namespace: str, *any_of: str) -> bool:
        """Whether the caller has one of the capabilities in the namespace."""
        return self.management or any(name in self.capabilities.get(namespace, ()) for name in any_of)

    def require(self, namespace: str, *any_of: str) -> None:
        """Raises Forbidden unless ``allows``."""
        if not self.allows(namespace, *any_of):
            raise Forbidden("Permission denied")


ANYONE = Caller()
