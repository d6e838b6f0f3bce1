"""Settings of pixels, filled by the data."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from dist_seg.config.schema import AugmentConfig, DataConfig
from dist_seg.data.codecs.npy import ArrayLayout
from dist_seg.data.loading.augment import SampleTransform
from dist_seg.data.loading.normalize import normalization, normalize
from dist_seg.data.shards.manifest import ChannelStatistics, Manifest
from dist_seg.data.view.data_view import SplitView, whole_view
from dist_seg.data.view.pixel_values import check_images, check_jitter, fit_pixels, input_channels
from dist_seg.errors import ConfigError, DataError
from dist_seg.storage.object_store import LocalStorage

_PICTURES = whole_view(LocalStorage(Path("unread")), Manifest(class_names=("a", "b"), palette=((0, 0, 0),) * 2))
_STATISTICS = ChannelStatistics(
    low=(0, 100, 50), high=(1000, 300, 50), mean=(500.0, 150.0, 50.0), std=(100.0, 20.0, 0.0)
)
_ARRAYS = dataclasses.replace(
    _PICTURES,
    image=ArrayLayout(dtype="uint16", channels=3),
    splits={"train": SplitView(shards=(), class_pixels=(1, 1), ignored_pixels=0, channels=_STATISTICS)},
)
_PLAIN = SampleTransform(roi=(0, 0, 1, 1), resized=(1, 1), canvas=(1, 1))


def test_pictures_get_imagenet_s_statistics_and_nothing_else() -> None:
    fitted = fit_pixels(DataConfig(), _PICTURES)
    assert fitted == DataConfig(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert normalization(fitted) == normalization(DataConfig())
    assert input_channels(fitted) == 3


def test_chosen_channels_of_pictures_get_theirs() -> None:
    fitted = fit_pixels(DataConfig(channels=(2, 0)), _PICTURES)
    assert (fitted.mean, fitted.std) == ((0.406, 0.485), (0.225, 0.229))
    assert input_channels(fitted) == 2
    assert normalization(fitted).padding == normalization(DataConfig()).padding


def test_arrays_are_scaled_by_their_percentiles() -> None:
    fitted = fit_pixels(DataConfig(), _ARRAYS)
    assert (fitted.image_dtype, fitted.image_channels, fitted.channels) == ("uint16", 3, (0, 1, 2))
    assert (fitted.scaling, fitted.value_low, fitted.value_high) == ("percentiles", (0, 100, 50), (1000, 300, 51))
    assert fitted.mean == pytest.approx((0.5, 0.25, 0.0))
    assert fitted.std == pytest.approx((0.1, 0.1, 1.0))  # what has one value alone is not divided by 0


def test_a_fixed_scale_is_the_type_s_range_or_what_is_given() -> None:
    fitted = fit_pixels(DataConfig(scaling="fixed", channels=(1,)), _ARRAYS)
    assert (fitted.value_low, fitted.value_high) == ((0.0,), (65535.0,))
    assert fitted.mean == pytest.approx((150 / 65535,), rel=1e-5)
    given = fit_pixels(DataConfig(value_high=4095.0, channels=(1, 0)), _ARRAYS)
    assert (given.scaling, given.value_low, given.value_high) == ("fixed", (0.0, 0.0), (4095.0, 4095.0))


def test_what_is_filled_stays_and_needs_no_statistics() -> None:
    fitted = fit_pixels(DataConfig(channels=(1, 0)), _ARRAYS)
    assert fit_pixels(fitted, dataclasses.replace(_ARRAYS, splits={})) == fitted


@pytest.mark.parametrize("choice", ["mean_std", "unit", "symmetric"])
def test_the_network_s_values_are_those_of_the_formula(choice: str) -> None:
    fitted = fit_pixels(DataConfig(normalize=choice, channels=(1, 0)), _ARRAYS)  # type: ignore[arg-type]  # one of them
    scaled = np.array([(250 - 100) / 200, 700 / 1000])
    expected = {
        "mean_std": (scaled - [0.25, 0.5]) / 0.1,
        "unit": scaled,
        "symmetric": 2 * scaled - 1,
    }[choice]
    image = torch.tensor([250.0, 700.0]).view(2, 1, 1)
    assert normalize([image], [_PLAIN], normalization(fitted)).flatten().tolist() == pytest.approx(expected, abs=1e-5)


def test_pictures_may_have_a_range_of_their_own() -> None:
    fitted = fit_pixels(DataConfig(normalize="unit", value_low=50, value_high=(100.0, 150.0, 250.0)), _PICTURES)
    image = torch.full((3, 1, 1), 100, dtype=torch.uint8)
    found = normalize([image], [_PLAIN], normalization(fitted)).flatten().tolist()
    assert found == pytest.approx([1.0, 0.5, 0.25], abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "manifest", "words"),
    [
        ({"channels": (3,)}, _ARRAYS, r"data\.channels=\[3\]: there is no channel 3; .* 16 bits and 3 channels"),
        ({"channels": (0, 3)}, _PICTURES, r"there is no channel 3; the images have R, G and B, counted from 0 to 2"),
        ({"mean": (0.5,)}, _ARRAYS, r"data\.mean=\[0\.5\]: 1 numbers, for 3 channels"),
        ({"std": (1.0, 1.0)}, _PICTURES, r"data\.std=\[1\.0, 1\.0\]: 2 numbers, for 3 channels"),
        ({"value_low": (1.0, 2.0)}, _ARRAYS, r"data\.value_low=\[1\.0, 2\.0\]: 2 numbers"),
        ({"value_low": 5.0, "value_high": 5.0}, _ARRAYS, r"data\.value_low=5: must be less than data\.value_high=5"),
        ({"value_low": 255.0}, _PICTURES, r"must be less than"),
        ({"scaling": "percentiles"}, _PICTURES, r"data\.scaling=percentiles: the data set holds 8-bit pictures"),
        ({"image_channels": 8}, _ARRAYS, r"data\.image_channels=8: the data set holds arrays of 16 bits and 3 chann"),
        ({"image_dtype": "uint8"}, _ARRAYS, r"data\.image_dtype=uint8: the data set holds arrays of 16 bits"),
        ({"image_dtype": "uint8"}, _PICTURES, r"data\.image_dtype=uint8: the data set holds pictures"),
        ({"train_split": "fit"}, _ARRAYS, r"there is no split 'fit'"),
    ],
)
def test_settings_that_do_not_go_with_the_data_are_named(
    settings: dict[str, object], manifest: Manifest, words: str
) -> None:
    with pytest.raises((ConfigError, DataError), match=words):
        fit_pixels(dataclasses.replace(DataConfig(), **settings), manifest)  # type: ignore[arg-type]


def test_without_statistics_the_settings_are_asked_for() -> None:
    splits = {"train": dataclasses.replace(_ARRAYS.splits["train"], channels=None)}
    bare = dataclasses.replace(_ARRAYS, splits=splits)
    with pytest.raises(DataError, match=r"no statistics of the channels of split train; give data\.value_low"):
        fit_pixels(DataConfig(), bare)
    given = DataConfig(scaling="fixed", mean=(0.5,) * 3, std=(0.1,) * 3)
    assert fit_pixels(given, bare).value_high == (65535.0,) * 3


def test_a_model_is_not_used_on_other_images() -> None:
    check_images(DataConfig(), _PICTURES, "s")
    check_images(fit_pixels(DataConfig(), _ARRAYS), _ARRAYS, "s")
    with pytest.raises(DataError, match=r"s: the data set holds arrays of 16 bits and 3 .* pictures of 8 bits"):
        check_images(DataConfig(), _ARRAYS, "s")
    with pytest.raises(DataError, match=r"s: the data set holds pictures .* trained on 16 bits and 3 channels"):
        check_images(fit_pixels(DataConfig(), _ARRAYS), _PICTURES, "s")


def test_colours_are_jittered_in_pictures_only() -> None:
    check_jitter(AugmentConfig(hue_deg=3, saturation=0.1), _PICTURES)
    check_jitter(AugmentConfig(brightness=0.3, contrast=0.1), _ARRAYS)
    with pytest.raises(ConfigError, match=r"augment\.hue_deg=3: .* whose channels are not colours"):
        check_jitter(AugmentConfig(hue_deg=3), _ARRAYS)
