"""Shrinking large samples while packing: image, mask and objects stay on top of each other."""

import io
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dist_seg.data.codecs.object_layers import RawObject
from dist_seg.data.formats.synthetic import SyntheticInstances, SyntheticSource
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.packing.shrink import shrink_image, shrink_mask, shrink_object, shrunk_size
from dist_seg.data.raw.images import CheckedImage
from dist_seg.data.raw.source import RawSample, SampleRef
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.shards.verify import verify
from dist_seg.data.view.data_view import whole_view
from dist_seg.data.view.reader import ShardReader
from dist_seg.errors import DataError, UserError
from dist_seg.masks.rle import decode_mask, encode_masks
from dist_seg.storage.object_store import open_storage

from ..raw_data import encoded, picture


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 3000))
def test_the_longer_side_is_the_limit_and_the_shape_stays(height: int, width: int, limit: int) -> None:
    size = shrunk_size(height, width, limit)
    if max(height, width) <= limit:
        assert size is None
        return
    assert size is not None and max(size) == limit and min(size) >= 1
    shorter = min(height, width) * limit / max(height, width)
    assert abs(min(size) - shorter) <= 0.5 or min(size) == 1


def test_without_a_limit_nothing_is_shrunk() -> None:
    assert shrunk_size(10**5, 10**5, None) is None


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_a_mask_s_pixel_is_the_one_that_its_centre_lies_in(height: int, width: int, data: st.DataObject) -> None:
    """In exact numbers: Pillow rounds to the neighbour where a centre lies on the edge between two pixels."""
    size = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    mask = np.random.default_rng(height * 41 + width).integers(0, 256, (height, width), dtype=np.uint8)
    half = Fraction(1, 2)
    rows, columns = (
        [int((i + half) * old / new) for i in range(new)] for old, new in zip((height, width), size, strict=True)
    )
    assert shrink_mask(mask, size).tolist() == [[mask[y, x] for x in columns] for y in rows]
    layers = np.stack([mask, 255 - mask])
    assert np.array_equal(shrink_mask(layers, size), np.stack([shrink_mask(layer, size) for layer in layers]))


@pytest.mark.parametrize(("kind", "suffix"), [("JPEG", "jpg"), ("PNG", "png")])
def test_an_image_keeps_its_format_and_does_not_alias(kind: str, suffix: str) -> None:
    stripes = np.zeros((60, 80, 3), np.uint8)
    stripes[:, ::2] = 255  # sampled, they would be all black or all white
    image = CheckedImage(data=encoded(Image.fromarray(stripes), kind), suffix=suffix, height=60, width=80)
    smaller = shrink_image(image, (15, 20))
    with Image.open(io.BytesIO(smaller.data)) as opened:
        assert (opened.format, opened.size, smaller.suffix) == (kind, (20, 15), suffix)
        if kind == "JPEG":
            assert all(layer[1:3] == (1, 1) for layer in opened.layer)  # type: ignore[attr-defined]  # 4:4:4
        inner = np.asarray(opened)[2:-2, 2:-2]
    assert np.all(np.abs(inner.astype(int) - 127) < 12)


def _object(mask: np.ndarray) -> RawObject:
    ((rle, area),) = encode_masks(mask[None])
    return RawObject(id=3, class_id=0, crowd=False, rle=rle, area=float(area), bbox=(0.0, 0.0, 1.0, 1.0))


def test_an_object_is_sampled_like_a_mask_and_measured_anew() -> None:
    mask = picture(33, 47)[..., 0] > 128
    smaller = shrink_object(_object(mask), 33, 47, (11, 20))
    assert np.array_equal(decode_mask(smaller.rle, 11, 20), shrink_mask(mask.astype(np.uint8), (11, 20)))
    assert (smaller.area, smaller.bbox, smaller.id) == (None, None, 3)


def test_a_tiny_object_keeps_the_pixel_that_most_of_it_lies_in() -> None:
    mask = np.zeros((40, 40), bool)
    mask[19:21, 29:33] = True  # of the new pixels' centres, 5, 15, 25, 35, it has none
    assert not shrink_mask(mask.astype(np.uint8), (4, 4)).any()
    smaller = decode_mask(shrink_object(_object(mask), 40, 40, (4, 4)).rle, 4, 4)
    assert np.argwhere(smaller).tolist() == [[1, 3]]


@dataclass(frozen=True)
class _Large:
    """One sample of 60 x 90 whose image and mask show the same rectangle."""

    class_names: tuple[str, ...] = ("ground", "box")
    palette: tuple[tuple[int, int, int], ...] = ((0, 0, 0), (255, 255, 255))
    ignore_index: int = 255

    def samples(self) -> list[SampleRef]:
        return [SampleRef(key="k", split="train", where="k.jpg", version="1")]

    def load(self, sample: SampleRef) -> RawSample:
        mask = np.zeros((60, 90), np.uint8)
        mask[20:41, 30:63] = 1
        return RawSample(image=encoded(Image.fromarray(mask * 255), "JPEG", quality=95), mask=mask)


def _only_sample(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    storage = open_storage(folder)
    sample = ShardReader(whole_view(storage, load_manifest(storage)), "train").read(0, 0)
    return np.asarray(Image.open(io.BytesIO(sample.image))), np.asarray(Image.open(io.BytesIO(sample.target)))


def test_a_packed_image_lies_under_its_mask(tmp_path: Path) -> None:
    pack(_Large(), tmp_path, PackOptions(max_side=30))
    image, mask = _only_sample(tmp_path)
    assert image.shape == mask.shape == (20, 30)
    assert verify(tmp_path) == []
    assert np.array_equal(image[1:-1, 1:-1] > 127, mask[1:-1, 1:-1] == 1)


@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_images_over_pillow_s_own_limit_are_packed_and_shrunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """The limit is 179 million pixels: a smaller one stands for it, as for an error at twice as many."""

    class _Many(_Large):
        def load(self, sample: SampleRef) -> RawSample:
            return RawSample(image=encoded(Image.new(mode, (90, 60), 7), "PNG"), mask=np.zeros((60, 90), np.uint8))

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for max_side in (None, 30):
        manifest = pack(_Many(), tmp_path / str(max_side), PackOptions(max_side=max_side)).manifest
        assert manifest.split("train").num_samples == 1
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_the_limit_is_part_of_what_was_packed(tmp_path: Path) -> None:
    pack(_Large(), tmp_path / "30", PackOptions(max_side=30))
    with pytest.raises(DataError, match="other options"):
        pack(_Large(), tmp_path / "30", PackOptions(max_side=40))
    pack(_Large(), tmp_path / "far", PackOptions(max_side=90))
    pack(_Large(), tmp_path / "none")
    far, none = ((tmp_path / name / "train-000000.tar").read_bytes() for name in ("far", "none"))
    assert far == none
    with pytest.raises(UserError, match="--max-side 0"):
        pack(_Large(), tmp_path / "zero", PackOptions(max_side=0))


def test_shrunk_instances_are_whole(tmp_path: Path) -> None:
    source = SyntheticInstances(scenes=SyntheticSource(num_train=4, num_val=1, height=64, width=96))
    large, small = (
        pack(source, tmp_path / str(side), PackOptions(max_side=side)).manifest.split("train") for side in (None, 48)
    )
    assert verify(tmp_path / "48") == []
    assert large.objects and small.objects
    assert small.objects.class_objects == large.objects.class_objects
    assert sum(small.class_pixels) == pytest.approx(sum(large.class_pixels) / 4, rel=0.05)
