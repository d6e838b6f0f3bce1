"""JSON documents as typed values: msgspec checks them, and an error names the file and the field.

A dataclass takes the fields that it knows and ignores others, so that a newer version may add some.
"""

import copy
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from dist_seg.errors import DataError, UserError

T = TypeVar("T")

_FIELD = re.compile(r"(?P<problem>.*?)(?: - at (?P<key>`key` in )?`\$(?P<path>.*)`)?", re.DOTALL)
_Path = tuple[str | int | None, ...]
"""From the document to a value in it: names of fields, keys and indices. None is a key that msgspec leaves out."""
_MISSING = "is missing"
_MOST_SHOWN = 60
"""Characters of a value in an error."""

Hook = Callable[[type, object], object]
"""Builds a value of a type that msgspec does not know; raises ValueError or TypeError for one that cannot be built."""


def decode(
    data: bytes | str, kind: type[T], where: str, *, error: type[UserError] = DataError, hook: Hook | None = None
) -> T:
    """The value of type `kind` that a JSON document holds.

    where: the file or URL that errors name. error: the exception to raise for a document that is not JSON, lacks a
    field or has one of another type. hook: for fields of types that msgspec does not know.
    """
    try:
        return msgspec.json.decode(data, type=kind, dec_hook=hook)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    # Again without types, which tells the keys of mappings; and Python writes NaN and Infinity, which are no JSON.
    try:
        document: object = json.loads(data)
    except (ValueError, RecursionError) as problem:
        raise error(f"not JSON: {problem}", where=where) from problem
    return convert(document, kind, where, error=error, hook=hook)


def convert(
    value: object, kind: type[T], where: str, *, error: type[UserError] = DataError, hook: Hook | None = None
) -> T:
    """As `decode`, of a document that has been parsed already."""
    try:
        return msgspec.convert(value, kind, dec_hook=hook, str_keys=True)
    except msgspec.ValidationError as problem:
        told = _told(problem)
        path = _with_keys(copy.deepcopy(value), told.path, kind, hook) if None in told.path else told.path
        name = _written(path) or "the document"
        if told.is_of_key:
            name = f"the key {name}"
        elif path and told.words != _MISSING:
            name += f" is {repr(_at(value, path))[:_MOST_SHOWN]}"
        colon = "" if told.words == _MISSING else ":"
        raise error(f"{name}{colon} {told.words}", where=where) from problem


@dataclass(frozen=True, kw_only=True)
class _Told:
    """What msgspec says of a value."""

    words: str
    path: _Path
    is_of_key: bool
    """What is wrong is the last key of the path, not what stands there."""


def _told(problem: msgspec.ValidationError) -> _Told:
    match = _FIELD.fullmatch(str(problem))
    assert match is not None
    words = match["problem"].replace("`", "")
    steps = re.findall(r"\.([^.\[\]]+)|\[(\d+)\]|(\[\.\.\.\])", match["path"] or "")
    path: _Path = tuple(name or (None if unnamed else int(number)) for name, number, unnamed in steps)
    if missing := re.fullmatch(r"Object missing required field (\w+)", words):
        return _Told(words=_MISSING, path=(*path, missing[1]), is_of_key=False)
    is_of_key = match["key"] is not None
    return _Told(words=words[:1].lower() + words[1:], path=(*path, None) if is_of_key else path, is_of_key=is_of_key)


def _with_keys(value: object, path: _Path, kind: type, hook: Hook | None) -> _Path:
    """The path with the keys of mappings in it: each is the first key that fails when it stands there alone.

    The value is changed on the way.
    """
    while None in path:
        at = path.index(None)
        mapping = _at(value, path[:at])
        if not isinstance(mapping, dict):
            return path
        for key, entry in dict(mapping).items():
            mapping.clear()
            mapping[key] = entry
            try:
                msgspec.convert(value, kind, dec_hook=hook, str_keys=True)
            except msgspec.ValidationError as problem:
                path = (*path[:at], key, *_told(problem).path[at + 1 :])
                break
        else:  # the fault is in how entries go together, not in one of them
            return path[:at]
    return path


def _at(value: object, path: _Path) -> object:
    """What stands at a path; None where there is nothing of the kind."""
    for step in path:
        match value, step:
            case dict(), str() if step in value:
                value = value[step]
            case list() | tuple(), int() if step < len(value):
                value = value[step]
            case _:
                return None
    return value


def _written(path: _Path) -> str:
    """Such as `splits.train.shards[0]`; keys with dots or brackets stand in quotes: `files['a.json']`."""
    text = ""
    for step in path:
        is_plain = isinstance(step, str) and not re.search(r"[.\[\]'\s]|^$", step)
        text += f".{step}" if is_plain else f"[{step!r}]"
    return text.removeprefix(".")
