"""The tars as others read them: Python's tarfile, the webdataset library, DALI and its index tool."""

import hashlib
import importlib.util
import io
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_seg.data.shards.manifest import Manifest, ShardInfo
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.shards.sidecar import Sidecar
from dist_seg.data.shards.writer import EncodedMembers, write_shard
from dist_seg.storage.object_store import open_storage

_SAMPLES = [
    EncodedMembers(key=f"k{i}", height=2, width=3, image=bytes([i]) * size, image_suffix=suffix, target=b"mask%d" % i)
    for i, (size, suffix) in enumerate([(1, "jpg"), (512, "png"), (513, "jpg"), (0, "png")])
]


@pytest.fixture(scope="module")
def manifest(synthetic_shards: Path) -> Manifest:
    return load_manifest(open_storage(synthetic_shards))


@pytest.fixture(params=["classes", "instances"])
def packed(request: pytest.FixtureRequest, synthetic_shards: Path, instance_shards: Path) -> Path:
    """A data set of either task."""
    return synthetic_shards if request.param == "classes" else instance_shards


def _members(folder: Path, shard: ShardInfo) -> dict[str, dict[str, bytes]]:
    """What our own index says: the members' bytes by key and suffix."""
    storage = open_storage(folder)
    sidecar = Sidecar.parse(storage.read(shard.sidecar_name))
    return {
        sidecar.key(i): {
            member.suffix: storage.read_range(shard.name, member.offset, member.length)
            for member in (sidecar.member(i, role) for role in sidecar.roles)
        }
        for i in range(sidecar.num_samples)
    }


def test_tarfile_reads_names_and_bytes_in_order(tmp_path: Path) -> None:
    write_shard(tmp_path, "a-000000.tar", iter(_SAMPLES))
    with tarfile.open(tmp_path / "a-000000.tar") as tar:
        read = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    expected = [
        pair for s in _SAMPLES for pair in ((f"{s.key}.{s.image_suffix}", s.image), (f"{s.key}.seg.png", s.target))
    ]
    assert read == expected


def test_the_index_points_at_the_members(tmp_path: Path) -> None:
    info = write_shard(tmp_path, "a-000000.tar", iter(_SAMPLES))
    assert _members(tmp_path, info) == {s.key: {s.image_suffix: s.image, "seg.png": s.target} for s in _SAMPLES}


def test_the_description_is_of_the_files(tmp_path: Path) -> None:
    info = write_shard(tmp_path, "a-000000.tar", iter(_SAMPLES))
    for name, digest in (
        (info.name, info.sha256),
        (info.index_name, info.index_sha256),
        (info.sidecar_name, info.sidecar_sha256),
    ):
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    assert ((tmp_path / info.name).stat().st_size, 4) == (info.bytes, info.samples)


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_shard(tmp_path / folder, "a-000000.tar", iter(_SAMPLES))
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_a_failing_writer_leaves_nothing_behind(tmp_path: Path) -> None:
    def samples() -> Iterator[EncodedMembers]:
        yield _SAMPLES[0]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_shard(tmp_path, "a-000000.tar", samples())
    assert list(tmp_path.iterdir()) == []


def test_the_webdataset_library_reads_the_same(packed: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    for shard in load_manifest(open_storage(packed)).split("train").shards:
        expected = _members(packed, shard)
        read = list(webdataset.WebDataset(str(packed / shard.name), shardshuffle=False))
        assert [sample["__key__"] for sample in read] == list(expected)
        for sample in read:
            assert {name: sample[name] for name in expected[sample["__key__"]]} == expected[sample["__key__"]]


def test_the_index_is_what_dali_s_own_tool_writes(packed: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("wds2idx") is None:
        pytest.skip("needs wds2idx, which comes with DALI")
    from wds2idx import IndexCreator

    shard = load_manifest(open_storage(packed)).split("train").shards[0]
    with IndexCreator(str(packed / shard.name), str(tmp_path / "x.idx"), verbose=False) as creator:
        creator.create_index()
    assert (tmp_path / "x.idx").read_bytes() == (packed / shard.index_name).read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="DALI runs on Linux")
def test_dali_reads_images_and_masks(synthetic_shards: Path, manifest: Manifest) -> None:
    dali = pytest.importorskip("nvidia.dali", reason="needs DALI")
    shards = manifest.split("train").shards
    total = manifest.split("train").num_samples

    @dali.pipeline_def(batch_size=total, num_threads=1, device_id=None)  # type: ignore[untyped-decorator]
    def pipeline() -> tuple[object, ...]:
        image, mask = dali.fn.readers.webdataset(
            paths=[str(synthetic_shards / shard.name) for shard in shards],
            index_paths=[str(synthetic_shards / shard.index_name) for shard in shards],
            ext=["jpg;png", "seg.png"],
        )
        return image, dali.fn.decoders.image(mask, output_type=dali.types.GRAY)

    running = pipeline()
    running.build()
    images, masks = running.run()
    expected = [members for shard in shards for members in _members(synthetic_shards, shard).values()]
    assert len(expected) == total
    for i, members in enumerate(expected):
        image = next(data for suffix, data in members.items() if suffix != "seg.png")
        assert np.asarray(images[i]).tobytes() == image
        mask = np.asarray(Image.open(io.BytesIO(members["seg.png"])))
        assert np.array_equal(np.asarray(masks[i])[..., 0], mask)


@pytest.mark.skipif(sys.platform != "linux", reason="DALI runs on Linux")
def test_dali_reads_images_layers_and_annotations(instance_shards: Path) -> None:
    dali = pytest.importorskip("nvidia.dali", reason="needs DALI")
    split = load_manifest(open_storage(instance_shards)).split("train")

    @dali.pipeline_def(batch_size=split.num_samples, num_threads=1, device_id=None)  # type: ignore[untyped-decorator]
    def pipeline() -> tuple[object, ...]:
        image, layers, annotations = dali.fn.readers.webdataset(
            paths=[str(instance_shards / shard.name) for shard in split.shards],
            index_paths=[str(instance_shards / shard.index_name) for shard in split.shards],
            ext=["jpg;png", "inst.png", "json"],
        )
        return image, layers, annotations

    running = pipeline()
    running.build()
    images, layers, annotations = running.run()
    expected = [members for shard in split.shards for members in _members(instance_shards, shard).values()]
    read = [[np.asarray(part[i]).tobytes() for part in (images, layers, annotations)] for i in range(len(expected))]
    assert read == [list(members.values()) for members in expected]
