"""The sidecar, a binary index beside a shard: where each sample's members are, their crc32c, image size, and key.

Layout, little-endian: magic (8 bytes), length of the header (uint32), header (JSON: version, samples, roles, suffixes,
key_bytes), one record per sample (`_record_dtype`), the keys in UTF-8 one after another, crc32c of all bytes before it
(uint32). It takes about 50 bytes per sample plus the key, in the file and in memory. From version 2 on the header also
has `classes`, the number of classes, and before the checksum there is one bit per sample and class, padded to whole
bytes per sample: whether the sample holds the class.
"""

import json
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from dist_seg.errors import DataError
from dist_seg.runtime.documents import decode

VERSION = 2
READABLE_VERSIONS = (1, 2)
"""A sidecar without the bits of classes is still written as version 1."""
SEMANTIC_ROLES = ("image", "target")
INSTANCE_ROLES = ("image", "target", "annotations")
_MAGIC = b"DSEGIDX\n"
# Packed shards have jpg, png, npy, seg.png, multi.png, inst.png and json. Other tools' tars have their own suffixes.
SUFFIX = re.compile(r"[\w+-]{1,60}(\.[\w+-]{1,60}){0,4}", re.ASCII)
# Keys become file names: nothing in them may lead out of a folder, end a name or cut off a suffix.
_NOT_IN_KEYS = re.compile(rb"[\x00-\x1f\x7f/\\.]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One file of a sample, inside the tar of its shard."""

    offset: int
    """Position of its first byte in the tar."""
    length: int
    crc32c: int
    suffix: str
    """What follows the key and the dot, such as `jpg` or `seg.png`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleEntry:
    """What the sidecar says about one sample. `members` are in the order of the roles."""

    key: str
    height: int
    width: int
    members: tuple[Member, ...]
    classes: tuple[int, ...] = ()
    """Classes that the sample holds."""


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), as an unsigned 32-bit number."""
    return int(google_crc32c.value(data))


class Sidecar:
    """A parsed sidecar. Values are unpacked only on access."""

    def __init__(
        self,
        *,
        roles: tuple[str, ...],
        suffixes: tuple[str, ...],
        records: NDArray[np.void],
        keys: bytes,
        num_classes: int,
        classes: NDArray[np.uint8],
    ):
        """num_classes: 0 if the classes of samples are not known. classes: their bits, (samples, bytes)."""
        self.roles = roles
        self.num_classes = num_classes
        self._classes = classes
        self._suffixes = suffixes
        self._records = records
        self._keys = keys

    @classmethod
    def of(cls, entries: Sequence[SampleEntry], roles: tuple[str, ...] = SEMANTIC_ROLES, num_classes: int = 0) -> Self:
        """The sidecar of a shard with these samples in this order. num_classes: 0 leaves the classes out."""
        suffixes = tuple(sorted({member.suffix for entry in entries for member in entry.members}))
        records = np.zeros(len(entries), _record_dtype(len(roles)))
        keys = bytearray()
        for record, entry in zip(records, entries, strict=True):
            assert len(entry.members) == len(roles)
            encoded = entry.key.encode()
            record["height"], record["width"] = entry.height, entry.width
            record["key_offset"], record["key_length"] = len(keys), len(encoded)
            for at, member in zip(record["members"], entry.members, strict=True):
                at["offset"], at["length"], at["crc32c"] = member.offset, member.length, member.crc32c
                at["suffix"] = suffixes.index(member.suffix)
            keys += encoded
        held = np.zeros((len(entries), num_classes), np.bool_)
        for row, entry in zip(held, entries, strict=True):
            row[list(entry.classes) if num_classes else []] = True
        classes = np.packbits(held, axis=1, bitorder="little")
        return cls(
            roles=roles, suffixes=suffixes, records=records, keys=bytes(keys), num_classes=num_classes, classes=classes
        )

    def with_classes(self, num_classes: int) -> Self:
        """The same sidecar with bits for this number of classes. No sample may hold a class above."""
        bits = np.zeros((self.num_samples, -(-num_classes // 8)), np.uint8)
        width = min(bits.shape[1], self._classes.shape[1])
        bits[:, :width] = self._classes[:, :width]
        return type(self)(
            roles=self.roles,
            suffixes=self._suffixes,
            records=self._records,
            keys=self._keys,
            num_classes=num_classes,
            classes=bits,
        )

    @classmethod
    def parse(cls, data: bytes, where: str = "sidecar") -> Self:
        """Parse what `to_bytes` wrote. Raises `DataError` that names `where` for anything else, also for damage."""
        if len(data) < len(_MAGIC) + 8 or not data.startswith(_MAGIC):
            raise DataError("not an index of dist-seg; pack the data set again", where=where)
        if crc32c(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
            raise DataError("damaged (its checksum is wrong); copy or pack it again", where=where)
        (header_length,) = struct.unpack_from("<I", data, len(_MAGIC))
        start = len(_MAGIC) + 4 + header_length
        header = _header(data[len(_MAGIC) + 4 : start], where)
        samples, num_classes = header.samples, header.classes if header.version == VERSION else 0
        size, class_bytes = samples * _record_dtype(len(header.roles)).itemsize, -(-num_classes // 8)
        keys_end = start + size + header.key_bytes
        if min(samples, header.key_bytes, num_classes) < 0 or keys_end + samples * class_bytes + 4 != len(data):
            raise DataError(f"says that it lists {samples} samples, which is not its length; pack again", where=where)
        records = np.frombuffer(data, _record_dtype(len(header.roles)), samples, start)
        classes = np.frombuffer(data, np.uint8, samples * class_bytes, keys_end).reshape(samples, class_bytes)
        return cls(
            roles=header.roles,
            suffixes=header.suffixes,
            records=records,
            keys=data[start + size : keys_end],
            num_classes=num_classes,
            classes=classes,
        )

    def check(self, samples: int, shard_bytes: int, where: str, class_samples: Sequence[int] | None = None) -> None:
        """Raises DataError unless this can be the sidecar of a shard with these numbers of samples and bytes.

        Also refuses sidecars that are made to do harm. class_samples: the manifest's number of samples that hold each
        class, if it has one.
        """
        if self.num_samples != samples:
            raise DataError(f"lists {self.num_samples} samples, the manifest says {samples}", where=where)
        if class_samples is not None and self.class_samples != tuple(class_samples):
            raise DataError(
                f"samples that hold each class: {list(self.class_samples) or 'not listed'}, the manifest says "
                f"{list(class_samples)}",
                where=where,
            )
        members = self._records["members"]
        ends = members["offset"].astype(np.float64) + members["length"]  # uint64 could wrap around
        if samples and (float(ends.max()) > shard_bytes or int(members["suffix"].max()) >= len(self._suffixes)):
            raise DataError(f"lists members outside the shard's {shard_bytes} bytes", where=where)
        lengths = self._records["key_length"].astype(np.int64)
        begins = np.cumsum(lengths) - lengths
        letters = np.frombuffer(self._keys, np.uint8)
        if (
            int(lengths.sum()) != len(letters)
            or not np.array_equal(begins, self._records["key_offset"])
            or (samples and (int(lengths.min()) == 0 or bool(np.any((letters[begins] & 0xC0) == 0x80))))
        ):
            raise DataError("its keys do not lie one after another", where=where)
        try:
            self._keys.decode()
        except UnicodeDecodeError as error:
            raise DataError("its keys are not UTF-8", where=where) from error
        if found := _NOT_IN_KEYS.search(self._keys):
            index = int(np.searchsorted(begins, found.start(), side="right")) - 1
            raise DataError(
                f"key {self.key(index)!r} has a character that keys must not have: slashes, backslashes, dots "
                "and control characters",
                where=where,
            )

    def to_bytes(self) -> bytes:
        fields: dict[str, object] = {
            "version": VERSION if self.num_classes else 1,
            "samples": self.num_samples,
            "roles": self.roles,
            "suffixes": self._suffixes,
            "key_bytes": len(self._keys),
        }
        if self.num_classes:
            fields["classes"] = self.num_classes
        header = json.dumps(fields, sort_keys=True).encode()
        body = _MAGIC + struct.pack("<I", len(header)) + header + self._records.tobytes() + self._keys
        body += self._classes.tobytes()
        return body + struct.pack("<I", crc32c(body))

    @property
    def num_samples(self) -> int:
        return len(self._records)

    @property
    def num_bytes(self) -> int:
        """Approximate memory that it takes: the records are a view of the whole file, the keys a copy."""
        return self._records.nbytes + 2 * len(self._keys) + self._classes.nbytes

    @property
    def class_samples(self) -> tuple[int, ...]:
        """The number of samples that hold each of `num_classes` classes."""
        return tuple(self.held([class_id]).sum().item() for class_id in range(self.num_classes))

    def held(self, class_ids: Sequence[int]) -> NDArray[np.bool_]:
        """(num_samples,): whether each sample holds any of these classes. Unknown classes are in no sample."""
        found = np.zeros(self.num_samples, np.bool_)
        for class_id in class_ids:
            if class_id >= self.num_classes:
                continue
            found |= (self._classes[:, class_id // 8] >> (class_id % 8) & 1).astype(np.bool_)
        return found

    def classes(self, index: int) -> tuple[int, ...]:
        """The classes that a sample holds."""
        bits = np.unpackbits(self._classes[index], bitorder="little", count=self.num_classes)
        return tuple(np.flatnonzero(bits).tolist())

    @property
    def heights(self) -> NDArray[np.uint32]:
        """(num_samples,) uint32."""
        heights: NDArray[np.uint32] = self._records["height"]
        return heights

    @property
    def widths(self) -> NDArray[np.uint32]:
        """(num_samples,) uint32."""
        widths: NDArray[np.uint32] = self._records["width"]
        return widths

    def key(self, index: int) -> str:
        start = int(self._records["key_offset"][index])
        return self._keys[start : start + int(self._records["key_length"][index])].decode()

    def keys(self) -> list[str]:
        return [self.key(i) for i in range(self.num_samples)]

    def height(self, index: int) -> int:
        return int(self._records["height"][index])

    def width(self, index: int) -> int:
        return int(self._records["width"][index])

    def member(self, index: int, role: str) -> Member:
        """Where a member of the sample is. `role` is one of `roles`."""
        at = self._records["members"][index][self.roles.index(role)]
        return Member(
            offset=int(at["offset"]),
            length=int(at["length"]),
            crc32c=int(at["crc32c"]),
            suffix=self._suffixes[int(at["suffix"])],
        )


@dataclass(frozen=True, kw_only=True)
class _Header:
    """The JSON header of a sidecar."""

    version: int
    samples: int
    roles: tuple[str, ...]
    suffixes: tuple[str, ...]
    key_bytes: int
    classes: int = 0
    """Number of classes, from version 2 on."""


def _header(data: bytes, where: str) -> _Header:
    try:
        header = decode(data, _Header, "its header")
    except DataError as error:
        raise DataError(f"not an index of dist-seg ({error})", where=where) from error
    if header.version not in READABLE_VERSIONS:
        known = " and ".join(map(str, READABLE_VERSIONS))
        raise DataError(f"format version {header.version}, this version of dist-seg reads {known}", where=where)
    roles, suffixes = header.roles, header.suffixes
    if roles not in (SEMANTIC_ROLES, INSTANCE_ROLES) or not all(map(SUFFIX.fullmatch, suffixes)):
        raise DataError(f"lists members {roles} with suffixes {suffixes}; pack the data set again", where=where)
    return header


def _record_dtype(num_roles: int) -> np.dtype[np.void]:
    member = [("offset", "<u8"), ("length", "<u4"), ("crc32c", "<u4"), ("suffix", "u1")]
    return np.dtype(
        [
            ("height", "<u4"),
            ("width", "<u4"),
            ("key_offset", "<u4"),
            ("key_length", "<u2"),
            ("members", member, (num_roles,)),
        ]
    )
