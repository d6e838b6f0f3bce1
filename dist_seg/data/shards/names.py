"""The names of files and samples in a packed data set."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

RECORD_NAME = "pack.json"
"""In a finished data set: the record of every shard, for a later run."""
INDEX_RECORD_NAME = "index.dist-seg.json"
"""The same of tars that others wrote and that were indexed. `index.json` is the list of shards of WebDataset's wids."""
_MAX_KEY_BYTES = 90  # a tar's header has 100 bytes for a name, of which ".seg.png" takes 8
_NOT_IN_KEYS = re.compile(r"[^\w+=@,()-]")
MANIFEST_NAME = "manifest.json"
SPLIT_NAME = re.compile(r"\w[\w-]*", re.ASCII)


def shard_name(split: str, number: int) -> str:
    """Such as `train-000000.tar`."""
    return f"{split}-{number:06d}.tar"


def next_number(split: str, names: Iterable[str]) -> int:
    """The first number that no shard of the split among the names has, nor any after it."""
    pattern = re.compile(re.escape(split) + r"-(\d+)\.tar")
    return max((int(match.group(1)) + 1 for name in names if (match := pattern.fullmatch(name))), default=0)


def shard_key(key: str) -> str:
    """The key as it stands in a shard: no dot (WebDataset cuts there), blank or slash, and at most 90 bytes.

    Slashes become `__`, every other character that is no letter, digit or one of `_+=@,()-` becomes `_`.
    """
    escaped = _NOT_IN_KEYS.sub("_", unicodedata.normalize("NFC", key).replace("/", "__"))
    if len(escaped.encode()) <= _MAX_KEY_BYTES:
        return escaped
    digest = hashlib.sha256(escaped.encode()).hexdigest()[:16]
    return escaped.encode()[: _MAX_KEY_BYTES - 17].decode(errors="ignore") + "-" + digest
