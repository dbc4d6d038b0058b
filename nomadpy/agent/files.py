"""Configuration files: HCL, JSON or YAML with Nomad's keys, laid over one another in the order given.

Later files win key by key, blocks and maps merge. A key that does not exist is refused by name; one that exists but is
not acted on yet earns a warning.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import msgspec

from nomadpy.agent.config import AgentConfig
from nomadpy.agent.keys import SILENT, TOP, Key, Section
from nomadpy.client.config import HostNetworkConfig, HostVolumeConfig
from nomadpy.jobspec import hcl
from nomadpy.model.errors import Invalid
from nomadpy.model.time import parse_duration

_SUFFIXES = (".hcl", ".json", ".yaml", ".yml")
_SIZE_UNITS = {"": 1, "K": 1 << 10, "KB": 1 << 10, "M": 1 << 20, "MB": 1 << 20, "G": 1 << 30, "GB": 1 << 30}
_RECORDS: dict[str, Any] = {"client.host_volumes": HostVolumeConfig, "client.host_networks": HostNetworkConfig}


def load_files(config: AgentConfig, paths: list[str]) -> AgentConfig:
    """The configuration with the files laid over it. Raises Invalid naming the file and the key."""
    files = [file for path in paths for file in _expand(Path(path))]
    for file in files:
        reader = _Reader(str(file))
        config = reader.apply(config, _read(file), TOP, "")
        if reader.problems:
            raise Invalid("\n  ".join(reader.problems))
        config = config.replace(warnings=config.warnings + tuple(reader.warnings))
    return config.replace(files=tuple(map(str, files)))


def _expand(path: Path) -> list[Path]:
    """The file itself, or a directory's configuration files in the order of their names."""
    if path.is_dir():
        return sorted(child for child in path.iterdir() if child.suffix in _SUFFIXES and child.is_file())
    if not path.exists():
        raise Invalid(f"configuration file {path} does not exist")
    return [path]


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise Invalid(f"configuration file {path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise Invalid(f"configuration file {path} is not UTF-8 text (byte {error.start})") from error
    if path.suffix == ".json":
        return _plain(path, _json(path, text))
    if path.suffix in (".yaml", ".yml"):
        return _plain(path, _yaml(path, text))
    return _tree(hcl.parse(text, str(path)), hcl.constant_scope())


def _json(path: Path, text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Invalid(f"configuration file {path} is not JSON: {error}") from error


def _yaml(path: Path, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise Invalid(f"configuration file {path} is not YAML: {error}") from error


def _plain(path: Path, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Invalid(f"configuration file {path} must hold an object of keys")
    return value


def _tree(body: hcl.Body, scope: hcl.Scope) -> dict[str, Any]:
    """An HCL body as nested dicts; the labels of a block become keys, repeated blocks merge."""
    out: dict[str, Any] = {
        name: hcl.to_python(hcl.evaluate(attribute.expression, scope)) for name, attribute in body.attributes.items()
    }
    for block in body.blocks:
        inner: dict[str, Any] = _tree(block.body, scope)
        for label in reversed(block.labels):
            inner = {label: inner}
        _merge(out.setdefault(block.type, {}), inner)
    return out


def _merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


class _Reader:
    """Lays one file's keys over a configuration and gathers what is wrong with it."""

    def __init__(self, file: str) -> None:
        self._file = file
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def apply(self, config: AgentConfig, tree: dict[str, Any], keys: dict[str, Any], where: str) -> AgentConfig:
        for name, value in tree.items():
            path = f"{where}{name}"
            key = keys.get(name) or keys.get("*")
            if key is None:
                self._unknown(path, name, keys)
            elif isinstance(key, Section):
                config = self._section(config, key, value, path)
            else:
                config = self._key(config, key, value, path)
        return config

    def _section(self, config: AgentConfig, section: Section, value: Any, path: str) -> AgentConfig:
        if isinstance(value, list) and all(isinstance(one, dict) for one in value):
            merged: dict[str, Any] = {}
            for one in value:  # JSON's way of writing a block more than once
                _merge(merged, one)
            value = merged
        if not isinstance(value, dict):
            self.problems.append(f"{self._file}: {path} is a block, not {value!r}")
            return config
        if "*" in section.keys and len(section.keys) == 1:
            self._idle(path)
            return config
        if not section.labelled:
            return self.apply(config, value, section.keys, f"{path}.")
        entries = {label: self._labelled(section, entry, f"{path}.{label}") for label, entry in value.items()}
        changed: AgentConfig = _set(config, section.target, {**_get(config, section.target), **entries})
        return changed

    def _labelled(self, section: Section, entry: Any, path: str) -> Any:
        if not isinstance(entry, dict):
            self.problems.append(f"{self._file}: {path} is a block, not {entry!r}")
            return None
        if section.target == "client.plugins":
            for name in entry:
                if name not in section.keys:
                    self._unknown(f"{path}.{name}", name, section.keys)
            return _single(entry.get("config", {}))
        fields: dict[str, Any] = {}
        for name, value in entry.items():
            key = section.keys.get(name)
            if key is None:
                self._unknown(f"{path}.{name}", name, section.keys)
            else:
                fields[key.target] = self._value(key, value, f"{path}.{name}")
        if section.target == "client.host_volumes" and "path" not in fields:
            self.problems.append(f"{self._file}: {path} needs a path")
            return None
        return _RECORDS[section.target](**fields)

    def _key(self, config: AgentConfig, key: Key, value: Any, path: str) -> AgentConfig:
        if not key.target:
            self._idle(path)
            return config
        made = self._value(key, value, path)
        if made is None:
            return config
        if key.kind == "map":
            made = {**_get(config, key.target), **made}
        changed: AgentConfig = _set(config, key.target, made)
        return changed

    def _value(self, key: Key, value: Any, path: str) -> Any:
        try:
            return _convert(key.kind, value)
        except (ValueError, TypeError) as error:
            self.problems.append(f"{self._file}: {path} {error}")
            return None

    def _unknown(self, path: str, name: str, keys: dict[str, Any]) -> None:
        close = difflib.get_close_matches(name, keys, n=1)
        hint = f'; did you mean "{close[0]}"?' if close else ""
        self.problems.append(f'{self._file}: unknown key "{path}"{hint}')

    def _idle(self, path: str) -> None:
        if path.rpartition(".")[2] not in SILENT:
            self.warnings.append(f"{self._file}: {path} is accepted but not acted on yet")


def _convert(kind: str, value: Any) -> Any:
    """The value as its kind. Raises ValueError that says what would be right."""
    if kind == "str" and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    if kind == "bool":
        if isinstance(value, bool):
            return value
        if value in ("true", "false"):
            return value == "true"
    if kind in ("int", "float") and not isinstance(value, bool) and isinstance(value, int | float | str):
        number = float(value)
        if kind == "float" or number.is_integer():
            return number if kind == "float" else int(number)
    if kind == "duration":
        return parse_duration(value) if isinstance(value, str) else int(value)
    if kind == "size" and isinstance(value, int | str):
        digits = str(value).rstrip("KMGBkmgb")
        return int(digits) * _SIZE_UNITS[str(value)[len(digits) :].upper()]
    if kind == "list" and isinstance(value, list):
        return tuple(map(str, value))
    if kind == "map":
        return {str(k): v if isinstance(v, str) else _text(v) for k, v in _single(value).items()}
    raise ValueError(f"must be {_EXPECTED[kind]}, not {value!r}")


_EXPECTED = {
    "str": "a string",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "duration": 'a duration such as "30s"',
    "size": 'a size such as "1M"',
    "list": "a list of strings",
    "map": "a block or a map",
}


def _single(value: Any) -> dict[str, Any]:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        raise ValueError(f"must be a block or a map, not {value!r}")
    return value


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _get(record: Any, path: str) -> Any:
    for name in path.split("."):
        record = getattr(record, name)
    return record


def _set(record: Any, path: str, value: Any) -> Any:
    """A copy of nested records with one field changed."""
    name, _, rest = path.partition(".")
    inner = _set(getattr(record, name), rest, value) if rest else value
    return msgspec.structs.replace(record, **{name: inner})
