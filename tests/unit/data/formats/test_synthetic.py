"""The synthetic data set: the same every time, with correct masks."""

import io

import numpy as np
import pytest
from PIL import Image

from dist_seg.data.formats.synthetic import SyntheticSource
from dist_seg.errors import DataError


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    source = SyntheticSource(num_train=3, num_val=3, height=32, width=48)
    ref = source.samples()[1]
    assert source.load(ref).image == source.load(ref).image
    other = SyntheticSource(num_train=3, num_val=3, height=32, width=48, seed=1)
    assert other.load(ref).image != source.load(ref).image


def test_more_images_do_not_change_the_first() -> None:
    few, many = SyntheticSource(num_train=2, num_val=2), SyntheticSource(num_train=20, num_val=20)
    assert np.array_equal(few.load(few.samples()[0]).mask, many.load(many.samples()[0]).mask)


def test_training_and_validation_images_differ() -> None:
    source = SyntheticSource(num_train=5, num_val=5, height=32, width=32)
    images = {source.load(ref).image for ref in source.samples()}
    assert len(images) == 10


def test_images_and_masks_are_of_the_size_asked_for() -> None:
    source = SyntheticSource(num_train=5, num_val=1, height=40, width=56)
    for ref in source.samples():
        raw = source.load(ref)
        with Image.open(io.BytesIO(raw.image)) as image:
            assert (image.size, image.mode) == ((56, 40), "RGB")
        assert raw.mask.shape == (40, 56)


def test_every_class_is_there_and_none_is_everywhere() -> None:
    source = SyntheticSource(num_train=40, num_val=0, height=64, width=64)
    counts = sum(np.bincount(source.load(ref).mask.ravel(), minlength=6) for ref in source.samples())
    fractions = np.asarray(counts) / np.sum(counts)
    assert len(fractions) == 6
    assert fractions.min() > 0.02
    assert fractions.max() < 0.85


@pytest.mark.parametrize("options", [{"height": 8}, {"num_train": 0}, {"num_val": -1}])
def test_impossible_numbers_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(DataError, match=str(next(iter(options.values())))):
        SyntheticSource(**options)
