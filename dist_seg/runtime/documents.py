"""Decodes JSON documents into typed values. msgspec checks them, and errors name the file and the field.

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
"""The way from the document to a value: names of fields, keys and indices. None is a key that msgspec does not name."""
_MISSING = "is missing"
_MOST_SHOWN = 60
"""Longest part of a value that an error shows, in characters."""

Hook = Callable[[type, object], object]
"""Builds a value of a type that msgspec does not know; raises ValueError or TypeError if it cannot."""


def decode(
    data: bytes | str, kind: type[T], where: str, *, error: type[UserError] = DataError, hook: Hook | None = None
) -> T:
    """Decodes a JSON document into a value of type `kind`.

    where: the file or URL that errors name. error: the exception to raise if the document is not JSON, lacks a field or
    has a field of another type. hook: builds fields of types that msgspec does not know.
    """
    try:
        return msgspec.json.decode(data, type=kind, dec_hook=hook)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    # Again without types: the document shows the keys that msgspec does not name. And Python's json reads the NaN and
    # Infinity that it writes, which msgspec refuses.
    try:
        document: object = json.loads(data)
    except (ValueError, RecursionError) as problem:
        raise error(f"not JSON: {problem}", where=where) from problem
    return convert(document, kind, where, error=error, hook=hook)


def convert(
    value: object, kind: type[T], where: str, *, error: type[UserError] = DataError, hook: Hook | None = None
) -> T:
    """Like `decode`, for a document that is already parsed."""
    try:
        return msgspec.convert(value, kind, dec_hook=hook, str_keys=True)
    except msgspec.ValidationError as problem:
        found = _parsed(problem)
        path = _with_keys(copy.deepcopy(value), found.path, kind, hook) if None in found.path else found.path
        name = _path_text(path) or "the document"
        if found.is_of_key:
            name = f"the key {name}"
        elif path and found.text != _MISSING:
            name += f" is {repr(_at(value, path))[:_MOST_SHOWN]}"
        colon = "" if found.text == _MISSING else ":"
        raise error(f"{name}{colon} {found.text}", where=where) from problem


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """A problem that msgspec reports."""

    text: str
    path: _Path
    is_of_key: bool
    """The last key of the path is wrong, not the value there."""


def _parsed(problem: msgspec.ValidationError) -> _Problem:
    match = _FIELD.fullmatch(str(problem))
    assert match is not None
    words = match["problem"].replace("`", "")
    steps = re.findall(r"\.([^.\[\]]+)|\[(\d+)\]|(\[\.\.\.\])", match["path"] or "")
    path: _Path = tuple(name or (None if unnamed else int(number)) for name, number, unnamed in steps)
    if missing := re.fullmatch(r"Object missing required field (\w+)", words):
        return _Problem(text=_MISSING, path=(*path, missing[1]), is_of_key=False)
    is_of_key = match["key"] is not None
    return _Problem(text=words[:1].lower() + words[1:], path=(*path, None) if is_of_key else path, is_of_key=is_of_key)


def _with_keys(value: object, path: _Path, kind: type, hook: Hook | None) -> _Path:
    """Fills in the keys that msgspec does not name: each is the first key that fails when it is the only one.

    Changes the value.
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
                path = (*path[:at], key, *_parsed(problem).path[at + 1 :])
                break
        else:  # the entries fail only together
            return path[:at]
    return path


def _at(value: object, path: _Path) -> object:
    """The value at a path; None if there is none."""
    for step in path:
        match value, step:
            case dict(), str() if step in value:
                value = value[step]
            case list() | tuple(), int() if step < len(value):
                value = value[step]
            case _:
                return None
    return value


def _path_text(path: _Path) -> str:
    """The path as text: `splits.train.shards[0]`; keys with dots or brackets are quoted: `files['a.json']`."""
    text = ""
    for step in path:
        is_plain = isinstance(step, str) and not re.search(r"[.\[\]'\s]|^$", step)
        text += f".{step}" if is_plain else f"[{step!r}]"
    return text.removeprefix(".")
