"""Checksums of a checkpoint's files. They detect damage; they do not protect against an attacker.

A checkpoint is written on the cores that train, so its checksums must cost next to nothing: XXH3 takes a ninth of the
time of SHA-256 with the processor's own instructions for it.
"""

import hashlib
from typing import Protocol

import xxhash


class _Hash(Protocol):
    def update(self, content: bytes | bytearray | memoryview, /) -> object: ...
    def hexdigest(self) -> str: ...


class Checksum:
    """The checksum of all bytes given to `update`: XXH3, or of the kind of a text in `checksums.json`."""

    _PREFIX = "xxh3_128:"

    def __init__(self, like: str = _PREFIX) -> None:
        # A text without a prefix is SHA-256, from an earlier version.
        self._prefix = self._PREFIX if like.startswith(self._PREFIX) else ""
        self._hash: _Hash = xxhash.xxh3_128() if self._prefix else hashlib.sha256()

    def update(self, content: bytes | bytearray | memoryview) -> None:
        self._hash.update(content)

    @property
    def text(self) -> str:
        """As written in `checksums.json`."""
        return self._prefix + self._hash.hexdigest()
