"""Commands that operators give: scheduling switches, namespaces, node pools."""

from __future__ import annotations

import re

from nomadpy.model.errors import Conflict, Invalid, NotFound
from nomadpy.state import commands as c
from nomadpy.state.ids import RowIds
from nomadpy.state.store import StateStore

_NAMESPACE_NAME = re.compile(r"^[a-zA-Z0-9-]{1,128}$")
POOL_NAME = re.compile(r"^[a-zA-Z0-9-_]{1,128}$")
_ID_KEY = re.compile(r"^[0-9a-f]{32}$")
_BUILT_IN_POOLS = ("all", "default")
_DESCRIPTION_MAX = 256


def init_cluster(store: StateStore, index: int, command: c.InitCluster) -> None:
    """Gives a new cluster its identity."""
    if store.cluster_id:
        raise Conflict("the cluster was initialised before")
    if store.allocs.size:
        raise Conflict("allocations exist already, and their ids follow from the key of the cluster")
    if not _ID_KEY.fullmatch(command.id_key):
        raise Invalid(f'invalid id key "{command.id_key}": it must be 32 hex digits')
    store.cluster_id = command.cluster_id
    store.allocs.ids = RowIds(int(command.id_key, 16))
    store.set_scheduler_config(command.scheduler_config.replace(create_index=index, modify_index=index))
    for name, namespace in store.namespaces.items():
        store.namespaces[name] = namespace.replace(create_index=index, modify_index=index)
    for name, pool in store.node_pools.items():
        store.node_pools[name] = pool.replace(create_index=index, modify_index=index)
    store.touch("scheduler_config", "namespaces", "node_pools")


def set_scheduler_config(store: StateStore, index: int, command: c.SetSchedulerConfig) -> bool:
    """Replaces the scheduling switches; False when the compare-and-set lost."""
    old = store.scheduler_config
    if command.cas_index is not None and command.cas_index != old.modify_index:
        return False
    created = old.create_index or index
    store.set_scheduler_config(command.config.replace(create_index=created, modify_index=index))
    store.touch("scheduler_config")
    return True


def set_autopilot_config(store: StateStore, index: int, command: c.SetAutopilotConfig) -> bool:
    """Replaces how the leader looks after the servers; False when the compare-and-set lost."""
    old = store.autopilot_config
    if command.cas_index is not None and command.cas_index != old.modify_index:
        return False
    if problems := command.config.problems():
        raise Invalid("; ".join(problems))
    store.autopilot_config = command.config.replace(create_index=old.create_index or index, modify_index=index)
    store.touch("autopilot_config")
    return True


def upsert_namespace(store: StateStore, index: int, command: c.UpsertNamespace) -> None:
    """Creates or changes a namespace."""
    namespace = command.namespace
    if not _NAMESPACE_NAME.fullmatch(namespace.name):
        text = f'invalid name "{namespace.name}". Must match regex {_NAMESPACE_NAME.pattern}'
        raise Invalid(f'Invalid namespace "{namespace.name}": {text}', status=500)
    if len(namespace.description) > _DESCRIPTION_MAX:
        raise Invalid(f"description longer than {_DESCRIPTION_MAX}", status=500)
    old = store.namespaces.get(namespace.name)
    store.namespaces[namespace.name] = namespace.replace(
        create_index=old.create_index if old else index, modify_index=index
    )
    store.touch("namespaces")


def delete_namespace(store: StateStore, index: int, command: c.DeleteNamespace) -> None:
    """Removes an empty namespace."""
    name = command.name
    if name == "default":
        raise Invalid("can not delete default namespace", status=500)
    if name not in store.namespaces:
        raise NotFound(f'namespace "{name}" not found', status=500)
    if any(key[0] == name and job.status != "dead" for key, job in store.jobs.current.items()):
        raise Conflict(f'namespace "{name}" has non-terminal jobs in regions: [global]')
    del store.namespaces[name]
    store.touch("namespaces")


def upsert_node_pool(store: StateStore, index: int, command: c.UpsertNodePool) -> None:
    """Creates or changes a node pool; the built-in ones stay as they are."""
    pool = command.pool
    if not pool.name:
        raise Invalid("missing node pool name")
    if pool.name in _BUILT_IN_POOLS:
        raise Invalid(f'modifying node pool "{pool.name}" is not allowed')
    if not POOL_NAME.fullmatch(pool.name):
        text = f'invalid name "{pool.name}", must match regex {POOL_NAME.pattern}'
        raise Invalid(f'invalid node pool "{pool.name}": {text}')
    if len(pool.description) > _DESCRIPTION_MAX:
        raise Invalid(f'invalid node pool "{pool.name}": description longer than {_DESCRIPTION_MAX}')
    old = store.node_pools.get(pool.name)
    store.node_pools[pool.name] = pool.replace(create_index=old.create_index if old else index, modify_index=index)
    store.touch("node_pools")


def delete_node_pool(store: StateStore, index: int, command: c.DeleteNodePool) -> None:
    """Removes an empty node pool."""
    name = command.name
    if name in _BUILT_IN_POOLS:
        raise Invalid(f'deleting node pool "{name}" is not allowed', status=500)
    if name not in store.node_pools:
        raise NotFound(f'node pool "{name}" not found', status=500)
    if any(job.node_pool == name and job.status != "dead" for job in store.jobs.current.values()):
        raise Conflict(f'node pool "{name}" has non-terminal jobs in regions: [global]')
    if any(node.node_pool == name for node in store.nodes):
        raise Conflict(f'node pool "{name}" has nodes in regions: [global]')
    del store.node_pools[name]
    store.touch("node_pools")
