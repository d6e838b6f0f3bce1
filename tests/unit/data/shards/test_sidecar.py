"""The binary index of a shard: what goes in comes out, and damage is noticed."""

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_seg.data.shards.sidecar import Member, SampleEntry, Sidecar, crc32c
from dist_seg.errors import DataError

_members = st.builds(
    Member,
    offset=st.integers(0, 2**50),
    length=st.integers(0, 2**32 - 1),
    crc32c=st.integers(0, 2**32 - 1),
    suffix=st.sampled_from(["jpg", "png", "seg.png"]),
)
_entries = st.builds(
    SampleEntry,
    key=st.text(max_size=90),
    height=st.integers(1, 2**32 - 1),
    width=st.integers(1, 2**32 - 1),
    members=st.tuples(_members, _members),
)


@given(st.lists(_entries, max_size=20))
def test_every_entry_survives(entries: list[SampleEntry]) -> None:
    sidecar = Sidecar.parse(Sidecar.of(entries).to_bytes())
    assert sidecar.num_samples == len(entries)
    assert sidecar.keys() == [entry.key for entry in entries]
    for i, entry in enumerate(entries):
        assert (sidecar.height(i), sidecar.width(i)) == (entry.height, entry.width)
        assert (sidecar.member(i, "image"), sidecar.member(i, "target")) == entry.members


def _bytes() -> bytes:
    member = Member(offset=512, length=7, crc32c=1, suffix="jpg")
    return Sidecar.of([SampleEntry(key="a", height=2, width=3, members=(member, member))]).to_bytes()


@given(st.integers(0, len(_bytes()) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(position: int, change: int) -> None:
    data = bytearray(_bytes())
    data[position] ^= change
    with pytest.raises(DataError, match=r"x\.samples"):
        Sidecar.parse(bytes(data), "x.samples")


@given(st.integers(0, len(_bytes()) - 1))
def test_a_truncated_index_is_refused(length: int) -> None:
    with pytest.raises(DataError, match=r"x\.samples"):
        Sidecar.parse(_bytes()[:length], "x.samples")


def test_the_checksum_is_crc32c() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of the CRC catalogue
    assert google_crc32c.implementation == "c", "the pure Python fallback reads a few MB/s"


def test_about_fifty_bytes_a_sample() -> None:
    member = Member(offset=512, length=7, crc32c=1, suffix="jpg")
    entries = [SampleEntry(key=f"{i:08d}", height=2, width=3, members=(member, member)) for i in range(1000)]
    assert len(Sidecar.of(entries).to_bytes()) < 60 * 1000
