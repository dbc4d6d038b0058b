"""What the Docker Engine says of itself, as node attributes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nomadpy.drivers.contract import Fingerprint
from nomadpy.drivers.docker.options import PluginOptions


def fingerprint(
    version: Mapping[str, Any], info: Mapping[str, Any], bridge: Mapping[str, Any], options: PluginOptions
) -> Fingerprint:
    """The fingerprint of an engine that answers; ``bridge`` is its inspected default network, {} when it has none."""
    attributes = {
        "driver.docker": "1",
        "driver.docker.version": str(version.get("Version", "")),
        "driver.docker.os_type": str(info.get("OSType", "")),
        "driver.docker.runtimes": ",".join(sorted(info.get("Runtimes") or {})),
    }
    gateways = [entry.get("Gateway") for entry in bridge.get("IPAM", {}).get("Config") or ()]
    if ips := [ip for ip in gateways if ip]:
        attributes["driver.docker.bridge_ip"] = ips[0]
    if options.allow_privileged:
        attributes["driver.docker.privileged.enabled"] = "true"
    if options.volumes_enabled:
        attributes["driver.docker.volumes.enabled"] = "true"
    if options.pids_limit > 0:
        attributes["driver.docker.pids.limit"] = str(options.pids_limit)
    return Fingerprint(detected=True, healthy=True, health_description="Healthy", attributes=attributes)
