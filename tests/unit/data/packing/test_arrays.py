"""Packing images of 16 bits and many channels: one kind a data set, statistics in the manifest, members for anybody."""

import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from dist_seg.data.codecs.npy import ArrayLayout, decode_npy
from dist_seg.data.formats.folder import open_folder
from dist_seg.data.inspection.sheets import sample_sheet
from dist_seg.data.packing.append import append, open_for_append
from dist_seg.data.packing.image_kind import find_kind
from dist_seg.data.packing.merge import merge
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.packing.parts import Part
from dist_seg.data.shards.manifest import Manifest
from dist_seg.data.shards.manifest_parsing import parse_manifest
from dist_seg.data.shards.opened import open_data
from dist_seg.data.shards.verify import verify
from dist_seg.data.view.data_view import whole_view
from dist_seg.data.view.reader import BadSampleError, ShardReader
from dist_seg.errors import DataError
from dist_seg.storage.object_store import open_storage
from tests.array_cases import MASK, Array, ArraySource, noise, write_folder


def _source(dtype: str = "uint16", channels: int = 5, count: int = 8) -> ArraySource:
    return ArraySource([noise(dtype, channels, seed=seed) for seed in range(count)])


def _members(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.mark.parametrize(("dtype", "channels"), [("uint16", 1), ("uint16", 5), ("uint8", 2)])
def test_pixels_come_out_of_the_shards_as_they_went_in(tmp_path: Path, dtype: str, channels: int) -> None:
    source = _source(dtype, channels)
    manifest = pack(source, tmp_path, PackOptions(shard_bytes=20_000)).manifest
    assert manifest.image == ArrayLayout(dtype="uint16" if dtype == "uint16" else "uint8", channels=channels)
    for name in manifest.splits:
        reader = ShardReader(whole_view(open_storage(tmp_path), manifest), name)
        for shard, count in enumerate(reader.shard_samples):
            for index in range(count):
                sample = reader.read(shard, index)
                assert sample.array is not None
                found = decode_npy(sample.image, sample.array, sample.height, sample.width)
                assert np.array_equal(found, source.images[int(sample.key)])
    assert verify(tmp_path) == []


def test_webdataset_reads_them(tmp_path: Path) -> None:
    source = _source()
    pack(source, tmp_path)
    dataset = webdataset.WebDataset(str(tmp_path / "train-000000.tar"), shardshuffle=False).decode()
    found = {sample["__key__"]: sample["npy"] for sample in dataset}
    assert len(found) == 6
    assert all(np.array_equal(values, source.images[int(key)]) for key, values in found.items())


def test_the_manifest_holds_the_statistics_of_each_split(tmp_path: Path) -> None:
    source = _source()
    manifest = pack(source, tmp_path, PackOptions(shard_bytes=20_000)).manifest
    for name, chosen in (("val", source.images[::4]), ("train", [im for i, im in enumerate(source.images) if i % 4])):
        channels = manifest.split(name).channels
        assert channels is not None
        np.testing.assert_allclose(channels.mean, np.concatenate(chosen).mean(axis=(0, 1)))
    assert parse_manifest(manifest.to_json().encode(), "m") == manifest


def test_any_number_of_workers_and_an_interruption_give_the_same_bytes(tmp_path: Path) -> None:
    pack(_source(), tmp_path / "one", PackOptions(shard_bytes=20_000))
    pack(_source(), tmp_path / "two", PackOptions(shard_bytes=20_000, workers=2))
    assert _members(tmp_path / "one") == _members(tmp_path / "two")
    broken = _source()
    broken.images = [*broken.images[:-1], noise("uint16", 4)]
    with pytest.raises(DataError, match="image 7: is 16 bits and 4 channels"):
        pack(broken, tmp_path / "three", PackOptions(shard_bytes=20_000))
    result = pack(_source(), tmp_path / "three", PackOptions(shard_bytes=20_000))
    assert result.kept_shards > 0
    assert _members(tmp_path / "one") == _members(tmp_path / "three")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (noise("uint16", 4), "is 16 bits and 4 channels"),
        (noise("uint8", 5), "is 8 bits and 5 channels"),
        (noise("uint8", 3), "is a picture of 8-bit RGB or grey"),
    ],
)
def test_an_image_of_another_kind_is_refused_with_both_named(tmp_path: Path, other: Array, words: str) -> None:
    source = _source()
    source.images = [*source.images[:3], other, *source.images[4:]]
    kind = "the data set (by most of its first images, such as image 0) holds images of 16 bits and 5 channels"
    message = f"image 3: {words}, but {kind}; all must be"
    with pytest.raises(DataError, match=re.escape(message)):
        pack(source, tmp_path / "a")
    result = pack(source, tmp_path / "b", PackOptions(skip_bad=True))
    assert [str(refusal).partition(" alike")[0] for refusal in result.skipped] == [message]


_ODD, _USUAL, _BROKEN = noise("uint8", 3), noise("uint16", 5), np.zeros((2, 2, 2, 2), np.uint8)


@pytest.mark.parametrize(
    ("images", "channels"),
    [
        ([_ODD, *[_USUAL] * 5], 5),
        ([_BROKEN, _ODD, _BROKEN, _USUAL, _USUAL], 5),
        ([_USUAL, _ODD], 5),
        ([_ODD, _USUAL], None),
        ([_ODD] * 9 + [_USUAL] * 11 + [_ODD] * 9, 5),
        ([_ODD] * 10 + [_USUAL] * 10 + [_USUAL], None),
        ([_BROKEN] * 120 + [_USUAL, _ODD, _ODD], 5),
        ([_BROKEN] * 3, None),
    ],
)
def test_most_of_the_first_images_that_can_be_read_decide_the_kind(images: list[Array], channels: int | None) -> None:
    source = ArraySource(images)
    kind = find_kind(source.samples(), source, 10**6)
    assert (kind.array and kind.array.channels) == channels


def test_one_odd_image_at_the_head_of_the_listing_is_the_one_that_is_left_out(tmp_path: Path) -> None:
    result = pack(ArraySource([_ODD, *[_USUAL] * 8]), tmp_path, PackOptions(skip_bad=True))
    assert [refusal.key for refusal in result.skipped] == ["0"]
    assert sum(split.num_samples for split in result.manifest.splits.values()) == 8


@pytest.mark.parametrize("workers", [1, 2])
def test_leaving_out_more_for_their_kind_than_are_kept_is_an_error(tmp_path: Path, workers: int) -> None:
    source = ArraySource([_ODD] * 12 + [_USUAL] * 13)
    for _ in range(2):  # the second finds what the first wrote
        with pytest.raises(DataError, match=r"^13 samples are of another kind than the 12 that .*RGB or grey; the fi"):
            pack(source, tmp_path, PackOptions(skip_bad=True, workers=workers, shard_bytes=20_000))
    assert not (tmp_path / "manifest.json").exists()
    even = ArraySource([_ODD] * 12 + [_USUAL] * 12 + [_BROKEN] * 9)
    assert len(pack(even, tmp_path, PackOptions(skip_bad=True)).skipped) == 21


def test_an_image_too_long_for_a_shard_s_index_is_refused_unless_it_is_shrunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 128 + 20 * 30 * 5 * 2  # stands for 4 GiB
    monkeypatch.setattr("dist_seg.data.packing.sample.MAX_MEMBER_BYTES", most)
    source = ArraySource([*[_USUAL] * 3, noise("uint16", 5, width=31)])
    with pytest.raises(DataError, match=rf"image 3: 31x20 pixels take 6328 bytes as \.npy.* {most}; .*\(--max-side\)"):
        pack(source, tmp_path / "a")
    assert [refusal.key for refusal in pack(source, tmp_path / "b", PackOptions(skip_bad=True)).skipped] == ["3"]
    assert pack(source, tmp_path / "c", PackOptions(max_side=30)).skipped == ()


def test_a_folder_of_16_bit_grey_pngs_is_packed_without_the_extra(tmp_path: Path) -> None:
    images = [noise("uint16", 1, seed=seed) for seed in range(4)]
    files = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image[..., 0]).save(file, "PNG")
        files.append(file.getvalue())
    write_folder(tmp_path / "raw", files, [MASK] * 4, "png")
    source = open_folder(tmp_path / "raw/images", tmp_path / "raw/masks")
    manifest = pack(source, tmp_path / "out").manifest
    assert manifest.image == ArrayLayout(dtype="uint16", channels=1)


def test_a_member_that_is_not_what_the_manifest_says_is_a_bad_sample(tmp_path: Path) -> None:
    manifest = pack(_source(count=4), tmp_path).manifest
    wrong = dataclasses.replace(manifest, image=ArrayLayout(dtype="uint8", channels=10))
    with pytest.raises(BadSampleError, match=r"image: an array of .*\(20, 30, 5\).*manifest say .*\(20, 30, 10\)"):
        ShardReader(whole_view(open_storage(tmp_path), wrong), "train").read(0, 0)


def test_verify_names_images_of_another_kind_than_the_manifest_s(tmp_path: Path) -> None:
    manifest = pack(_source(count=4), tmp_path).manifest
    assert manifest.image is not None
    for image, words in (
        (ArrayLayout(dtype="uint16", channels=4), "npy with 6128 bytes, which does not fit 30x20 pixels"),
        (None, "npy, but the manifest's images are pictures"),
    ):
        splits = manifest.splits
        if image is None:
            splits = {name: dataclasses.replace(split, channels=None) for name, split in splits.items()}
        else:
            splits = {name: _with_channels(split, 4) for name, split in splits.items()}
        wrong = dataclasses.replace(manifest, image=image, splits=splits)
        (tmp_path / "manifest.json").write_text(wrong.to_json())
        assert words in str(verify(tmp_path)[0])


def _with_channels(split: object, count: int) -> object:
    channels = split.channels  # type: ignore[attr-defined]
    cut = {field.name: getattr(channels, field.name)[:count] for field in dataclasses.fields(channels)}
    return dataclasses.replace(split, channels=dataclasses.replace(channels, **cut))  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": {"dtype": "float32", "channels": 5}}, "image.dtype is 'float32'"),
        ({"image": {"dtype": "uint16", "channels": 0}}, "image is 0 channels of uint16"),
        ({"image": {"dtype": "uint16", "channels": 6}}, "channels.low must be 6 counts"),
        ({"image": {"dtype": "uint8", "channels": 5}}, "must be 5 percentiles, means and deviations between 0 and 255"),
        ({"image": 3}, "image is 3: expected object"),
    ],
)
def test_a_manifest_with_impossible_arrays_is_refused(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    document = json.loads(pack(_source(count=4), tmp_path).manifest.to_json())
    with pytest.raises(DataError, match=rf"m: .*{reason}"):
        parse_manifest(json.dumps({**document, **change}).encode(), "m")


def test_the_sheet_shows_an_array_by_its_first_three_channels(tmp_path: Path) -> None:
    values = np.zeros((20, 30, 4), np.uint16)
    values[:, :10, 0], values[:, 10:20, 1], values[:, 20:, 2] = 1000, 2000, 3000
    manifest: Manifest = pack(ArraySource([values] * 2), tmp_path).manifest
    sheet = np.asarray(sample_sheet(open_data(tmp_path), manifest.splits, 1))
    colors = {tuple(color) for color in sheet.reshape(-1, 3).tolist()}
    # The percentile that becomes white is the largest value of its bin.
    assert {(254, 0, 0), (0, 254, 0), (0, 0, 254)} <= colors


def test_parts_and_data_sets_are_merged_with_the_statistics_of_all(tmp_path: Path) -> None:
    source = _source()
    whole = pack(source, tmp_path / "whole", PackOptions(shard_bytes=20_000)).manifest
    for number in (1, 2):
        pack(source, tmp_path / f"part{number}", PackOptions(shard_bytes=20_000), part=Part(number=number, count=2))
    merged = merge(tmp_path / "merged", [tmp_path / "part1", tmp_path / "part2"]).manifest
    assert merged == whole
    others = ArraySource([noise("uint16", 5, seed=seed) for seed in range(20, 28)])
    others.prefix = "other"
    pack(others, tmp_path / "others")
    both = merge(tmp_path / "both", [tmp_path / "whole", tmp_path / "others"]).manifest
    train = [image for images in (source.images, others.images) for i, image in enumerate(images) if i % 4]
    channels = both.split("train").channels
    assert channels is not None
    np.testing.assert_allclose(channels.mean, np.concatenate(train).mean(axis=(0, 1)), rtol=1e-12)
    pack(_source(channels=4), tmp_path / "four")
    with pytest.raises(DataError, match="do not go together: image is"):
        merge(tmp_path / "c", [tmp_path / "whole", tmp_path / "four"])


def test_what_is_left_out_for_its_kind_is_counted_over_all_parts(tmp_path: Path) -> None:
    """A part may hold more that is left out than is kept; merging takes what one machine takes."""
    for name, images in (("few", [_USUAL] * 9 + [_ODD] * 3), ("many", [_USUAL] * 11 + [_ODD] * 13)):
        source = ArraySource(images)
        for number in range(1, 9):
            part = Part(number=number, count=8)
            pack(source, tmp_path / name / part.folder_name, PackOptions(shard_bytes=1, skip_bad=True), part=part)
    pack(ArraySource([_USUAL] * 9 + [_ODD] * 3), tmp_path / "whole", PackOptions(shard_bytes=1, skip_bad=True))
    merge(tmp_path / "few")
    assert _members(tmp_path / "few") == _members(tmp_path / "whole")
    with pytest.raises(DataError, match=r"^13 samples are of another kind than the 11 that .*channels; the first"):
        merge(tmp_path / "many")
    assert not (tmp_path / "many" / "manifest.json").exists()


def test_arrays_are_shrunk_like_pictures(tmp_path: Path) -> None:
    y, x = np.mgrid[:40, :60].astype(np.uint16)
    values = np.dstack([1000 * x, 1500 * y, 60_000 - 500 * x, np.full_like(x, 65535)])
    manifest = pack(ArraySource([values] * 2), tmp_path, PackOptions(max_side=30)).manifest
    sample = ShardReader(whole_view(open_storage(tmp_path), manifest), "train").read(0, 0)
    assert sample.array is not None and (sample.height, sample.width) == (20, 30)
    found = decode_npy(sample.image, sample.array, 20, 30)
    means = values.reshape(20, 2, 30, 2, 4).mean(axis=(1, 3))
    inner = (slice(3, -3), slice(3, -3))
    assert np.abs(found[inner].astype(float) - means[inner]).max() < 2  # a ramp stays one
    assert (found[..., 3] == 65535).all()


def test_arrays_that_come_later_are_appended_with_the_statistics_of_all(tmp_path: Path) -> None:
    source = _source(count=12)
    pack(ArraySource(source.images[:8]), tmp_path / "grown", PackOptions(shard_bytes=20_000))
    grown = append(source, open_for_append(tmp_path / "grown"), PackOptions(shard_bytes=20_000)).manifest
    whole = pack(source, tmp_path / "whole", PackOptions(shard_bytes=20_000)).manifest
    for name in ("train", "val"):
        assert grown.split(name).channels == whole.split(name).channels
    assert verify(tmp_path / "grown") == []
    other = ArraySource([*source.images, noise("uint16", 3)])
    with pytest.raises(
        DataError, match=r"image 12: is 16 bits and 3 channels, .*grown holds images of 16 bits and 5 channels"
    ):
        append(other, open_for_append(tmp_path / "grown"))
