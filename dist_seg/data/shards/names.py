"""The names of files and samples in a packed data set."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

RECORD_NAME = "pack.json"
"""In a finished data set: the records of all shards, for later runs of packing."""
INDEX_RECORD_NAME = "index.dist-seg.json"
"""The same for indexed tars that others wrote. (`index.json` is the shard list of WebDataset's wids.)"""
_MAX_KEY_BYTES = 90  # a tar's header has 100 bytes for a name, of which ".seg.png" takes 8
_NOT_IN_KEYS = re.compile(r"[^\w+=@,()-]")
MANIFEST_NAME = "manifest.json"
SPLIT_NAME = re.compile(r"\w[\w-]*", re.ASCII)


def shard_name(split: str, number: int) -> str:
    """A name such as `train-000000.tar`."""
    return f"{split}-{number:06d}.tar"


def next_number(split: str, names: Iterable[str]) -> int:
    """One more than the largest number of the split's shards among these names."""
    pattern = re.compile(re.escape(split) + r"-(\d+)\.tar")
    return max((int(match.group(1)) + 1 for name in names if (match := pattern.fullmatch(name))), default=0)


def shard_key(key: str) -> str:
    """The key as it is in a shard: without dots (WebDataset cuts there), blanks and slashes, and at most 90 bytes.

    Slashes become `__`. Every other character that is not a letter, a digit or one of `_+=@,()-` becomes `_`.
    """
    escaped = _NOT_IN_KEYS.sub("_", unicodedata.normalize("NFC", key).replace("/", "__"))
    if len(escaped.encode()) <= _MAX_KEY_BYTES:
        return escaped
    digest = hashlib.sha256(escaped.encode()).hexdigest()[:16]
    return escaped.encode()[: _MAX_KEY_BYTES - 17].decode(errors="ignore") + "-" + digest
