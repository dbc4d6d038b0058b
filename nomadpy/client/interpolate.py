"""``${…}`` in texts that a client fills in: node facts and the task's environment.

Two engines, as in Nomad. The simple one serves most fields: names only, unknown ones stay as they are written. The
driver's ``config`` block goes through ``driver_config.py``, where an unknown name is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from nomadpy.model.node import Node

_SIMPLE = re.compile(r"\$\{([A-Za-z0-9_.-]+)\}")


def node_values(node: Node, region: str) -> dict[str, str]:
    """Every ``${node.…}``, ``${attr.…}`` and ``${meta.…}`` name of a node with its value."""
    values = {
        "node.unique.id": node.id,
        "node.unique.name": node.name,
        "node.datacenter": node.datacenter,
        "node.region": region,
        "node.class": node.node_class,
        "node.pool": node.node_pool,
    }
    values.update((f"attr.{name}", value) for name, value in node.attributes.items())
    values.update((f"meta.{name}", value) for name, value in node.meta.items())
    return values


class Interpolator:
    """Looks names up: the task's environment first (``NAME`` or ``env.NAME``), then the node's values, then secrets."""

    def __init__(
        self, env: Mapping[str, str], node: Mapping[str, str], secrets: Mapping[str, str] | None = None
    ) -> None:
        self.env = env
        self.node = node
        self.secrets = secrets or {}

    def lookup(self, name: str) -> str | None:
        """The value of a name, None when there is none."""
        if name in self.env:
            return self.env[name]
        if name.startswith("env.") and name[4:] in self.env:
            return self.env[name[4:]]
        if name in self.node:
            return self.node[name]
        return self.secrets.get(name.removeprefix("secret.")) if name.startswith("secret.") else None

    def text(self, template: str) -> str:
        """``template`` with every known name replaced; unknown ones are left untouched."""

        def replace(match: re.Match[str]) -> str:
            value = self.lookup(match[1])
            return match[0] if value is None else value

        return _SIMPLE.sub(replace, template) if "${" in template else template

    def texts(self, templates: Mapping[str, str]) -> dict[str, str]:
        """A map with both its keys and its values filled in."""
        return {self.text(key): self.text(value) for key, value in templates.items()}
