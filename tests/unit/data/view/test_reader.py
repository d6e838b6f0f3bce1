import hashlib
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from dist_seg.data.shards.bad_shards import BadShardError
from dist_seg.data.shards.sidecar import Member, SampleEntry, Sidecar, crc32c
from dist_seg.data.shards.writer import EncodedMembers
from dist_seg.data.view import reader as reader_module
from dist_seg.data.view.data_view import whole_view
from dist_seg.data.view.reader import BadSampleError, ShardReader
from dist_seg.errors import DataError, StorageError
from dist_seg.storage.object_store import LocalStorage
from tests.loader_cases import PackedData, scene_sample, write_dataset

SAMPLES = [scene_sample(i, form="png" if i % 2 else "jpeg420") for i in range(7)]


@pytest.fixture
def data(tmp_path: Path) -> PackedData:
    """7 samples, 5 in the first shard."""
    return write_dataset(tmp_path, SAMPLES, per_shard=5)


class FaultyStorage(LocalStorage):
    """Damages the first ranges and the first indexes that are read, or refuses to read."""

    def __init__(self, root: str, *, faults: int = 0, refuses: bool = False, index_faults: int = 0) -> None:
        super().__init__(root)
        self.index_faults = index_faults
        self.faults, self.refuses, self.reads, self.indexes_read = faults, refuses, 0, 0

    def read(self, name: str) -> bytes:
        self.indexes_read += 1
        contents = super().read(name)
        return contents[:-1] if self.indexes_read <= self.index_faults else contents

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        self.reads += 1
        if self.refuses:
            raise StorageError(f"{name}: the disk is gone")
        contents = super().read_range(name, offset, length)
        return contents[:50] + bytes([contents[50] ^ 1]) + contents[51:] if self.reads <= self.faults else contents


def _reader(data: PackedData, storage: LocalStorage | None = None) -> ShardReader:
    return ShardReader(whole_view(storage or data.storage, data.manifest), "train")


def test_a_sample_comes_as_it_was_packed(data: PackedData) -> None:
    sample = _reader(data).read(1, 1)
    assert (sample.key, sample.image, sample.target) == (SAMPLES[6].key, SAMPLES[6].image, SAMPLES[6].target)
    assert (sample.height, sample.width) == (120, 150)


def test_info_reads_no_shard(data: PackedData) -> None:
    storage = FaultyStorage(data.storage.url, refuses=True)
    info = _reader(data, storage).info(0, 2)
    assert (info.key, info.height, info.width) == (SAMPLES[2].key, 120, 150)


def test_image_and_mask_are_read_at_once(data: PackedData) -> None:
    storage = FaultyStorage(data.storage.url)
    _reader(data, storage).read(0, 0)
    assert storage.reads == 1


def test_members_that_lie_far_apart_are_read_one_by_one(tmp_path: Path) -> None:
    data = write_dataset(tmp_path, SAMPLES[:1])
    (tar,) = tmp_path.glob("*.tar")
    image, target = SAMPLES[0].image, SAMPLES[0].target
    tar.write_bytes(image + bytes(100_000) + target)
    places = ((0, image, "jpg"), (len(image) + 100_000, target, "seg.png"))
    members = tuple(Member(offset=at, length=len(d), crc32c=crc32c(d), suffix=suffix) for at, d, suffix in places)
    sidecar = Sidecar.of([SampleEntry(key="k", height=120, width=150, members=members)])
    index = sidecar.to_bytes()
    tar.with_suffix(".samples").write_bytes(index)
    packed = data.manifest.split("train")
    shard = replace(packed.shards[0], bytes=tar.stat().st_size, sidecar_sha256=hashlib.sha256(index).hexdigest())
    manifest = replace(data.manifest, splits={"train": replace(packed, shards=(shard,))})
    storage = FaultyStorage(data.storage.url)
    sample = ShardReader(whole_view(storage, manifest), "train").read(0, 0)
    assert (sample.image, sample.target) == (image, target)
    assert storage.reads == 2


@pytest.fixture
def many_shards(tmp_path: Path) -> PackedData:
    """150 shards of one sample."""
    sample = scene_sample(0, height=8, width=8)
    return write_dataset(tmp_path, [replace(sample, key=f"k{i}") for i in range(150)], per_shard=1)


def test_the_indexes_of_many_small_shards_are_read_once(many_shards: PackedData) -> None:
    storage = FaultyStorage(many_shards.storage.url)
    reader = _reader(many_shards, storage)
    for shard in [*range(150), *range(150)]:
        reader.info(shard, 0)
    assert storage.indexes_read == 150


def test_indexes_beyond_the_limit_are_dropped_the_longest_unused_first(
    many_shards: PackedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = Sidecar.parse(many_shards.storage.read("train-000010.samples")).num_bytes
    monkeypatch.setattr(reader_module, "MAX_SIDECAR_BYTES", 3 * size)
    storage = FaultyStorage(many_shards.storage.url)
    reader = _reader(many_shards, storage)
    for shard in (10, 11, 12, 10, 13):  # 11 has to go
        reader.info(shard, 0)
    assert storage.indexes_read == 4
    for shard in (10, 12, 13):
        reader.info(shard, 0)
    assert storage.indexes_read == 4
    reader.info(11, 0)
    assert storage.indexes_read == 5


def test_an_index_larger_than_the_limit_is_kept_while_it_is_read(
    data: PackedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "MAX_SIDECAR_BYTES", 1)
    storage = FaultyStorage(data.storage.url)
    reader = _reader(data, storage)
    for index in range(5):
        reader.info(0, index)
    assert storage.indexes_read == 1


def test_a_checksum_that_is_wrong_once_is_read_again(data: PackedData) -> None:
    storage = FaultyStorage(data.storage.url, faults=1)
    assert _reader(data, storage).read(0, 3).image == SAMPLES[3].image
    assert storage.reads == 2


def test_a_checksum_that_stays_wrong_makes_a_bad_sample_with_name_and_shard(data: PackedData) -> None:
    storage = FaultyStorage(data.storage.url, faults=2)
    with pytest.raises(
        BadSampleError, match=r"train-000000\.tar: sample png-0003: png: its checksum is wrong"
    ) as raised:
        _reader(data, storage).read(0, 3)
    assert (raised.value.bad.key, raised.value.bad.shard) == ("png-0003", "train-000000.tar")


def test_a_storage_error_is_no_bad_sample(data: PackedData) -> None:
    with pytest.raises(StorageError, match="the disk is gone"):
        _reader(data, FaultyStorage(data.storage.url, refuses=True)).read(0, 0)


def test_an_image_that_is_not_of_the_indexed_size_is_bad(tmp_path: Path) -> None:
    image = SAMPLES[0]
    wrong = EncodedMembers(key="k", height=120, width=151, image=image.image, image_suffix="jpg", target=image.target)
    with pytest.raises(BadSampleError, match="image: 150x120 pixels, its index says 151x120"):
        _reader(write_dataset(tmp_path, [wrong])).read(0, 0)


def test_an_index_of_another_shard_makes_a_bad_shard(data: PackedData, tmp_path: Path) -> None:
    (tmp_path / "train-000000.samples").write_bytes((tmp_path / "train-000001.samples").read_bytes())
    with pytest.raises(BadShardError, match=r"train-000000\.samples differs from what was packed") as raised:
        _reader(data).read(0, 0)
    assert raised.value.shard == "train-000000.tar"


def test_an_index_that_is_read_wrongly_once_is_read_again(data: PackedData) -> None:
    storage = FaultyStorage(data.storage.url, index_faults=1)
    assert _reader(data, storage).read(0, 3).image == SAMPLES[3].image
    assert storage.indexes_read == 2


def test_a_shard_without_its_index_is_bad(data: PackedData, tmp_path: Path) -> None:
    (tmp_path / "train-000000.samples").unlink()
    with pytest.raises(BadShardError, match=r"its index train-000000\.samples is missing"):
        _reader(data).read(0, 0)


def test_a_shard_that_is_gone_is_bad(data: PackedData, tmp_path: Path) -> None:
    (tmp_path / "train-000001.tar").unlink()
    with pytest.raises(BadShardError, match=r"^train-000001\.tar: no such file$"):
        _reader(data).read(1, 0)


def test_a_shard_that_ends_before_the_sample_is_bad(data: PackedData, tmp_path: Path) -> None:
    os.truncate(tmp_path / "train-000000.tar", 600)
    with pytest.raises(BadShardError, match=r"^train-000000\.tar: ends after byte 600"):
        _reader(data).read(0, 0)


@pytest.mark.parametrize("num_damaged", [1, 2, 3, 5])
def test_a_shard_of_which_half_the_samples_are_damaged_is_bad_whichever_is_met_first(
    data: PackedData, tmp_path: Path, num_damaged: int
) -> None:
    _damage(tmp_path / "train-000000.tar", range(num_damaged))
    kind = BadShardError if num_damaged >= 3 else BadSampleError
    for first_met in range(num_damaged):
        with pytest.raises(DataError, match=r"wrong") as raised:
            _reader(data).read(0, first_met)
        assert type(raised.value) is kind
    if num_damaged < 5:
        assert _reader(data).read(0, 4).key == SAMPLES[4].key


def test_a_shard_that_was_packed_again_under_the_run_is_bad(data: PackedData, tmp_path: Path) -> None:
    reader = _reader(data)
    reader.read(0, 0)
    others = [scene_sample(i, form="png") for i in range(50, 55)]
    write_dataset(tmp_path / "again", others, per_shard=5)
    size = (tmp_path / "train-000000.tar").stat().st_size
    # With the new bytes in the same file: what has it open sees them, and its length stays.
    with (tmp_path / "train-000000.tar").open("r+b") as tar:
        tar.write((tmp_path / "again" / "train-000000.tar").read_bytes()[:size])
    (tmp_path / "train-000000.samples").write_bytes((tmp_path / "again" / "train-000000.samples").read_bytes())
    with pytest.raises(BadShardError, match="differs from what was packed"):
        reader.read(0, 1)


def test_a_shard_that_is_known_to_be_bad_is_not_read(data: PackedData) -> None:
    storage = FaultyStorage(data.storage.url, refuses=True)
    reader = ShardReader(
        replace(whole_view(storage, data.manifest), bad_shards={"train-000001.tar": "is missing"}), "train"
    )
    with pytest.raises(BadShardError, match=r"^train-000001\.tar: is missing$"):
        pickle.loads(pickle.dumps(reader)).read(1, 0)
    assert (reader.bad_shards, storage.reads, storage.indexes_read) == ({1}, 0, 0)


def test_an_image_above_the_limit_is_bad_and_not_read(data: PackedData) -> None:
    storage = FaultyStorage(data.storage.url)
    reader = ShardReader(whole_view(storage, data.manifest), "train", max_pixels=120 * 150 - 1)
    with pytest.raises(BadSampleError, match=r"image: 150x120 pixels, more than the allowed 17999"):
        reader.read(0, 0)
    assert storage.reads == 0


def _damage(tar: Path, indices: range) -> None:
    """Flips a byte of some samples' images."""
    sidecar = Sidecar.parse(tar.with_suffix(".samples").read_bytes())
    with tar.open("r+b") as file:
        for index in indices:
            file.seek(sidecar.member(index, "image").offset + 40)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))


def test_a_pickled_reader_reads(data: PackedData) -> None:
    reader = _reader(data)
    reader.read(0, 0)
    assert pickle.loads(pickle.dumps(reader)).read(0, 4).key == SAMPLES[4].key


def test_a_bad_sample_error_survives_pickling(data: PackedData) -> None:
    with pytest.raises(BadSampleError) as raised:
        _reader(data, FaultyStorage(data.storage.url, faults=2)).read(0, 0)
    assert pickle.loads(pickle.dumps(raised.value)).bad == raised.value.bad
