"""Which nodes are interchangeable for the scheduler: equal facts give an equal class.

Everything under a ``unique.`` name differs by design and is left out, so that a feasibility answer for one node of a
class holds for all of them.
"""

from __future__ import annotations

import hashlib
import json

from nomadpy.model.node import Node


def is_unique(name: str) -> bool:
    """Whether an attribute or meta key tells one machine from another.

    >>> is_unique("unique.hostname"), is_unique("driver.docker"), is_unique("platform.unique.x")
    (True, False, False)
    """
    return name.startswith("unique.")


def computed_class(node: Node) -> str:
    """``v1:`` and a hash over datacenter, class, pool, attributes, meta, devices and volumes of the node.

    The hash does not depend on dictionary order nor on the process, so it survives restarts.
    """
    facts = {
        "datacenter": node.datacenter,
        "class": node.node_class,
        "pool": node.node_pool,
        "attributes": {k: v for k, v in node.attributes.items() if not is_unique(k)},
        "meta": {k: v for k, v in node.meta.items() if not is_unique(k)},
        "devices": sorted(
            (device.vendor, device.type, device.name, sorted((k, repr(v)) for k, v in device.attributes.items()))
            for device in node.node_resources.devices
        ),
        "volumes": sorted((name, volume.read_only) for name, volume in node.host_volumes.items()),
        "networks": sorted({network.mode for network in node.node_resources.node_networks}),
    }
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), default=list)
    return "v1:" + hashlib.blake2b(text.encode(), digest_size=10).hexdigest()
