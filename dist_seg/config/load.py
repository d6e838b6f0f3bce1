"""Configuration from YAML files and dotted overrides. An error names the file, the key and the nearest valid key.

msgspec checks the types and builds the dataclasses. This module remembers where each value came from.
"""

import dataclasses
import difflib
import math
import re
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import yaml

from dist_seg.config.checks import check_config
from dist_seg.config.schema import Config
from dist_seg.errors import ConfigError

_SECTIONS: Mapping[str, object] = get_type_hints(Config)
"""The type of every section by name. `task` is a section that holds a single value."""
_COMMAND_LINE = "the command line"
_MOST_CHARACTERS, _MOST_NODES, _MOST_LEVELS = 1 << 20, 10_000, 20
"""Limits on a configuration file, with its aliases expanded. Ours have about a hundred settings on two levels."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without its two traps: `1e-3` is a number, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        keys = [self.construct_object(key) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.[\d_]+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def load_config(files: Sequence[Path], overrides: Sequence[str] = ()) -> Config:
    """The defaults, overridden by each file in turn and then by the overrides (`optim.lr=0.01`).

    Raises ConfigError for a file that cannot be read, an unknown or mistyped key, or values that contradict each other.
    """
    config = parse_config(files, overrides)
    check_config(config)
    return config


@dataclass(frozen=True, kw_only=True)
class _Given:
    """The value of one setting, as a file or the command line gives it."""

    value: object
    source: str
    """The file, or whatever else errors name."""


def parse_config(files: Sequence[Path], overrides: Sequence[str] = ()) -> Config:
    """Like `load_config`, but without checking that the values fit together."""
    given: dict[str, _Given] = {}
    for file in files:
        _merge(given, _read_yaml(file), str(file))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"{override!r} is neither a YAML file nor an override such as optim.lr=0.01")
        value = text if _is_text(key) and text not in ("null", "~", "") else _parse_value(text, key)
        _merge(given, _nested(given, key, value), _COMMAND_LINE)
    return _build(given)


def _nested(given: Mapping[str, _Given], key: str, value: object) -> Mapping[str, object]:
    """`value` at a dotted key. One entry of a mapping (`data.class_map.car=vehicle`) is added to the others."""
    section, _, name = key.partition(".")
    name, _, entry = name.partition(".")
    if entry:
        setting = given.get(f"{section}.{name}")
        before = setting.value if setting is not None and isinstance(setting.value, Mapping) else {}
        value = {**before, entry: value}
    return {section: {name: value} if name else value}


def config_from_tree(tree: Mapping[str, object], source: str) -> Config:
    """The configuration from nested dictionaries (`to_tree`), such as those in a checkpoint."""
    given: dict[str, _Given] = {}
    _merge(given, tree, source)
    return _build(given)


def to_yaml(config: Config) -> str:
    """The whole resolved configuration."""
    # Through plain lists: YAML's safe dumper knows no tuples.
    return yaml.safe_dump(to_tree(config), sort_keys=False)


def to_tree(config: Config) -> dict[str, object]:
    """The configuration as JSON-ready nested dictionaries."""
    return {section: _plain(content) for section, content in dataclasses.asdict(config).items()}


def differences(old: Config, new: Config) -> list[tuple[str, object, object]]:
    """(dotted key, old value, new value) for every field in which two configurations differ."""
    old_leaves, new_leaves = dict(_settings(to_tree(old))), dict(_settings(to_tree(new)))
    return [(key, old_leaves[key], new_leaves[key]) for key in old_leaves if old_leaves[key] != new_leaves[key]]


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def leaves(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """(dotted key, value) for every value in nested dictionaries."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _settings(tree: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """(dotted key, value) of every setting; a setting that is a mapping counts as one value."""
    for section, content in tree.items():
        if isinstance(content, Mapping):
            yield from ((f"{section}.{name}", value) for name, value in content.items())
        else:
            yield section, content


def _read_yaml(file: Path) -> Mapping[str, object]:
    try:
        tree = _load_yaml(file.read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"{file}: no such configuration file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not valid YAML: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{file}: expected sections such as `train:` and `optim:`, found {type(tree).__name__}")
    return tree


def _load_yaml(text: str) -> object:
    """Plain values. Raises YAMLError for tags of Python objects and for aliases that expand to too many values."""
    if len(text) > _MOST_CHARACTERS:
        raise yaml.YAMLError(f"{len(text)} characters are more than a configuration may have ({_MOST_CHARACTERS})")
    try:
        root = yaml.compose(text, Loader=_Loader)
        if root is not None:
            _count_nodes(root, {}, 1)
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error
    value: object = yaml.load(text, Loader=_Loader)
    return value


def _count_nodes(node: yaml.Node, counted: dict[int, tuple[int, int]], level: int) -> tuple[int, int]:
    """Number of nodes and levels of this node and everything below it; an alias counts like its target.

    Raises YAMLError for too many.
    """
    if id(node) not in counted and level <= _MOST_LEVELS:  # an alias of a node that contains it never ends
        below: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            below = node.value
        elif isinstance(node, yaml.MappingNode):
            below = [part for pair in node.value for part in pair]
        parts = [_count_nodes(part, counted, level + 1) for part in below]
        counted[id(node)] = 1 + sum(n for n, _ in parts), 1 + max((levels for _, levels in parts), default=0)
    nodes, levels = counted.get(id(node), (1, 1))
    if level + levels - 1 > _MOST_LEVELS:
        raise yaml.YAMLError(f"nested more than {_MOST_LEVELS} levels deep")
    if nodes > _MOST_NODES:
        raise yaml.YAMLError(f"more than {_MOST_NODES} values once its aliases are expanded")
    return nodes, levels


def _parse_value(text: str, key: str) -> object:
    try:
        return _load_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}={text}: the value is not valid YAML: {error}") from error


def _merge(given: dict[str, _Given], tree: Mapping[str, object], source: str) -> None:
    """Adds the settings of nested dictionaries to `given`, by dotted key."""
    for section, content in tree.items():
        _check_key(section, list(_SECTIONS), source, prefix="")
        names = _fields(_SECTIONS[section])
        if names is None:
            given[section] = _Given(value=content, source=source)
            continue
        if not isinstance(content, Mapping):
            raise ConfigError(f"{source}: {section} is a section: give {section}.KEY, not {content!r}")
        for name, value in content.items():
            _check_key(name, list(names), source, prefix=f"{section}.")
            key = f"{section}.{name}"
            # A name or path that looks like a number is still text, in files as on the command line.
            read = str(value) if _is_text(key) and value is not None else _read(value, names[name], source, key)
            given[key] = _Given(value=read, source=source)


def _read(value: object, kind: object, source: str, key: str) -> object:
    """A YAML value for a field of type `kind`: quoted numbers become numbers, numbers used as names become text."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    for option in kinds:
        fields, origin = _fields(option), get_origin(option)
        if fields is not None and isinstance(value, Mapping):
            for name in value:
                _check_key(name, list(fields), source, prefix=f"{key}.")
            return {name: _read(entry, fields[name], source, f"{key}.{name}") for name, entry in value.items()}
        if origin is tuple and isinstance(value, list):
            return [_read(entry, get_args(option)[0], source, key) for entry in value]
        if origin is dict and isinstance(value, Mapping):
            return _with_names_as_text(value, f"{source}: {key}")
    return _unquoted(value) if isinstance(value, str) and str not in kinds else value


def _unquoted(text: str) -> object:
    """The number or list in quotes; the text itself if there is none."""
    try:
        return _load_yaml(text)
    except yaml.YAMLError:
        return text


def _with_names_as_text(names: Mapping[object, object], where: str) -> Mapping[object, object]:
    """A mapping of names to names, with whole numbers as text.

    Raises ConfigError for names that YAML reads as true or false.
    """
    for word in (*names.keys(), *names.values()):
        if isinstance(word, bool):
            raise ConfigError(f"{where}: `yes`, `no`, `on`, `off`, `true` and `false` as names need quotes in YAML")
    return {_as_text(key): _as_text(entry) for key, entry in names.items()}


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int) else value


def _is_text(key: str) -> bool:
    """Whether the setting at a dotted key is text: a name, path or dotted path."""
    return _type_of(key) in (str, str | None)


def _type_of(key: str) -> object:
    """The type of a dotted key's field; None if there is no such field."""
    section, _, name = key.partition(".")
    kind = _SECTIONS.get(section)
    return (_fields(kind) or {}).get(name) if name else kind


def _fields(kind: object) -> Mapping[str, object] | None:
    """The types of a dataclass's fields by name; None for any other type."""
    return get_type_hints(kind) if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None


def _check_key(name: object, valid: Sequence[str], source: str, prefix: str) -> None:
    if name in valid:
        return
    if not prefix:
        everywhere = {key.split(".")[-1]: key for key, _ in _settings(to_tree(Config()))}
        valid = [*valid, *everywhere]
        near = difflib.get_close_matches(str(name), valid, n=1)
        nearest = everywhere.get(near[0], near[0]) if near else None
    else:
        near = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.4)
        nearest = f"{prefix}{near[0]}" if near else None
    hint = f"did you mean {nearest}?" if nearest else f"valid keys: {', '.join(valid)}"
    raise ConfigError(f"{source}: unknown key {prefix}{name}; {hint}")


def _build(given: Mapping[str, _Given]) -> Config:
    tree: dict[str, object] = {}
    sections: dict[str, dict[str, object]] = defaultdict(dict)
    for key, setting in given.items():
        _check_type(key, setting)
        section, _, name = key.partition(".")
        if name:
            sections[section][name] = setting.value
        else:
            tree[section] = setting.value
    config = msgspec.convert(tree | sections, Config)
    _check_finite(config, given)
    return config


def _check_type(key: str, setting: _Given) -> None:
    """Raises ConfigError for a value of another type than the field's."""
    kind = _type_of(key)
    if setting.value is None and type(None) not in get_args(kind):
        default = dict(_settings(to_tree(Config())))[key]
        raise ConfigError(
            f"{setting.source}: {key} is empty (null), but needs a value; remove it to use the default, {default!r}"
        )
    try:
        msgspec.convert(setting.value, kind)
    except msgspec.ValidationError as problem:
        # msgspec tells which entry of a list or mapping is wrong.
        detail = f" ({problem})" if isinstance(setting.value, list | Mapping) else ""
        expected = _type_name(kind)
        raise ConfigError(f"{setting.source}: {key}={setting.value!r}: expected {expected}{detail}") from problem


def _type_name(kind: object) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(map(_type_name, parts))
    if origin is tuple:
        return f"list of {_type_name(parts[0])}"
    if origin is Literal:
        return str(kind).removeprefix("typing.")
    if origin is dict or _fields(kind) is not None:
        return "mapping"
    return "null" if kind is type(None) else str(getattr(kind, "__name__", kind))


def _check_finite(config: Config, given: Mapping[str, _Given]) -> None:
    for key, value in _settings(to_tree(config)):
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise ConfigError(f"{given[key].source}: {key}={value}: must be finite")
