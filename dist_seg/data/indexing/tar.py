"""Reads one WebDataset tar that others wrote: finds, decodes and indexes its samples. The tar does not change."""

import hashlib
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.class_ids import check_class_id_png, checked_class_ids, decode_class_ids
from dist_seg.data.codecs.headers import MAX_PIXELS, UndecodableError
from dist_seg.data.codecs.png import value_counts
from dist_seg.data.packing.records import Refusal
from dist_seg.data.raw.images import check_image
from dist_seg.data.raw.listing import files_below
from dist_seg.data.shards.sidecar import Member, SampleEntry, crc32c
from dist_seg.data.shards.tar_headers import TarWalk, cut_name, member_fault
from dist_seg.errors import DataError, StorageError
from dist_seg.storage.files import path_errors

_CHUNK_BYTES = 4 * 2**20
_COMPRESSORS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Which files in a tar are images and masks, and which values the masks may have.

    Its `repr` is part of the tars' fingerprints: with other names or fields, every tar would be read again.
    """

    image_suffixes: tuple[str, ...] = ("jpg", "jpeg", "png")
    mask_suffix: str = "seg.png"
    num_classes: int = 0
    """0 allows any value in the masks."""
    ignore_index: int = 255
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True, kw_only=True)
class TarContents:
    """What was found in a tar."""

    num_bytes: int
    sha256: str
    entries: tuple[SampleEntry, ...]
    id_pixels: tuple[int, ...]
    """(256,): pixels of every mask value."""
    refusals: tuple[Refusal, ...]
    """Unusable samples."""


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A member of a sample."""

    suffix: str
    offset: int
    length: int


def read_tar(path: Path, where: str, reading: Reading, on_bytes: Callable[[int], None]) -> TarContents:
    """Read the whole tar, and decode every image and mask in it. `on_bytes` gets the number of bytes of each chunk.

    Raises `DataError` that names `where` for a tar that cannot be indexed in place: compressed, cut off, damaged, with
    links in it, or with files of a sample that are not next to each other.
    """
    with path_errors(path, "cannot be read", StorageError), path.open("rb") as file:
        sha256, size, samples = _walk(file, where, on_bytes)
        pixels = np.zeros(256, np.int64)
        entries: list[SampleEntry] = []
        refusals: list[Refusal] = []
        for key, members in samples.items():
            try:
                entry, counts = _checked(file, f"{where}: {key}", key, members, reading)
            except DataError as error:
                refusals.append(Refusal(key=key, reason=str(error)))
            else:
                entries.append(entry)
                pixels += counts
    return TarContents(
        num_bytes=size,
        sha256=sha256,
        entries=tuple(entries),
        id_pixels=tuple(pixels.tolist()),
        refusals=tuple(refusals),
    )


def _walk(file: BinaryIO, where: str, on_bytes: Callable[[int], None]) -> tuple[str, int, dict[str, list[_Found]]]:
    """Hash and size of the file, and the members of each sample by key."""
    samples: dict[str, list[_Found]] = {}
    last: list[str] = []

    def on_member(member: tarfile.TarInfo, begin: int) -> str | None:
        if fault := member_fault(member, folders=True):
            return f"has a member {member.name!r} {fault}"
        cut = cut_name(member.name)
        if member.isdir() or cut is None:
            return None
        key, suffix = cut
        if key in samples and last != [key]:
            return (
                f"has a member {member.name!r} apart from the others of its sample, where loaders do not find it; "
                "write the tar again with its members sorted by name (tar --sort=name)"
            )
        last[:] = [key]
        samples.setdefault(key, []).append(_Found(suffix=suffix, offset=begin, length=member.size))
        return None

    walk, digest, offset = TarWalk(on_member, extended=True), hashlib.sha256(), 0
    while chunk := file.read(_CHUNK_BYTES):
        if offset == 0:
            _refuse_compressed(chunk, where)
        digest.update(chunk)
        walk.feed(offset, chunk)
        if walk.problem is not None:
            raise DataError(f"{where}: {walk.problem}")
        if walk.ended and any(chunk[max(walk.position - offset, 0) :]):
            raise DataError(
                f"{where}: continues after its end mark (are these two tars joined?), but loaders stop reading there; "
                "write it again with tar"
            )
        offset += len(chunk)
        on_bytes(len(chunk))
    if not walk.ended:
        raise DataError(f"{where}: has no end mark: it is cut off, or still being written")
    return digest.hexdigest(), offset, samples


def _refuse_compressed(begin: bytes, where: str) -> None:
    for magic, compressor in _COMPRESSORS.items():
        if begin.startswith(magic):
            raise DataError(
                f"{where}: is compressed with {compressor}, so samples cannot be read at random; decompress "
                f"it ({compressor} -d) to a plain tar"
            )


def _checked(
    file: BinaryIO, where: str, key: str, members: Sequence[_Found], reading: Reading
) -> tuple[SampleEntry, NDArray[np.int64]]:
    """The sample's entry in the index, and (256,) pixels of every value in its mask."""
    image, mask = _chosen(where, members, reading)
    image_data, mask_data = (_bytes_of(file, member) for member in (image, mask))
    checked = check_image(image_data, f"{where}.{image.suffix}", reading.max_pixels)
    if checked.data != image_data:
        raise DataError(
            f"{where}.{image.suffix}: cannot be used in place (an EXIF orientation, 16 bits, a palette, an alpha "
            "channel, another format or a damaged file); `dist-seg pack` would convert it"
        )
    try:
        check_class_id_png(mask_data, checked.height, checked.width)
        ids = decode_class_ids(mask_data)
    except UndecodableError as error:
        raise DataError(error.reason, where=f"{where}.{mask.suffix}") from error
    if reading.num_classes:
        checked_class_ids(ids, f"{where}.{mask.suffix}", reading.num_classes, reading.ignore_index)
    found = tuple(
        Member(offset=member.offset, length=member.length, crc32c=crc32c(data), suffix=member.suffix)
        for member, data in ((image, image_data), (mask, mask_data))
    )
    counts = value_counts(ids)
    classes = tuple(int(number) for number in np.flatnonzero(counts) if number not in (reading.ignore_index, 255))
    entry = SampleEntry(key=key, height=checked.height, width=checked.width, members=found, classes=classes)
    return entry, counts


def _chosen(where: str, members: Sequence[_Found], reading: Reading) -> tuple[_Found, _Found]:
    """The image and the mask of a sample. The case of suffixes does not matter, as in loaders."""
    mask_suffix = reading.mask_suffix.lower()
    masks = [member for member in members if member.suffix.lower() == mask_suffix]
    images = [
        member
        for member in members
        if member.suffix.lower() in reading.image_suffixes and member.suffix.lower() != mask_suffix
    ]
    wanted = ((images, "image", reading.image_suffixes), (masks, "mask", (reading.mask_suffix,)))
    for found, what, suffixes in wanted:
        if len(found) != 1:
            has = ", ".join(member.suffix for member in members)
            raise DataError(
                f"{where}: has {'no' if not found else len(found)} {what}{'s' * (len(found) > 1)} "
                f"(.{', .'.join(suffixes)}) among its members {has}; say which it is (--{what}-suffix)"
            )
    return images[0], masks[0]


def _bytes_of(file: BinaryIO, member: _Found) -> bytes:
    file.seek(member.offset)
    return file.read(member.length)


def tar_files(root: Path) -> Iterator[Path]:
    """The tars under a folder without hidden ones. Links to folders are followed once.

    Raises `DataError` for a compressed one.
    """
    for path in files_below(root):
        if ".tar" not in path.name or not path.is_file():
            continue
        if path.name.endswith(".tar"):
            yield path
        elif path.suffix in (".gz", ".bz2", ".xz", ".zst"):
            raise DataError(f"{path}: is compressed, so samples cannot be read at random; decompress it to a plain tar")
