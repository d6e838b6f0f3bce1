"""JSON documents as typed values: msgspec checks them, and an error names the file and the field.

A dataclass takes the fields that it knows and ignores others, so that a newer version may add some.
"""

import copy
import re
from collections.abc import Callable
from typing import TypeVar, cast

import msgspec

from dist_seg.errors import DataError, UserError

T = TypeVar("T")

_FIELD = re.compile(r"(?P<problem>.*?)(?: - at `(?P<key>key in )?\$(?P<path>.*)`)?", re.DOTALL)
_UNNAMED = "[...]"
"""How msgspec writes any key of a mapping."""

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
        try:
            return msgspec.json.decode(data, type=kind, dec_hook=hook)
        except msgspec.ValidationError:
            document = msgspec.json.decode(data)  # read again without types: it tells the keys of mappings
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise error(f"not JSON: {problem}", where=where) from problem
    return convert(document, kind, where, error=error, hook=hook)


def convert(
    value: object, kind: type[T], where: str, *, error: type[UserError] = DataError, hook: Hook | None = None
) -> T:
    """As `decode`, of a document that has been parsed already."""
    try:
        return msgspec.convert(value, kind, dec_hook=hook)
    except msgspec.ValidationError as problem:
        words, path = _told(problem)
        if _UNNAMED in path:
            path = _with_keys(copy.deepcopy(value), path, kind, hook)
        key = path.lstrip(".") or "the document"
        if words == _MISSING:
            raise error(f"{key} {words}", where=where) from problem
        found = repr(_at(value, path)) if path else ""
        shown = f" is {found[:_MOST_SHOWN]}" if found else ""
        raise error(f"{key}{shown}: {words}", where=where) from problem


def _told(problem: msgspec.ValidationError) -> tuple[str, str]:
    """What is wrong, and the path of the field (`.splits[...].shards[0]`)."""
    match = _FIELD.fullmatch(str(problem))
    assert match is not None
    words = match["problem"].replace("`", "")
    missing = re.fullmatch(r"Object missing required field (\w+)", words)
    path = match["path"] or ""
    if missing:
        return _MISSING, f"{path}.{missing[1]}"
    return (f"key: {words}" if match["key"] else words)[:1].lower() + words[1:], path


def _with_keys(value: object, path: str, kind: type, hook: Hook | None) -> str:
    """The path with the keys of mappings in it: each is the first key that fails when it stands there alone.

    The value is changed on the way.
    """
    while _UNNAMED in path:
        before, _, _ = path.partition(_UNNAMED)
        mapping = _at(value, before)
        if not isinstance(mapping, dict):
            return path
        entries = dict(mapping)
        failed = None
        for key, entry in entries.items():
            mapping.clear()
            mapping[key] = entry
            try:
                msgspec.convert(value, kind, dec_hook=hook)
            except msgspec.ValidationError as problem:
                failed, path = key, _told(problem)[1]
                break
        if failed is None:  # the fault is in how entries go together, not in one of them
            mapping.update(entries)
            return path
        path = path.replace(_UNNAMED, f".{failed}", 1)
    return path


def _at(value: object, path: str) -> object:
    """What stands at a path such as `.splits.train.shards[0]`; None where there is nothing of the kind."""
    for name, number in re.findall(r"\.([^.\[\]]+)|\[(\d+)\]", path):
        try:
            value = cast(dict[str, object], value)[name] if name else cast(list[object], value)[int(number)]
        except (KeyError, IndexError, TypeError):
            return None
    return value
