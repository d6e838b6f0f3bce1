"""Arrays through both loaders: pixels come out unchanged, and augmentation gives the same result."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from dist_seg.config.schema import AugmentConfig
from dist_seg.data.codecs.npy import encode_npy
from dist_seg.data.loading.batch import Batch
from dist_seg.data.loading.torch_loader import SegmentationDataset
from dist_seg.data.packing.pack import pack
from dist_seg.errors import ConfigError
from dist_seg.storage.object_store import open_storage
from tests.array_cases import COLORLESS, ArraysWithObjects, LabelledArrays, assert_close, noise, packed, smooth
from tests.instance_cases import assert_same_objects
from tests.loader_cases import (
    AUGMENTATIONS,
    PackedData,
    config,
    evaluate,
    scene_sample,
    train,
    write_dataset,
)

RAW: dict[str, object] = {"normalize": "unit", "value_low": 0.0, "value_high": 1.0}
"""Settings under which the network sees the values themselves."""
UNITS = [(0, 0), (1, 0)]
_SIZES = ((120, 150), (97, 131), (64, 200), (33, 40))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> PackedData:
    images = [smooth(seed, *_SIZES[seed % 4]) for seed in range(12)]
    return packed(tmp_path_factory.mktemp("arrays"), images)


@pytest.fixture(params=["torch", "dali"])
def loader(request: pytest.FixtureRequest) -> str:
    if request.param == "dali":
        pytest.importorskip("nvidia.dali")
    return str(request.param)


@pytest.fixture
def dali_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph for GPUs, on the CPU."""
    dali = pytest.importorskip("dist_seg.data.loading.dali")
    monkeypatch.setattr(dali, "_places_by_itself", lambda device: True)


@pytest.mark.parametrize(
    ("dtype", "channels"), [("uint8", 2), ("uint8", 5), ("uint16", 1), ("uint16", 3), ("uint16", 9)]
)
def test_without_augmentation_pixels_in_are_pixels_out(tmp_path: Path, loader: str, dtype: str, channels: int) -> None:
    images = [noise(dtype, channels, 12 + seed, 30, seed=seed) for seed in range(5)]
    data = packed(tmp_path, images)
    seen = {}
    for group in evaluate(data, config(loader=loader, **RAW)):
        for batch in group:
            seen |= dict(zip(batch.keys, batch.images, strict=True))
    assert len(seen) == 5
    for key, image in seen.items():
        assert np.array_equal(image.permute(1, 2, 0).numpy(), images[int(key)].astype(np.float32))


def test_a_crop_is_a_part_of_the_image(tmp_path: Path, loader: str) -> None:
    images = [noise("uint16", 4, 30, 40, seed=seed) for seed in range(4)]
    augment = dataclasses.replace(AUGMENTATIONS["crop"], crop_height=16, crop_width=24)
    (batch,) = train(packed(tmp_path, images), config(augment, loader=loader, **RAW), [(0, 0)])
    for key, image in zip(batch.keys, batch.images, strict=True):
        whole, part = images[int(key)], image.permute(1, 2, 0).numpy()
        windows = np.lib.stride_tricks.sliding_window_view(whole, (16, 24), axis=(0, 1)).transpose(0, 1, 3, 4, 2)
        assert np.any(np.all(windows == part, axis=(2, 3, 4)))


@pytest.mark.parametrize("name", list(COLORLESS))
def test_dali_equals_torch_to_the_bit_on_the_cpu(scenes: PackedData, name: str) -> None:
    pytest.importorskip("nvidia.dali")
    reference, other = (train(scenes, config(COLORLESS[name], loader=kind), UNITS) for kind in ("torch", "dali"))
    assert_close(reference, other, 0.0)


@pytest.mark.parametrize("name", list(COLORLESS))
def test_dalis_own_operators_equal_torch(scenes: PackedData, name: str, dali_places: None) -> None:
    reference, other = (train(scenes, config(COLORLESS[name], loader=kind), UNITS) for kind in ("torch", "dali"))
    assert_close(reference, other, 0.02)


@pytest.fixture(scope="module", params=[LabelledArrays, ArraysWithObjects], ids=["labels", "objects"])
def layered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PackedData:
    folder = tmp_path_factory.mktemp("layered")
    manifest = pack(request.param([smooth(seed, *_SIZES[seed % 4]) for seed in range(12)]), folder).manifest
    return PackedData(open_storage(folder), manifest)


def _assert_same_layered(reference: Sequence[Batch], other: Sequence[Batch], most: float) -> None:
    assert_close(reference, other, most)
    if any(batch.objects for batch in reference):
        assert_same_objects(reference, other)


@pytest.mark.parametrize("name", list(COLORLESS))
@pytest.mark.parametrize("most", [0.0, 0.02], ids=["placed_by_torch", "placed_by_dali"])
def test_both_loaders_give_arrays_with_layers(
    layered: PackedData, name: str, most: float, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("nvidia.dali")
    if most:
        request.getfixturevalue("dali_places")
    reference, other = (train(layered, config(COLORLESS[name], loader=kind), UNITS) for kind in ("torch", "dali"))
    _assert_same_layered(reference, other, most)
    seen = [evaluate(layered, config(loader=kind)) for kind in ("torch", "dali")]
    for a, b in zip(*seen, strict=True):
        _assert_same_layered(a, b, most)


@pytest.mark.parametrize("input_scale", [None, 0.5, 1.7])
def test_dalis_own_operators_equal_torch_in_evaluation(
    scenes: PackedData, input_scale: float | None, dali_places: None
) -> None:
    reference, other = (evaluate(scenes, config(loader=kind, input_scale=input_scale)) for kind in ("torch", "dali"))
    for a, b in zip(reference, other, strict=True):
        assert_close(a, b, 0.02)


def test_the_network_sees_values_of_mean_0_and_deviation_1(scenes: PackedData, loader: str) -> None:
    batches = [batch for group in evaluate(scenes, config(loader=loader)) for batch in group]
    pixels = torch.cat([batch.images.transpose(0, 1).flatten(1) for batch in batches], dim=1)
    assert pixels.mean(dim=1).abs().max() < 1e-4
    assert (pixels.std(dim=1) - 1).abs().max() < 1e-4


@pytest.mark.parametrize("scaling", ["fixed", "percentiles"])
def test_scaling_takes_the_range_that_it_says(tmp_path: Path, loader: str, scaling: str) -> None:
    values = np.full((40, 40, 2), 1000, np.uint16)
    values[:20, :, 1] = 200
    data = packed(tmp_path, [values] * 4)
    (batch,) = evaluate(data, config(loader=loader, normalize="unit", scaling=scaling), indices=[0])[0]
    low, high = batch.images[0, 1, 0, 0].item(), batch.images[0, 1, -1, -1].item()
    expected = (200 / 65535, 1000 / 65535) if scaling == "fixed" else (0.0, (1000 - 200) / (1003 - 200))
    assert (low, high) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("channels", [(3,), (4, 0), (2, 2, 1)])
def test_chosen_channels_come_in_their_order(scenes: PackedData, loader: str, channels: tuple[int, ...]) -> None:
    augment = COLORLESS["all"]
    whole = train(scenes, config(augment, loader=loader), UNITS)
    chosen = train(scenes, config(augment, loader=loader, channels=channels), UNITS)
    for a, b in zip(whole, chosen, strict=True):
        torch.testing.assert_close(b.images, a.images[:, list(channels)], rtol=0, atol=1e-5)


def test_chosen_channels_of_a_picture_come_after_its_colour(tmp_path: Path, loader: str) -> None:
    data = write_dataset(tmp_path, [scene_sample(seed, form="png") for seed in range(8)])
    whole = train(data, config(AUGMENTATIONS["all_but_rotation"], loader=loader), UNITS)
    chosen = train(data, config(AUGMENTATIONS["all_but_rotation"], loader=loader, channels=(2, 0)), UNITS)
    for a, b in zip(whole, chosen, strict=True):
        torch.testing.assert_close(b.images, a.images[:, [2, 0]], rtol=0, atol=1e-5)


def test_brightness_and_contrast_act_on_all_channels_in_scaled_values(tmp_path: Path, loader: str) -> None:
    values = np.broadcast_to(np.array([1000, 3000, 5000], np.uint16), (20, 20, 3))
    data = packed(tmp_path, [values] * 4)
    still = AugmentConfig(crop_height=20, crop_width=20, scale_min=1, scale_max=1, flip_probability=0)
    augment = dataclasses.replace(still, brightness=0.4, contrast=0.3)
    settings: dict[str, object] = {"normalize": "unit", "value_low": (0.0, 2000.0, 0.0), "value_high": 10_000.0}
    (plain,) = train(data, config(still, loader=loader, **settings), [(0, 0)])
    (jittered,) = train(data, config(augment, loader=loader, **settings), [(0, 0)])
    before, after = plain.images[:, :, 0, 0], jittered.images[:, :, 0, 0]
    assert before[0].tolist() == pytest.approx([0.1, 0.125, 0.5])
    # One gain and one offset per sample: three channels lie on one line.
    gain = (after[:, 2] - after[:, 0]) / 0.4
    offset = after[:, 0] - 0.1 * gain
    torch.testing.assert_close(after[:, 1], 0.125 * gain + offset, rtol=0, atol=1e-5)
    assert gain.min() > 0.6 * 0.7 and gain.max() < 1.4 * 1.3 and gain.std() > 0.01


def test_around_an_array_lies_the_mean_of_the_data(tmp_path: Path, loader: str) -> None:
    data = packed(tmp_path, [noise("uint16", 4, 20, 20, seed=seed) for seed in range(4)])
    augment = dataclasses.replace(AUGMENTATIONS["crop"], crop_height=40, crop_width=40)
    (batch,) = train(data, config(augment, loader=loader), [(0, 0)])
    outside = batch.targets == 255
    assert outside.sum() == 4 * (1600 - 400)
    assert batch.images.transpose(0, 1)[:, outside].abs().max() < 1e-4


@pytest.mark.parametrize("key", ["saturation", "hue_deg"])
def test_jitter_of_colours_is_refused(scenes: PackedData, key: str) -> None:
    augment = dataclasses.replace(AUGMENTATIONS["crop"], **{key: 0.5})
    with pytest.raises(ConfigError, match=rf"augment\.{key}=0\.5: the data set holds arrays of 16 bits and 5 channels"):
        train(scenes, config(augment), UNITS)


def test_a_damaged_member_is_a_bad_sample_in_both_loaders(tmp_path: Path, loader: str) -> None:
    data = packed(tmp_path, [noise("uint16", 4, 40, 40, seed=seed) for seed in range(8)])
    path = tmp_path / "train-000000.tar"
    contents = path.read_bytes()
    at = contents.index(encode_npy(noise("uint16", 4, 40, 40, seed=3))) + 500
    path.write_bytes(contents[:at] + bytes([contents[at] ^ 1]) + contents[at + 1 :])
    batches = train(data, config(AUGMENTATIONS["pad"], loader=loader), UNITS)
    assert {(bad.key, bad.reason) for batch in batches for bad in batch.bad} == {
        ("3", "npy: its checksum is wrong, read twice")
    }


def test_worker_processes_hand_arrays_over(scenes: PackedData) -> None:
    from dist_seg.data.loading.loader import train_batches

    cfg = config(COLORLESS["all"])
    arguments = (scenes.train_plan(seed=3), UNITS, torch.device("cpu"))
    alone, by_workers = (list(train_batches(cfg, scenes.view_with(num_threads=n), *arguments)) for n in (0, 2))
    assert_close(alone, by_workers, 0.0)


def test_the_notebook_dataset_gives_arrays(scenes: PackedData, tmp_path: Path) -> None:
    sample = SegmentationDataset(scenes.storage, split="train")[0]
    assert sample["image"].shape[0] == 5
    assert sample["image"].shape[1:] == sample["mask"].shape
