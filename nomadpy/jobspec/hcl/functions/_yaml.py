"""YAML text from and to plain data."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import yaml

from nomadpy.jobspec.hcl.functions._registry import ArgumentError
from nomadpy.jobspec.hcl.values import Value, number_text


class _Loader(yaml.SafeLoader):
    """Plain data only; timestamps stay text, as they do in the language."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def decode(text: str) -> Any:
    """The data of one document. Raises ArgumentError, or ValueError for scalars that make no sense."""
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                raise ArgumentError(0, "YAML aliases are not supported")
        return yaml.load(text, Loader=_Loader)  # The loader is a SafeLoader.
    except yaml.YAMLError as wrong:
        problem = " ".join(str(wrong).split())
        raise ArgumentError(0, f"not valid YAML: {problem}") from wrong
    except RecursionError as deep:
        raise ArgumentError(0, "the YAML is nested too deeply") from deep


class _Dumper(yaml.SafeDumper):
    """Block style with every string quoted, or literal if it has several lines."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _represent_number(dumper: yaml.SafeDumper, number: Decimal) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:float", number_text(number))


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(Decimal, _represent_number)


def encode(value: Value) -> str:
    """The value as one block-style document with sorted keys."""
    text: str = yaml.dump(
        _plain(value), Dumper=_Dumper, default_flow_style=False, sort_keys=True, width=10**9, allow_unicode=True
    )
    return text.removesuffix("...\n")


def _plain(value: Value) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
