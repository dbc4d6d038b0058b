"""Files that describe a namespace or a node pool: HCL with Nomad's keys, JSON of the API, or YAML of either."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nomadpy.cli.failures import CommandFailed

Keys = Mapping[str, "str | tuple[str, Keys]"]
"""HCL name → the API's name, or for a block the API's name and the names inside; ``*`` keeps names as they are."""

NAMESPACE: Keys = {
    "name": "Name",
    "description": "Description",
    "quota": "Quota",
    "meta": ("Meta", {"*": "*"}),
    "capabilities": (
        "Capabilities",
        {
            "enabled_task_drivers": "EnabledTaskDrivers",
            "disabled_task_drivers": "DisabledTaskDrivers",
            "enabled_network_modes": "EnabledNetworkModes",
            "disabled_network_modes": "DisabledNetworkModes",
        },
    ),
    "node_pool_config": (
        "NodePoolConfiguration",
        {"default": "Default", "allowed": "Allowed", "denied": "Denied"},
    ),
}
NODE_POOL: Keys = {
    "description": "Description",
    "node_identity_ttl": "NodeIdentityTTL",
    "meta": ("Meta", {"*": "*"}),
    "scheduler_config": (
        "SchedulerConfiguration",
        {
            "scheduler_algorithm": "SchedulerAlgorithm",
            "memory_oversubscription_enabled": "MemoryOversubscriptionEnabled",
        },
    ),
}


def read(path: str, *, as_json: bool, label: str, keys: Keys) -> dict[str, Any]:
    """What a file describes, with the API's names. HCL may stand in a block ``label "name" { … }``, which gives the
    name. ``-`` reads stdin. Raises CommandFailed, or the HCL parser's list of problems."""
    text = sys.stdin.read() if path == "-" else Path(path).read_text()
    if as_json or path.endswith(".json"):
        try:
            found = json.loads(text)
        except ValueError as problem:
            raise CommandFailed(f"{path} is not JSON: {problem}") from problem
        return _object(path, found)
    tree = _yaml(path, text) if path.endswith((".yaml", ".yml")) else _hcl(path, text)
    if set(tree) == {label} and isinstance(tree[label], dict) and len(tree[label]) == 1:
        [(name, inner)] = tree[label].items()
        return {**_named(_object(path, inner), keys, path, ""), "Name": name}
    return _named(tree, {**keys, "name": "Name"}, path, "")


def _hcl(path: str, text: str) -> dict[str, Any]:
    from nomadpy.jobspec import hcl

    return _tree(hcl.parse(text, path), hcl.constant_scope())


def _tree(body: Any, scope: Any) -> dict[str, Any]:
    from nomadpy.jobspec import hcl

    out = {name: hcl.to_python(hcl.evaluate(one.expression, scope)) for name, one in body.attributes.items()}
    for block in body.blocks:
        inner: dict[str, Any] = _tree(block.body, scope)
        for name in reversed(block.labels):
            inner = {name: inner}
        out[block.type] = {**out.get(block.type, {}), **inner}
    return out


def _yaml(path: str, text: str) -> dict[str, Any]:
    import yaml

    try:
        return _object(path, yaml.safe_load(text))
    except (yaml.YAMLError, RecursionError) as problem:
        raise CommandFailed(f"{path} is not YAML: {problem}") from problem


def _object(path: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CommandFailed(f"{path} must hold an object of names and values")
    return value


def _named(tree: dict[str, Any], keys: Keys, path: str, where: str) -> dict[str, Any]:
    """The tree with the API's names. Raises CommandFailed for a key that does not exist."""
    if "*" in keys:
        return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in tree.items()}
    out: dict[str, Any] = {}
    for name, value in tree.items():
        known = keys.get(name)
        if known is None:
            raise CommandFailed(f'{path}: there is no key "{where}{name}"; there are {", ".join(sorted(keys))}')
        if isinstance(known, str):
            out[known] = value
        else:
            out[known[0]] = _named(_object(f"{path}: {where}{name}", value), known[1], path, f"{where}{name}.")
    return out
