"""How one run sees its data."""

from dataclasses import dataclass

from dist_seg.data.shards.manifest import Manifest
from dist_seg.storage.object_store import Storage


@dataclass(frozen=True, kw_only=True)
class RunData:
    """Packed data as a run reads it."""

    storage: Storage
    manifest: Manifest
    name: str | None = None
    """In a mix."""
