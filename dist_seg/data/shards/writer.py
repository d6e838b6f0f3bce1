"""Writes a shard: a plain WebDataset tar with DALI's index and our sidecar, under temporary names until whole."""

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dist_seg.data.shards.counts import Counts
from dist_seg.data.shards.manifest import ShardInfo
from dist_seg.data.shards.sidecar import SEMANTIC_ROLES, Member, SampleEntry, Sidecar, crc32c
from dist_seg.storage.files import atomic_write

_BLOCK = tarfile.BLOCKSIZE
_DALI_INDEX_VERSION = "v1.2"  # the format of DALI's own wds2idx


@dataclass(frozen=True, kw_only=True)
class EncodedMembers:
    """A sample that is ready to be written. The image is `jpg`, `png` or `npy`. Instance data has annotations."""

    key: str
    height: int
    width: int
    image: bytes
    image_suffix: str
    target: bytes
    annotations: bytes | None = None
    target_suffix: str = "seg.png"
    """`multi.png` for layers of labels. Ignored for instance data, where it is always `inst.png`."""
    classes: tuple[int, ...] = ()
    """Classes in the mask, or of the objects without crowds."""

    @property
    def members(self) -> tuple[tuple[str, bytes], ...]:
        """Suffix and contents of each member, in the order of the roles."""
        image = (self.image_suffix, self.image)
        if self.annotations is None:
            return image, (self.target_suffix, self.target)
        return image, ("inst.png", self.target), ("json", self.annotations)


class ShardWriter:
    """Writes one tar, sample by sample. The same samples give the same bytes: no times, owners or host names.

    Used through `write_shard`.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._position = 0
        self.entries: list[SampleEntry] = []

    def add(self, sample: EncodedMembers) -> None:
        """Append `KEY.jpg`, `KEY.png` or `KEY.npy`, then `KEY.seg.png`, `KEY.multi.png`, or `KEY.inst.png` and
        `KEY.json`."""
        members = tuple(self._member(sample.key, suffix, data) for suffix, data in sample.members)
        self.entries.append(
            SampleEntry(
                key=sample.key, height=sample.height, width=sample.width, members=members, classes=sample.classes
            )
        )

    def _member(self, key: str, suffix: str, data: bytes) -> Member:
        header = tarfile.TarInfo(f"{key}.{suffix}")
        header.size, header.mode = len(data), 0o644
        self._write(header.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict"))
        member = Member(offset=self._position, length=len(data), crc32c=crc32c(data), suffix=suffix)
        self._write(data)
        self._write(b"\0" * (-len(data) % _BLOCK))
        return member

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._position += len(data)

    def finish(self, name: str, index_sha256: str, sidecar_sha256: str, class_samples: tuple[int, ...]) -> ShardInfo:
        """End the tar and describe it. class_samples: empty if the classes of samples are not recorded."""
        self._write(b"\0" * (2 * _BLOCK))
        self._write(b"\0" * (-self._position % tarfile.RECORDSIZE))
        return ShardInfo(
            name=name,
            bytes=self._position,
            sha256=self._hash.hexdigest(),
            samples=len(self.entries),
            index_sha256=index_sha256,
            sidecar_sha256=sidecar_sha256,
            class_samples=Counts(class_samples) if class_samples else None,
        )


def write_shard(
    folder: Path,
    name: str,
    samples: Iterator[EncodedMembers],
    roles: tuple[str, ...] = SEMANTIC_ROLES,
    num_classes: int = 0,
) -> ShardInfo:
    """Write `name` (`train-000000.tar`) and its two indexes into `folder`, the tar last to appear.

    num_classes: 0 does not record which classes samples hold. If `samples` raises, nothing is left under the final
    names.
    """
    path = folder / name
    with atomic_write(path) as file:
        writer = ShardWriter(file)
        for sample in samples:
            writer.add(sample)
        index, listing = dali_index(writer.entries), Sidecar.of(writer.entries, roles, num_classes)
        sidecar = listing.to_bytes()
        hashes = hashlib.sha256(index).hexdigest(), hashlib.sha256(sidecar).hexdigest()
        info = writer.finish(name, *hashes, listing.class_samples)
        for beside, data in ((info.index_name, index), (info.sidecar_name, sidecar)):
            with atomic_write(folder / beside) as beside_file:
                beside_file.write(data)
    return info


def dali_index(entries: Sequence[SampleEntry]) -> bytes:
    """What DALI's `wds2idx` writes for the tar: a line per sample with suffix, offset, length and file name."""
    lines = [f"{_DALI_INDEX_VERSION} {len(entries)}"]
    for entry in entries:
        lines.append(" ".join(f"{m.suffix} {m.offset} {m.length} {entry.key}.{m.suffix}" for m in entry.members))
    return ("\n".join(lines) + "\n").encode()
