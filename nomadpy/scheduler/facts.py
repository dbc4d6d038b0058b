"""What nodes are, as vectors over node numbers: answers to feasibility questions, each worked out once.

Facts change only when a node appears, goes or reports something new, so they outlive many evaluations. A question is
answered once per distinct value of the attribute it asks about, and values of attributes that cannot differ within a
computed class are read once per class.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nomadpy.model.job import VolumeRequest
from nomadpy.model.node import Node
from nomadpy.model.resources import Constraint, RequestedDevice
from nomadpy.scheduler.devices import matching_groups, suitable_groups
from nomadpy.scheduler.operators import holds, is_true
from nomadpy.scheduler.ports import NodeAddress, node_addresses
from nomadpy.scheduler.targets import escapes_class, is_reference, resolve
from nomadpy.state.view import BoolColumn, IntColumn, NodeColumns

UNLIMITED = np.iinfo(np.int64).max // 4
_ANSWERS_KEPT, _COLUMNS_KEPT = 4096, 512
LOG2_10 = float(np.log2(10.0))


class Column:
    """An attribute of all nodes: ``values[codes[number]]``, None where the node lacks it."""

    def __init__(self, codes: IntColumn, values: list[str | None]) -> None:
        self.codes = codes
        self.values = values

    def where(self, test: Callable[[str | None], bool]) -> BoolColumn:
        """The nodes whose value passes."""
        return np.array([test(value) for value in self.values], dtype=np.bool_)[self.codes]


class Facts:
    """Everything that feasibility needs to know of the nodes at one ``facts_version``."""

    def __init__(self, columns: NodeColumns) -> None:
        self.version = columns.facts_version
        self.size = columns.size
        self.nodes: list[Node | None] = list(columns.nodes[: columns.size])
        self.ready: BoolColumn = columns.ready.copy()
        self.present = np.array([node is not None for node in self.nodes], dtype=np.bool_)
        self.cpu_scale = _scale(columns.cpu)
        self.memory_scale = _scale(columns.memory)
        self.max_allocs: IntColumn = np.array(
            [(node.node_max_allocs if node else 0) or UNLIMITED for node in self.nodes], dtype=np.int64
        )
        self.core_mhz: IntColumn = columns.core_mhz.copy()
        self._group_by_class()
        self._columns: dict[str, Column] = {}
        self._answers: dict[tuple[object, ...], BoolColumn] = {}
        self._addresses: dict[int, tuple[NodeAddress, ...]] = {}
        self.memo: dict[tuple[object, ...], object] = {}
        self.newcomers: dict[int, object] = {}  # what ``newcomers`` knows, by the identity of groups

    def _group_by_class(self) -> None:
        """Numbers the computed classes. A node that reports none is a class of its own."""
        codes: dict[str, int] = {}
        self.classes: list[str] = []
        self._representatives: list[int] = []
        self.class_codes: IntColumn = np.zeros(self.size, dtype=np.int64)
        for number, node in enumerate(self.nodes):
            key = f"#{number}" if node is None or not node.computed_class else node.computed_class
            code = codes.get(key)
            if code is None:
                code = codes[key] = len(self.classes)
                self.classes.append("" if key[0] == "#" else key)
                self._representatives.append(number)
            self.class_codes[number] = code

    def traits(self) -> IntColumn:
        """A number for what lasting conditions may ask of a node beside its computed class: nodes with equal numbers
        differ at most in things of their own."""
        codes: dict[object, int] = {}
        traits: IntColumn = np.zeros(self.size, dtype=np.int64)
        for number, node in enumerate(self.nodes):
            if node is not None:
                drivers = tuple((name, info.detected, info.healthy) for name, info in node.drivers.items())
                key = (bool(self.ready[number]), drivers, tuple(node.host_volumes))
                traits[number] = codes.setdefault(key, len(codes) + 1)
        return traits

    def column(self, target: str) -> Column:
        """A property of all nodes by its reference, e.g. ``${meta.rack}``."""
        found = self._columns.get(target)
        if found is None:
            if len(self._columns) >= _COLUMNS_KEPT:
                self._columns.clear()
            if escapes_class(target):
                found = self._encode(target, range(self.size), None)
            else:
                found = self._encode(target, self._representatives, self.class_codes)
            self._columns[target] = found
        return found

    def _encode(self, target: str, numbers: range | list[int], expand: IntColumn | None) -> Column:
        codes: dict[str | None, int] = {}
        row = np.zeros(len(numbers), dtype=np.int64)
        for at, number in enumerate(numbers):
            node = self.nodes[number]
            value = None if node is None else resolve(target, node)
            row[at] = codes.setdefault(value, len(codes))
        return Column(row if expand is None else row[expand], list(codes))

    def meets(self, constraint: Constraint) -> BoolColumn:
        """The nodes on which a condition holds."""
        return self.compares(constraint.l_target, constraint.operand, constraint.r_target)

    def compares(self, left: str, operand: str, right: str) -> BoolColumn:
        """The nodes on which ``left operand right`` holds."""
        key = ("compare", left, operand, right)
        return self._answer(key, lambda: self._compare(left, operand, right))

    def _compare(self, left: str, operand: str, right: str) -> BoolColumn:
        if not is_reference(right):
            return self.column(left).where(lambda value: holds(operand, value, right))
        if not is_reference(left):
            return self.column(right).where(lambda value: holds(operand, left, value))
        a, b = self.column(left), self.column(right)
        pairs, at = np.unique(a.codes * len(b.values) + b.codes, return_inverse=True)
        answers = [holds(operand, a.values[p // len(b.values)], b.values[p % len(b.values)]) for p in pairs.tolist()]
        return np.array(answers, dtype=np.bool_)[at]

    def _answer(self, key: tuple[object, ...], work_out: Callable[[], BoolColumn]) -> BoolColumn:
        found = self._answers.get(key)
        if found is None:
            if len(self._answers) >= _ANSWERS_KEPT:
                self._answers.clear()
            found = self._answers[key] = work_out()
        return found

    def _per_node(self, key: tuple[object, ...], test: Callable[[Node], bool]) -> BoolColumn:
        return self._answer(
            key, lambda: np.array([node is not None and test(node) for node in self.nodes], dtype=np.bool_)
        )

    def in_datacenters(self, globs: tuple[str, ...]) -> BoolColumn:
        """The nodes whose datacenter matches one of the patterns, in which ``*`` stands for any text."""
        column = self.column("${node.datacenter}")
        return self._answer(
            ("datacenters", globs), lambda: column.where(lambda dc: dc is not None and matches_any(dc, globs))
        )

    def in_pool(self, pool: str) -> BoolColumn:
        """The nodes of a pool; ``all`` has every node, and a job that names none means ``default``."""
        if pool == "all":
            return self.present
        return self.compares("${node.pool}", "=", pool or "default")

    def has_driver(self, name: str) -> BoolColumn:
        """The nodes on which the driver is detected and healthy. Asked per node: health is no part of the class."""
        return self._per_node(("driver", name), lambda node: _driver_usable(node, name))

    def knows_driver(self, name: str) -> BoolColumn:
        """The nodes that have the driver, healthy or not."""
        return self._per_node(("driver known", name), lambda node: _driver_known(node, name))

    def has_network_mode(self, mode: str) -> BoolColumn:
        """The nodes that offer a network mode. Host networking and no network are everywhere."""
        if mode in ("", "host", "none"):
            return self.present
        return self._per_node(("network", mode), lambda node: _offers_network(node, mode))

    def has_host_network(self, alias: str) -> BoolColumn:
        """The nodes that have an address under this alias, which may be a reference."""
        return self._per_node(
            ("host network", alias), lambda node: any(a.alias == resolve(alias, node) for a in node_addresses(node))
        )

    def has_host_volume(self, request: VolumeRequest) -> BoolColumn:
        """The nodes whose operator offers the volume, writable unless the request only reads."""
        key = ("host volume", request.source, request.read_only)
        return self._per_node(key, lambda node: offers_volume(node, request.source, request.read_only))

    def has_devices(self, request: RequestedDevice) -> BoolColumn:
        """The nodes with a device group that fits the request and has enough healthy instances."""
        return self._per_node(("device", request), lambda node: bool(matching_groups(node, request)))

    def knows_devices(self, request: RequestedDevice) -> BoolColumn:
        """The nodes with a device group that fits the request, whatever its instances are."""
        return self._per_node(("device kind", request), lambda node: bool(suitable_groups(node, request)))

    def has_secrets_provider(self, name: str) -> BoolColumn:
        """The nodes with this secrets plugin."""
        return self.compares(f"${{attr.plugins.secrets.{name}.version}}", "is_set", "")

    def addresses(self, number: int) -> tuple[NodeAddress, ...]:
        """The host addresses of a node with the ports that nobody may take."""
        found = self._addresses.get(number)
        if found is None:
            node = self.nodes[number]
            found = self._addresses[number] = () if node is None else node_addresses(node)
        return found


def _scale(capacity: IntColumn) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """log2(10)/capacity, so that exp2(free · scale) is 10^(free share). A node without capacity counts as full."""
    out = np.zeros(len(capacity))
    np.divide(LOG2_10, capacity, out=out, where=capacity > 0)
    return out


def matches_any(text: str, globs: tuple[str, ...]) -> bool:
    """Whether the text matches a pattern in which only ``*`` is special.

    >>> matches_any("eu-1", ("us-*", "eu-*")), matches_any("eu[1]", ("eu[1]",))
    (True, True)
    """
    return any(_glob(text, glob) for glob in globs)


def _glob(text: str, pattern: str) -> bool:
    if "*" not in pattern:
        return text == pattern
    first, *middle, last = pattern.split("*")
    if not text.startswith(first) or len(text) < len(first) + len(last):
        return False
    at, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return text.endswith(last)


def _driver_known(node: Node, name: str) -> bool:
    info = node.drivers.get(name)
    if info is not None and info.detected:
        return True
    return is_true(node.attributes.get(f"driver.{name}", ""), default=False)


def _driver_usable(node: Node, name: str) -> bool:
    """What the node reports of the driver decides; the attribute stands in where it reports nothing."""
    info = node.drivers.get(name)
    if info is not None:
        return info.detected and info.healthy
    return is_true(node.attributes.get(f"driver.{name}", ""), default=False)


def _offers_network(node: Node, mode: str) -> bool:
    resources = node.node_resources
    return any(network.mode == mode for network in resources.node_networks) or any(
        network.mode == mode for network in resources.networks
    )


def offers_volume(node: Node, source: str, read_only: bool) -> bool:
    """Whether the node has the host volume, writable unless only reading is asked for."""
    volume = node.host_volumes.get(source)
    return volume is not None and (read_only or not volume.read_only)
