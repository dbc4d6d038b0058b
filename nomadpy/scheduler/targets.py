"""What the two sides of a constraint mean on a node: ``${attr.kernel.name}`` and its like."""

from __future__ import annotations

from nomadpy.model.node import Node

_ESCAPING = ("${node.unique.", "${attr.unique.", "${meta.unique.")


def is_reference(target: str) -> bool:
    """Whether the text names a property of a node. Text before ``${`` makes the whole a literal, as in Nomad.

    >>> is_reference("${attr.cpu.arch}"), is_reference("v${attr.cpu.arch}")
    (True, False)
    """
    return target.startswith("${")


def escapes_class(target: str) -> bool:
    """Whether nodes of one computed class may differ in this property."""
    return target.startswith(_ESCAPING)


def resolve(target: str, node: Node) -> str | None:
    """The target's value on the node; None when the node lacks it or the reference is not known.

    Text after the closing brace stays part of the name, so such a reference resolves nowhere.
    """
    if not is_reference(target):
        return target
    match target:
        case "${node.unique.id}":
            return node.id
        case "${node.unique.name}":
            return node.name
        case "${node.datacenter}":
            return node.datacenter
        case "${node.class}":
            return node.node_class
        case "${node.pool}":
            return node.node_pool
    if target.startswith("${attr."):
        return node.attributes.get(target[len("${attr.") :].removesuffix("}"))
    if target.startswith("${meta."):
        return node.meta.get(target[len("${meta.") :].removesuffix("}"))
    return None
