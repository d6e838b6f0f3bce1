"""The summary of a packed data set."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from dist_seg.data.formats import RawSample, SampleRef
from dist_seg.data.inspect import inspect
from dist_seg.data.pack import pack
from dist_seg.errors import DataError

from .raw_data import encoded, picture


@dataclass(frozen=True)
class SizesSource:
    """Three training images of two sizes, one for validation; one class is never there, one is half."""

    class_names: ClassVar[tuple[str, ...]] = ("half", "other", "never")
    palette: ClassVar[tuple[tuple[int, int, int], ...]] = ((10, 20, 30), (200, 0, 0), (0, 200, 0))
    ignore_index: ClassVar[int] = 255
    sizes: ClassVar[dict[str, tuple[int, int]]] = {"a": (10, 20), "b": (10, 20), "c": (40, 8), "v": (10, 20)}

    def samples(self) -> Sequence[SampleRef]:
        return [SampleRef(key=key, split="val" if key == "v" else "train", where=key) for key in self.sizes]

    def load(self, sample: SampleRef) -> RawSample:
        height, width = self.sizes[sample.key]
        mask = np.zeros((height, width), np.uint8)
        mask[: height // 2] = 1
        mask[-1] = 255
        return RawSample(image=encoded(Image.fromarray(picture(height, width)), "PNG"), mask=mask)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sizes")
    pack(SizesSource(), out, shard_bytes=70_000)
    return out


def test_counts_and_sizes(packed: Path) -> None:
    train = inspect(packed).splits[0]
    assert (train.name, train.num_samples, train.num_sizes) == ("train", 3, 2)
    assert (train.height_min_median_max, train.width_min_median_max) == ((10, 10, 40), (8, 20, 20))
    assert train.common_sizes == ((10, 20, 2), (40, 8, 1))


def test_fractions_are_of_the_pixels_with_a_class(packed: Path) -> None:
    train = inspect(packed).splits[0]
    assert train.class_pixels == (80 + 80 + 152, 100 + 100 + 160, 0)
    assert train.class_fractions == pytest.approx((312 / 672, 360 / 672, 0))
    assert train.ignored_fraction == pytest.approx(48 / 720)


def test_absent_classes_are_named(packed: Path) -> None:
    inspection = inspect(packed, split="val")
    assert [split.absent_classes for split in inspection.splits] == [("never",)]
    assert "no pixel in val: never" in inspection.to_text()


def test_json_holds_the_same(packed: Path) -> None:
    document = json.loads(inspect(packed).to_json())
    assert document["class_names"] == ["half", "other", "never"]
    assert document["splits"][1]["num_samples"] == 1


def test_text_shows_splits_and_classes(packed: Path) -> None:
    text = inspect(packed).to_text()
    assert "8 x 10 to 20 x 40, 2 sizes" in text
    assert any(line.split() == ["0", "half", "46.43%", "44.44%"] for line in text.splitlines())


def test_the_contact_sheet_shows_images_beside_their_masks(packed: Path, tmp_path: Path) -> None:
    inspect(packed, out_png=tmp_path / "sheet.png", num_images=4)
    with Image.open(tmp_path / "sheet.png") as sheet:
        colors = {color for _, color in sheet.convert("RGB").getcolors(2**20) or []}
    assert {(10, 20, 30), (200, 0, 0)} <= colors


def test_an_unknown_split_is_refused(packed: Path) -> None:
    with pytest.raises(DataError, match="no split 'test'"):
        inspect(packed, split="test")


def test_progress_counts_shards(packed: Path) -> None:
    seen: list[tuple[int, int]] = []
    inspect(packed, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == len(list(packed.glob("*.tar")))
