"""Checksums of a checkpoint's files: they tell damage, and are no protection against those who mean harm.

A checkpoint is written on the cores that train, so its checksums must cost next to nothing: XXH3 takes a ninth of what
SHA-256 takes with the processor's own instructions for it.
"""

import hashlib
from typing import Protocol

import xxhash


class _Hash(Protocol):
    def update(self, content: bytes | bytearray | memoryview, /) -> object: ...
    def hexdigest(self) -> str: ...


class Checksum:
    """Of all that it has been given; of the kind that is written now, or of that of a text in `checksums.json`."""

    _PREFIX = "xxh3_128:"

    def __init__(self, like: str = _PREFIX) -> None:
        # Without a prefix it is SHA-256, as checkpoints had it before.
        self._prefix = self._PREFIX if like.startswith(self._PREFIX) else ""
        self._hash: _Hash = xxhash.xxh3_128() if self._prefix else hashlib.sha256()

    def update(self, content: bytes | bytearray | memoryview) -> None:
        self._hash.update(content)

    @property
    def text(self) -> str:
        """As it stands in `checksums.json`."""
        return self._prefix + self._hash.hexdigest()
