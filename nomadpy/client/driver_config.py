"""Fills in a driver's ``config``: every string is a template with full HCL expressions over the task's surroundings.

Names are the task's environment (also as ``env["a.b"]``), ``attr``, ``meta``, ``node`` and ``secret``. Only a few
functions may be called, because the rest belongs to the time when the job was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from nomadpy.client.interpolate import Interpolator
from nomadpy.jobspec.hcl.diagnostics import HclErrors, Source
from nomadpy.jobspec.hcl.evaluate import evaluate
from nomadpy.jobspec.hcl.parser import parse_template
from nomadpy.jobspec.hcl.scope import Scope, Surroundings
from nomadpy.jobspec.hcl.syntax import Call
from nomadpy.jobspec.hcl.values import to_python
from nomadpy.model.errors import Invalid

FUNCTIONS = frozenset(
    ("abs", "coalesce", "concat", "hasindex", "int", "jsondecode", "jsonencode", "length", "lower", "max", "min")
    + ("reverse", "strlen", "substr", "upper")
)


def interpolate_config(config: Mapping[str, Any], names: Interpolator) -> dict[str, Any]:
    """``config`` with every template evaluated, at any depth.

    Raises Invalid that names the place and the problem, such as an unknown variable.
    """
    scope = Scope(_roots(names), Surroundings(unknown_roots=False))
    return {key: _fill(value, scope, key) for key, value in config.items()}


def nest(flat: Mapping[str, str]) -> dict[str, Any]:
    """Dotted names as nested objects; a name that is the beginning of longer ones loses to them. The full names stay
    reachable by index.

    >>> nest({"a.b": "1", "a.b.c": "2"})
    {'a.b': '1', 'a.b.c': '2', 'a': {'b': {'c': '2'}}}
    """
    tree: dict[str, Any] = {}
    for name in sorted(flat, key=lambda n: n.count("."), reverse=True):
        at = tree
        *path, last = name.split(".")
        for part in path:
            at = at.setdefault(part, {})
            if not isinstance(at, dict):
                break
        if isinstance(at, dict):
            at.setdefault(last, flat[name])
    return {**flat, **tree}


def _roots(names: Interpolator) -> dict[str, Any]:
    def under(prefix: str) -> dict[str, str]:
        return {name[len(prefix) :]: value for name, value in names.node.items() if name.startswith(prefix)}

    attr, meta = nest(under("attr.")), nest(under("meta."))
    return {
        **nest(names.env),
        "env": dict(names.env),
        "attr": attr,
        "meta": meta,
        "node": {**nest(under("node.")), "attr": attr, "meta": meta},
        "secret": nest(names.secrets),
    }


def _fill(value: Any, scope: Scope, where: str) -> Any:
    if isinstance(value, str):
        return _fill_text(value, scope, where)
    if isinstance(value, Mapping):
        return {str(_fill_text(str(k), scope, where)): _fill(v, scope, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_fill(item, scope, f"{where}[{i}]") for i, item in enumerate(value)]
    return value


def _fill_text(text: str, scope: Scope, where: str) -> Any:
    if "${" not in text and "%{" not in text:
        return text
    try:
        expression = parse_template(Source(f"config.{where}", text))
        for call in _calls(expression):
            if call.name not in FUNCTIONS:
                raise Invalid(f'config.{where}: the function "{call.name}" cannot be called when a task starts')
        return to_python(evaluate(expression, scope))
    except HclErrors as error:
        problems = "; ".join(f"{found.summary}: {found.detail}" for found in error.diagnostics)
        raise Invalid(f'config.{where}: {problems} (in "{text}")') from error


def _calls(node: Any) -> Iterator[Call]:
    """Every function call below a node of the syntax tree."""
    if isinstance(node, Call):
        yield node
    if isinstance(node, tuple):
        for item in node:
            yield from _calls(item)
    elif isinstance(node, msgspec.Struct) and not isinstance(node, Source):
        for name in node.__struct_fields__:
            if name != "range":
                yield from _calls(getattr(node, name))
