"""Chooses `data.channels`, `data.scaling`, `data.mean` and similar settings from the data.

They are filled in once, at the start, so that a trained model can be used without the manifest of its data.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from dist_seg.config.schema import AugmentConfig, DataConfig
from dist_seg.data.codecs.npy import ArrayLayout, Values, rgb_view
from dist_seg.data.shards.manifest import ChannelStatistics
from dist_seg.data.view.data_view import DataView
from dist_seg.errors import ConfigError, DataError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""For RGB values from 0 to 1."""
_WHITE = 255.0
_RGB = "R, G and B"
_SHOWN_DEVIATIONS = 3


def layout_of_data(data: DataConfig) -> ArrayLayout | None:
    """Layout of the arrays that the configuration was chosen for; None for pictures."""
    if data.image_dtype is None or data.image_channels is None:
        return None
    return ArrayLayout(dtype=data.image_dtype, channels=data.image_channels)


def input_channels(data: DataConfig) -> int:
    """Number of channels that the network takes, from a configuration with chosen values."""
    return len(data.channels) if data.channels is not None else data.image_channels or 3


def value_range(data: DataConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The values that become 0 and 1 in each channel that the network takes. data: with chosen values."""
    return _each(data.value_low, 0.0, data), _each(data.value_high, _WHITE, data)


def network_values(values: Values, data: DataConfig) -> NDArray[np.uint8] | NDArray[np.float32]:
    """(H, W, C): an image as `place_image` takes it. data: with chosen values."""
    if layout_of_data(data) is None:
        assert values.dtype == np.uint8
        return cast(NDArray[np.uint8], values)
    assert data.channels is not None
    return values.take(data.channels, axis=2).astype(np.float32)


def shown(values: Values, data: DataConfig) -> NDArray[np.uint8]:
    """(H, W, 3): an image to look at. Pictures stay unchanged; arrays show the first three channels that the network
    takes, or the first as grey. data: with chosen values.
    """
    if layout_of_data(data) is None:
        assert values.dtype == np.uint8
        return cast(NDArray[np.uint8], values)
    assert data.channels is not None and data.mean is not None and data.std is not None
    low, high, mean, std = (np.array(numbers) for numbers in (*value_range(data), data.mean, data.std))
    if data.scaling == "fixed":  # an image usually fills only a part of the type's range
        middle, around = low + mean * (high - low), _SHOWN_DEVIATIONS * std * (high - low)
        low, high = np.maximum(low, middle - around), np.minimum(high, middle + around)
    return rgb_view(values.take(data.channels[:3], axis=2), low[:3], high[:3])


def fit_pixels(data: DataConfig, view: DataView) -> DataConfig:
    """Fills settings that are None from the images of the data set; others stay.

    Raises ConfigError for a setting that does not fit the images, and DataError if their statistics are missing.
    """
    for key, found in (
        ("image_dtype", view.image and view.image.dtype),
        ("image_channels", view.image and view.image.channels),
    ):
        if getattr(data, key) not in (None, found):
            raise ConfigError(f"data.{key}={getattr(data, key)}: {_held(view)}")
    return _fit_arrays(data, view, view.image) if view.image else fit_pictures(data)


def check_images(data: DataConfig, view: DataView, where: str) -> None:
    """Raises DataError unless the images have the layout that a trained model was configured for."""
    if layout_of_data(data) != view.image:
        trained_on = layout_of_data(data) or "pictures of 8 bits"
        raise DataError(f"{where}: {_held(view)}; the model was trained on {trained_on}")


def check_jitter(augment: AugmentConfig, view: DataView) -> None:
    """Raises ConfigError for colour jitter on arrays, which have no colours."""
    for key in ("saturation", "hue_deg"):
        if view.image and (value := getattr(augment, key)):
            raise ConfigError(
                f"augment.{key}={value}: {_held(view)}, whose channels are not colours; set it "
                "to 0 (augment.brightness and augment.contrast act on all channels alike)"
            )


def _held(view: DataView) -> str:
    held = f"arrays of {view.image}" if view.image else "pictures of 8 bits, which are taken as RGB"
    return f"the data set holds {held}"


def fit_pictures(data: DataConfig) -> DataConfig:
    """`fit_pixels` for data that holds pictures."""
    if data.scaling == "percentiles":
        raise ConfigError(
            "data.scaling=percentiles: the data set holds 8-bit pictures, for which packing records no percentiles; "
            "leave it out, or give data.value_low and data.value_high"
        )
    channels = _checked_channels(data, 3, _RGB)
    changes: dict[str, object] = {}
    for key, of_rgb in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        if getattr(data, key) is None:
            changes[key] = tuple(of_rgb[channel] for channel in channels)
    for key in ("value_low", "value_high"):
        if (value := getattr(data, key)) is not None:
            changes[key] = _each(value, 0.0, data)
    return _checked(dataclasses.replace(data, **changes), len(channels))  # type: ignore[arg-type]  # of these names


def _fit_arrays(data: DataConfig, view: DataView, layout: ArrayLayout) -> DataConfig:
    channels = _checked_channels(data, layout.channels, str(layout))
    data = dataclasses.replace(data, image_dtype=layout.dtype, image_channels=layout.channels, channels=channels)
    is_given = data.value_low is not None or data.value_high is not None
    scaling = ("fixed" if is_given else "percentiles") if data.scaling == "auto" else data.scaling
    low, high = data.value_low, data.value_high
    if scaling == "fixed":
        low, high = (0.0 if low is None else low), (float(layout.largest) if high is None else high)
    elif low is None or high is None:
        found = _statistics(data, view)
        low = tuple(float(found.low[channel]) for channel in channels) if low is None else low
        high = tuple(float(found.high[channel]) for channel in channels) if high is None else high
        if data.value_high is None:  # a channel with a single value
            high = tuple(max(a + 1, b) for a, b in zip(_each(low, 0.0, data), _each(high, 0.0, data), strict=True))
    data = dataclasses.replace(
        data, scaling=scaling, value_low=_each(low, 0.0, data), value_high=_each(high, 0.0, data)
    )
    data = _checked(data, len(channels))
    if data.mean is not None and data.std is not None:
        return data
    found, (lows, highs) = _statistics(data, view), value_range(data)
    spans = [b - a for a, b in zip(lows, highs, strict=True)]
    mean = tuple(_short((found.mean[c] - a) / span) for c, a, span in zip(channels, lows, spans, strict=True))
    std = tuple(_short(found.std[c] / span) or 1.0 for c, span in zip(channels, spans, strict=True))
    return dataclasses.replace(
        data, mean=mean if data.mean is None else data.mean, std=std if data.std is None else data.std
    )


def _statistics(data: DataConfig, view: DataView) -> ChannelStatistics:
    channels = view.split(data.train_split).channels
    if channels is None:
        raise DataError(
            f"there are no statistics of the channels of split {data.train_split}; give data.value_low, "
            "data.value_high, data.mean and data.std"
        )
    return channels


def _checked_channels(data: DataConfig, count: int, named: str) -> tuple[int, ...]:
    channels = tuple(range(count)) if data.channels is None else data.channels
    for channel in channels:
        if not 0 <= channel < count:
            raise ConfigError(
                f"data.channels={list(channels)}: there is no channel {channel}; the images have {named}, counted from "
                f"0 to {count - 1}"
            )
    return channels


def _checked(data: DataConfig, count: int) -> DataConfig:
    for key in ("mean", "std", "value_low", "value_high"):
        value: Sequence[float] | None = getattr(data, key)
        if value is not None and len(value) != count:
            raise ConfigError(
                f"data.{key}={list(value)}: {len(value)} numbers, for {count} channels that the network takes"
            )
    for low, high in zip(*value_range(data), strict=True):
        if not low < high:
            raise ConfigError(f"data.value_low={low:g}: must be less than data.value_high={high:g}")
    return data


def _each(value: float | Iterable[float] | None, default: float, data: DataConfig) -> tuple[float, ...]:
    value = default if value is None else value
    return (float(value),) * input_channels(data) if isinstance(value, int | float) else tuple(value)


def _short(value: float) -> float:
    return float(f"{value:.6g}")
