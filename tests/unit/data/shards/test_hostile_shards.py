"""Shards that are made to harm, with checksums that are all right: nothing leaves its folder, nothing is blown up."""

import hashlib
import json
import struct
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dist_seg.data.shards.bad_shards import find_bad_shards
from dist_seg.data.shards.manifest import ShardInfo
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.shards.sidecar import Member, SampleEntry, Sidecar, crc32c
from dist_seg.data.shards.verify import verify
from dist_seg.data.shards.writer import EncodedMembers
from dist_seg.errors import DataError
from dist_seg.storage.object_store import open_storage
from tests.loader_cases import PackedData, config, evaluate, scene_sample, train, write_dataset
from tests.picture_bombs import huge_jpeg, huge_png, peak_memory_of, with_expanding_pixels, with_expanding_text

SHARD = "train-000000.tar"


@pytest.fixture
def data(tmp_path: Path) -> PackedData:
    """4 samples in one shard."""
    return write_dataset(tmp_path, [scene_sample(i, height=40, width=50) for i in range(4)], per_shard=4)


def sign(folder: Path) -> ShardInfo:
    """Writes a manifest that fits what lies there now, as who packed it could have done."""
    manifest = load_manifest(open_storage(folder))
    tar, index = (folder / SHARD).read_bytes(), (folder / "train-000000.samples").read_bytes()
    (shard,) = manifest.splits["train"].shards
    signed = replace(
        shard,
        bytes=len(tar),
        sha256=hashlib.sha256(tar).hexdigest(),
        sidecar_sha256=hashlib.sha256(index).hexdigest(),
    )
    split = replace(manifest.splits["train"], shards=(signed,))
    (folder / "manifest.json").write_text(replace(manifest, splits={"train": split}).to_json())
    return signed


def with_header(folder: Path, change: Callable[[tarfile.TarInfo], None]) -> None:
    """Changes the header of the second sample's image."""
    member = Sidecar.parse((folder / "train-000000.samples").read_bytes()).member(1, "image")
    data = bytearray((folder / SHARD).read_bytes())
    place = slice(member.offset - 512, member.offset)
    header = tarfile.TarInfo.frombuf(bytes(data[place]), "utf-8", "strict")
    change(header)
    data[place] = header.tobuf(tarfile.USTAR_FORMAT)
    (folder / SHARD).write_bytes(data)


class TestTarHeaders:
    @pytest.mark.parametrize("name", ["../../evil.jpg", "/etc/cron.d/evil", "a/../../evil.jpg", "..\\evil.jpg"])
    def test_a_name_that_leads_out_is_found(self, data: PackedData, tmp_path: Path, name: str) -> None:
        with_header(tmp_path, lambda header: setattr(header, "name", name))
        sign(tmp_path)
        (problem,) = verify(tmp_path)
        assert (problem.name, "leads out of the folder" in problem.reason) == (SHARD, True)
        assert repr(name) in problem.reason

    @pytest.mark.parametrize(
        ("kind", "words"),
        [
            (tarfile.SYMTYPE, "a symbolic link"),
            (tarfile.LNKTYPE, "a hard link"),
            (tarfile.CHRTYPE, "a device"),
            (tarfile.BLKTYPE, "a device"),
            (tarfile.FIFOTYPE, "a pipe"),
        ],
    )
    def test_what_is_no_file_is_found(self, data: PackedData, tmp_path: Path, kind: bytes, words: str) -> None:
        with_header(tmp_path, lambda header: setattr(header, "type", kind))
        sign(tmp_path)
        (problem,) = verify(tmp_path)
        assert f"that is {words}, not a file" in problem.reason

    def test_another_name_than_the_index_has_is_found(self, data: PackedData, tmp_path: Path) -> None:
        with_header(tmp_path, lambda header: setattr(header, "name", "jpeg420-0009.jpg"))
        sign(tmp_path)
        (problem,) = verify(tmp_path)
        assert "'jpeg420-0009.jpg'" in problem.reason and "its index has jpeg420-0001.jpg" in problem.reason

    def test_a_member_behind_the_last_one_is_found(self, data: PackedData, tmp_path: Path) -> None:
        sidecar = Sidecar.parse((tmp_path / "train-000000.samples").read_bytes())
        last = sidecar.member(3, "target")
        end = last.offset + -(-last.length // 512) * 512
        contents = bytearray((tmp_path / SHARD).read_bytes())
        contents[end : end + 512] = tarfile.TarInfo("extra.sh").tobuf(tarfile.USTAR_FORMAT)
        (tmp_path / SHARD).write_bytes(contents)
        sign(tmp_path)
        (problem,) = verify(tmp_path)
        assert "'extra.sh'" in problem.reason and "its index does not list it" in problem.reason

    def test_training_writes_nothing_that_a_header_names(self, data: PackedData, tmp_path: Path) -> None:
        with_header(tmp_path, lambda header: setattr(header, "name", "../evil.jpg"))
        sign(tmp_path)
        before = sorted(tmp_path.parent.iterdir())
        batches = train(PackedData(data.storage, load_manifest(data.storage)), config(), [(0, 0)])
        assert sorted(batches[0].keys) == [f"jpeg420-{i:04d}" for i in range(4)]
        assert sorted(tmp_path.parent.iterdir()) == before


def entry(key: str = "k", **changes: int) -> SampleEntry:
    member = Member(offset=512, length=7, crc32c=1, suffix="jpg")
    return SampleEntry(key=key, height=2, width=3, members=(replace(member, **changes), member))


class TestIndex:
    def bad(self, data: PackedData, tmp_path: Path, index: bytes) -> str:
        """Why a shard with such an index is not used."""
        (tmp_path / "train-000000.samples").write_bytes(index)
        return find_bad_shards(data.storage, [replace(sign(tmp_path), samples=1)])[SHARD]

    @pytest.mark.parametrize(
        "key", ["../../evil", "/etc/passwd", "..\\evil", "a/b", "nul\0", "line\nbreak", "dot.ted", "esc\x1b[2J", ".."]
    )
    def test_a_key_that_could_leave_a_folder_or_end_a_name_is_refused(
        self, data: PackedData, tmp_path: Path, key: str
    ) -> None:
        reason = self.bad(data, tmp_path, Sidecar.of([entry(key)]).to_bytes())
        assert f"key {key!r} has a character that keys must not have" in reason

    def test_an_empty_key_is_refused(self, data: PackedData, tmp_path: Path) -> None:
        assert "its keys do not lie" in self.bad(data, tmp_path, Sidecar.of([entry("")]).to_bytes())

    @pytest.mark.parametrize("place", [{"offset": 2**62}, {"offset": 2**64 - 1}, {"length": 2**32 - 1}])
    def test_a_member_outside_the_shard_is_refused(
        self, data: PackedData, tmp_path: Path, place: dict[str, int]
    ) -> None:
        assert "members outside the shard" in self.bad(data, tmp_path, Sidecar.of([entry(**place)]).to_bytes())

    @pytest.mark.parametrize(
        "header",
        [
            b"",
            b"[1]",
            b"{}",
            b"\xff",
            b"[" * 100_000,
            b'{"version":1,"samples":1000000000000000000,"roles":["image","target"],"suffixes":[],"key_bytes":0}',
            b'{"version":1,"samples":-1,"roles":["image","target"],"suffixes":[],"key_bytes":59}',
            b'{"version":1,"samples":0,"roles":["../../x"],"suffixes":[],"key_bytes":0}',
            b'{"version":1,"samples":0,"roles":["image","target"],"suffixes":["/../x"],"key_bytes":0}',
            b'{"version":1,"samples":0,"roles":["image","target"],"suffixes":[],"key_bytes":1e999}',
        ],
        ids=range(10),
    )
    def test_a_header_of_nonsense_with_the_right_checksum_is_refused(self, header: bytes) -> None:
        body = b"DSEGIDX\n" + struct.pack("<I", len(header)) + header
        with pytest.raises(DataError, match=r"x\.samples: "):
            Sidecar.parse(body + struct.pack("<I", crc32c(body)), "x.samples")

    def test_a_header_longer_than_the_file_is_refused(self) -> None:
        body = b"DSEGIDX\n" + struct.pack("<I", 2**32 - 1) + json.dumps({"version": 1}).encode()
        with pytest.raises(DataError, match=r"x\.samples: "):
            Sidecar.parse(body + struct.pack("<I", crc32c(body)), "x.samples")


@pytest.fixture(params=["torch", "dali"])
def loader(request: pytest.FixtureRequest) -> str:
    if request.param == "dali":
        pytest.importorskip("nvidia.dali")
    return str(request.param)


class TestPictures:
    @pytest.mark.parametrize("picture", [huge_png(50_000, 50_000), huge_jpeg(60_000, 60_000)], ids=["png", "jpeg"])
    def test_one_that_claims_gigabytes_is_a_bad_sample_and_not_decoded(
        self, tmp_path: Path, loader: str, picture: bytes
    ) -> None:
        side = 50_000 if picture.startswith(b"\x89PNG") else 60_000
        bomb = EncodedMembers(
            key="bomb",
            height=side,
            width=side,
            image=picture,
            image_suffix="png",
            target=huge_png(side, side, grey=True),
        )
        data = write_dataset(tmp_path, [scene_sample(0), bomb, scene_sample(1), scene_sample(2)])
        with peak_memory_of() as peak:
            (batch,) = train(data, config(loader=loader), [(0, 0)])
            scored = [b for group in evaluate(data, config(loader=loader)) for b in group]
        assert peak.grown_bytes < 1 << 30
        assert {bad.key for bad in batch.bad} == {bad.key for b in scored for bad in b.bad} == {"bomb"}
        assert f"{side}x{side} pixels, more than the allowed 178956970" in batch.bad[0].reason

    def test_pixels_that_expand_beyond_the_picture_are_not_expanded(self, tmp_path: Path, loader: str) -> None:
        sample = scene_sample(0, height=40, width=50, form="png")
        bomb = replace(sample, image=with_expanding_pixels(sample.image, 1 << 30), key="bomb")
        data = write_dataset(tmp_path, [bomb, *(scene_sample(i, height=40, width=50) for i in range(1, 4))])
        with peak_memory_of() as peak:
            (batch,) = train(data, config(loader=loader), [(0, 0)])
        assert len(batch.keys) == 4
        assert peak.grown_bytes < 1 << 29

    @pytest.mark.parametrize("chunk", ["zTXt", "iTXt", "iCCP"])
    def test_text_that_expands_to_a_gigabyte_makes_a_bad_sample(self, tmp_path: Path, loader: str, chunk: str) -> None:
        sample = scene_sample(0, height=40, width=50, form="png")
        bomb = replace(sample, image=with_expanding_text(sample.image, chunk, 1 << 30), key="bomb")
        data = write_dataset(tmp_path, [bomb, *(scene_sample(i, height=40, width=50) for i in range(1, 5))])
        with peak_memory_of() as peak:
            scored = [b for group in evaluate(data, config(loader=loader)) for b in group]
        assert [bad.key for b in scored for bad in b.bad] == ["bomb"]
        assert peak.grown_bytes < 1 << 29

    def test_the_limit_is_the_configurations(self, tmp_path: Path, loader: str) -> None:
        small, large = scene_sample(0, height=40, width=50), scene_sample(1, height=41, width=50)
        data = write_dataset(tmp_path, [small, large])
        cfg = config(loader=loader, max_pixels=2000)
        scored = [b for group in evaluate(data, cfg) for b in group]
        assert [bad.key for b in scored for bad in b.bad] == [large.key]
