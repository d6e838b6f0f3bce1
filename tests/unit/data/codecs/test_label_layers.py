"""Masks of several labels, from a reader's layers to batches, which both loaders make alike."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from dist_seg.config.schema import AugmentConfig
from dist_seg.data.codecs.encoded import TargetClasses
from dist_seg.data.codecs.headers import UndecodableError
from dist_seg.data.codecs.label_layers import LabelLayers, decode_labels, encode_labels
from dist_seg.data.shards.writer import EncodedMembers
from dist_seg.errors import DataError
from tests.loader_cases import (
    AUGMENTATIONS,
    NUM_CLASSES,
    PackedData,
    assert_same,
    config,
    encode,
    evaluate,
    scene_sample,
    train,
    write_dataset,
)

SIZES = ((120, 150), (97, 131), (64, 200), (150, 90))
UNITS = [(0, 0), (1, 0)]


def layers(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """(K, H, W): blocks of 0, 1 and some 255, different for every label."""
    rng = np.random.default_rng(seed)
    blocks = rng.choice(
        np.array([0, 1, 255], np.uint8), (NUM_CLASSES, -(-height // 8), -(-width // 8)), p=(0.6, 0.3, 0.1)
    )
    return np.ascontiguousarray(blocks.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width])


def members(seed: int, height: int, width: int, form: str = "png") -> EncodedMembers:
    sample = scene_sample(seed, height=height, width=width, form=form)
    target = encode_labels(layers(seed, height, width))
    return dataclasses.replace(sample, target=target, target_suffix="multi.png")


@pytest.fixture(scope="module")
def samples() -> list[EncodedMembers]:
    forms = ("png", "jpeg444", "jpeg420", "grey_png")
    return [members(10 * i + j, *size, form) for i, form in enumerate(forms) for j, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, samples: list[EncodedMembers]) -> PackedData:
    return write_dataset(tmp_path_factory.mktemp("labels"), samples)


@pytest.fixture(params=["placed_by_torch", "placed_by_dali"])
def dali(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The DALI loader with its CPU graph, and with the graph for GPUs."""
    module = pytest.importorskip("dist_seg.data.loading.dali")
    if request.param == "placed_by_dali":
        monkeypatch.setattr(module, "_places_by_itself", lambda device: True)


@settings(max_examples=50, deadline=None)
@given(
    arrays.arrays(np.uint8, st.tuples(*(st.integers(1, 9) for _ in range(3))), elements=st.sampled_from((0, 1, 255)))
)
def test_layers_come_out_of_their_picture_as_they_went_in(labels: NDArray[np.uint8]) -> None:
    encoded = encode_labels(labels)
    assert np.array_equal(decode_labels(encoded, len(labels)), labels)
    LabelLayers(classes=TargetClasses.as_packed(len(labels), 255)).read([encoded], *labels.shape[1:])


@pytest.mark.parametrize("augment", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_dali_equals_torch(data: PackedData, augment: AugmentConfig, dali: None) -> None:
    cfg = config(augment)
    reference = train(data, cfg, UNITS)
    by_dali = train(data, dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, loader="dali")), UNITS)
    assert_same(reference, by_dali, cfg)
    assert all(batch.targets.dtype == torch.uint8 for batch in reference)
    assert {value for batch in reference for value in batch.targets.unique().tolist()} <= {0, 1, 255}


@pytest.mark.parametrize("name", ["crop", "pad", "all_but_rotation", "all"])
def test_a_layer_goes_where_a_mask_of_classes_would(
    data: PackedData, samples: list[EncodedMembers], tmp_path: Path, name: str
) -> None:
    """The oracle is the path of class ids, which has tests of its own."""
    cfg, label = config(AUGMENTATIONS[name]), 3
    # As class ids, with 2 for unknown, because the ignore index also marks what lies outside the picture.
    single = [
        dataclasses.replace(
            sample,
            target=encode(decode_labels(sample.target, NUM_CLASSES)[label].clip(0, 2), "PNG"),
            target_suffix="seg.png",
        )
        for sample in samples
    ]
    of_classes = train(write_dataset(tmp_path / "single", single), cfg, UNITS)
    of_labels = train(data, cfg, UNITS)
    for classes, labels in zip(of_classes, of_labels, strict=True):
        assert classes.digest == labels.digest
        assert torch.equal(classes.images, labels.images)
        wanted = classes.targets.where(classes.targets != 2, torch.tensor(255))
        assert torch.equal(labels.targets[:, label].long(), wanted)


@pytest.mark.parametrize("loader", ["torch", "dali"])
def test_evaluation_sees_the_layers_as_they_were_packed(
    data: PackedData, samples: list[EncodedMembers], loader: str
) -> None:
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    truth = {sample.key: decode_labels(sample.target, NUM_CLASSES) for sample in samples}
    batches = [batch for group in evaluate(data, config(loader=loader, input_scale=0.5)) for batch in group]
    seen = {key: target.numpy() for batch in batches for key, target in zip(batch.keys, batch.targets, strict=True)}
    assert seen.keys() == truth.keys()
    assert all(np.array_equal(seen[key], truth[key]) for key in truth)


@pytest.mark.parametrize("loader", ["torch", "dali"])
def test_other_values_make_a_bad_sample_that_is_named(tmp_path: Path, loader: str) -> None:
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    wrong = layers(1, 64, 64)
    wrong[2, 5, 5] = 7
    bad = dataclasses.replace(members(1, 64, 64), key="bad", target=encode_labels(wrong))
    data = write_dataset(tmp_path / "data", [bad, *(members(i, 64, 64) for i in range(2, 9))])
    batches = train(data, config(loader=loader), [(0, 0), (1, 0)])
    assert [(sample.key, sample.reason) for batch in batches for sample in batch.bad] == [
        ("bad", "mask: layers of labels hold 7; they may hold 0, 1 and 255")
    ]


@pytest.mark.parametrize(
    ("height", "width", "num_labels"),
    [(NUM_CLASSES * 64 - 64, 64, NUM_CLASSES), (NUM_CLASSES * 64, 63, NUM_CLASSES), (63, 64, 1)],
)
def test_layers_of_another_size_are_refused(height: int, width: int, num_labels: int) -> None:
    mask = encode(np.zeros((height, width), np.uint8), "PNG")
    with pytest.raises(UndecodableError, match="the image has 64x64"):
        LabelLayers(classes=TargetClasses.as_packed(num_labels, 255)).read([mask], 64, 64)


def checked_labels(mask: Any) -> NDArray[np.uint8]:
    """A reader's mask of two labels, as packing takes it."""
    kind = LabelLayers(classes=TargetClasses.as_packed(2, 255))
    kind.check_array(mask, "m", ("red", "wet"))
    return kind.checked(mask, "m", ("red", "wet"))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((3, 4, 5), bool), "of shape 3x4x5.*must be \\(2, height, width\\)"),
        (np.zeros((4, 5), bool), "of shape 4x5"),
        (np.zeros((2, 4, 5), np.float32), "type float32"),
        (np.array([[[0, 1]], [[0, 3]]]), r"m: 3 at \(x=1, y=0\) of label wet \(1 such pixels\)"),
        (np.array([[[0, 1]], [[0, -1]]]), r"m: -1 at \(x=1, y=0\)"),
        (None, "gave a NoneType"),
    ],
)
def test_a_readers_mask_that_is_none_is_refused(mask: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        checked_labels(mask)


def test_a_readers_mask_may_be_of_bool() -> None:
    mask = np.array([[[True, False]], [[True, True]]])
    assert checked_labels(mask).tolist() == [[[1, 0]], [[1, 1]]]
