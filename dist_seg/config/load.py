"""Configuration from YAML files and dotted overrides; an error names the file, the key and the nearest valid key.

jsonargparse checks the types and builds the dataclasses; this module knows where each value came from.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from dist_seg.config.checks import check_config
from dist_seg.config.schema import Config
from dist_seg.errors import ConfigError

Tree = dict[str, object]


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without its two traps: `1e-3` is a number, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        keys = [self.construct_object(key) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return cast(dict[object, object], super().construct_mapping(node, deep=deep))


_MOST_CHARACTERS, _MOST_NODES, _MOST_LEVELS = 1 << 20, 10_000, 20
"""Of a configuration, its aliases written out. Ours have about a hundred settings on two levels."""

_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.[\d_]+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def load_config(files: Sequence[Path], overrides: Sequence[str] = ()) -> Config:
    """The defaults, then each file, then the overrides (`optim.lr=0.01`), the later over the earlier.

    Raises ConfigError for a file that cannot be read, an unknown or mistyped key, or values that contradict each other.
    """
    config = parse_config(files, overrides)
    check_config(config)
    return config


def parse_config(files: Sequence[Path], overrides: Sequence[str] = ()) -> Config:
    """As `load_config`, of settings that may only make sense together with others."""
    tree: Tree = {}
    sources: dict[str, str] = {}
    for file in files:
        _merge(tree, _read_yaml(file), str(file), sources)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"{override!r} is neither a YAML file nor an override such as optim.lr=0.01")
        value = text if _is_text(key) and text not in ("null", "~", "") else _parse_value(text, key)
        _merge(tree, _nested(tree, key, value), "the command line", sources)
    return _build(tree, sources)


def _nested(tree: Tree, key: str, value: object) -> Tree:
    """`value` at a dotted key. One entry of a mapping (`data.class_map.car=vehicle`) leaves its others as they are."""
    section, _, name = key.partition(".")
    name, _, entry = name.partition(".")
    if entry:
        before = cast(Mapping[str, object], tree.get(section, {})).get(name)
        value = {**(before if isinstance(before, Mapping) else {}), entry: value}
    return {section: {name: value} if name else value}


def config_from_tree(tree: Mapping[str, object], source: str) -> Config:
    """The configuration that `dataclasses.asdict` made `tree` of, such as one kept in a checkpoint."""
    sources: dict[str, str] = {}
    merged: Tree = {}
    _merge(merged, tree, source, sources)
    return _build(merged, sources)


def to_yaml(config: Config) -> str:
    """The whole resolved configuration."""
    # Through plain lists: YAML's safe dumper knows no tuples.
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False)


def to_tree(config: Config) -> Tree:
    """The configuration as JSON-ready nested dictionaries."""
    return cast(Tree, _plain(dataclasses.asdict(config)))


def differences(old: Config, new: Config) -> list[tuple[str, object, object]]:
    """(dotted key, old value, new value) for every field in which two configurations differ."""
    old_leaves, new_leaves = dict(_settings(to_tree(old))), dict(_settings(to_tree(new)))
    return [(key, old_leaves[key], new_leaves[key]) for key in old_leaves if old_leaves[key] != new_leaves[key]]


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def leaves(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """(dotted key, value) for everything in nested dictionaries that is not one itself."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _settings(tree: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """(dotted key, value) of a configuration's settings; one that is a mapping is one value."""
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
    """Plain values alone: tags of Python's objects are refused, and so is what a few aliases blow up. YAMLError."""
    if len(text) > _MOST_CHARACTERS:
        raise yaml.YAMLError(f"{len(text)} characters are more than a configuration may have ({_MOST_CHARACTERS})")
    try:
        root = yaml.compose(text, Loader=_Loader)
        if root is not None:
            _count_nodes(root, {}, 1)
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error
    return cast(object, yaml.load(text, Loader=_Loader))


def _count_nodes(node: yaml.Node, counted: dict[int, tuple[int, int]], level: int) -> tuple[int, int]:
    """The nodes and levels below and with this one, an alias counting like what it stands for.

    Raises YAMLError for too many.
    """
    if id(node) not in counted and level <= _MOST_LEVELS:  # an alias of what it stands in never ends
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
        raise yaml.YAMLError(f"more than {_MOST_NODES} values, its aliases written out")
    return nodes, levels


def _parse_value(text: str, key: str) -> object:
    try:
        return _load_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}={text}: the value is not valid YAML: {error}") from error


def _merge(into: Tree, tree: Mapping[str, object], source: str, sources: dict[str, str]) -> None:
    for section, content in tree.items():
        _check_key(section, _field_names(Config), source, prefix="")
        section_type = get_type_hints(Config)[section]
        if not dataclasses.is_dataclass(section_type):
            into[section], sources[section] = content, source
            continue
        if not isinstance(content, Mapping):
            raise ConfigError(f"{source}: {section} is a section: give {section}.KEY, not {content!r}")
        target = cast(Tree, into.setdefault(section, {}))
        for name, value in content.items():
            _check_key(name, _field_names(section_type), source, prefix=f"{section}.")
            # In a file, too, a name or path that looks like a number is still text.
            is_text = _is_text(f"{section}.{name}") and value is not None
            key = f"{section}.{name}"
            target[name] = str(value) if is_text else _with_names_as_text(value, f"{source}: {key}")
            sources[key] = source


def _with_names_as_text(value: object, where: str) -> object:
    """In a mapping of names to names, ones that look like whole numbers as text.

    Raises ConfigError for what YAML takes for a truth value.
    """
    if not isinstance(value, Mapping):
        return value
    for word in (*value.keys(), *value.values()):
        if isinstance(word, bool):
            raise ConfigError(f"{where}: `yes`, `no`, `on`, `off`, `true` and `false` as names need quotes in YAML")
    return {_as_text(key): _as_text(entry) for key, entry in value.items()}


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int) else value


def _is_text(key: str) -> bool:
    """Whether a dotted key stands for one piece of text: a name, path or dotted path."""
    return _hint_of(key) in (str, str | None)


def _hint_of(key: str) -> object:
    """The type of a dotted key's field; None where there is no such field."""
    section, _, name = key.partition(".")
    hint: object = get_type_hints(Config).get(section)
    if not name:
        return hint
    return cast(object, get_type_hints(hint).get(name)) if dataclasses.is_dataclass(hint) else None


def _field_names(kind: object) -> list[str]:
    return [entry.name for entry in dataclasses.fields(cast(type, kind))]


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


def _build(tree: Tree, sources: Mapping[str, str]) -> Config:
    _check_empty(tree, sources)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Config, nested_key=None, fail_untyped=True)
    try:
        config = Config(**parser.instantiate(parser.parse_object(tree)).as_dict())
    except ArgumentError as error:
        found = re.search(r'key "([^"]+)"', str(error))
        key = found.group(1) if found else ""
        expected = "; ".join(re.findall(r"Expected an? ([^\n]+?)(?:\. Got value|\n|$)", str(error))) or str(error)
        expected = re.sub(r"<class '(\w+)'>|typing\.", r"\1", expected)
        value = dict(_settings(tree)).get(key)
        raise ConfigError(f"{sources.get(key, 'configuration')}: {key}={value!r}: expected {expected}") from error
    _check_finite(config, sources)
    return config


def _check_empty(tree: Tree, sources: Mapping[str, str]) -> None:
    """Refuses null, which jsonargparse lets through everywhere, where the field's type does not name it."""
    for key, value in _settings(tree):
        if value is None and type(None) not in get_args(_hint_of(key)):
            default = dict(_settings(to_tree(Config())))[key]
            raise ConfigError(
                f"{sources[key]}: {key} is empty (null), but needs a value; leave it out for the default, {default!r}"
            )


def _check_finite(config: Config, sources: Mapping[str, str]) -> None:
    for key, value in _settings(to_tree(config)):
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise ConfigError(f"{sources.get(key, 'configuration')}: {key}={value}: must be finite")
