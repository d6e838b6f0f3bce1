"""Both loaders return the exact pixels of a raw data set in any layout, without augmentation."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_seg.data.formats.synthetic import SyntheticSource
from dist_seg.data.packing.pack import pack
from dist_seg.data.raw.source import Source
from dist_seg.storage.object_store import open_storage
from tests.loader_cases import PackedData, config, encode, evaluate, scene

from ..format_trees import LAYOUTS, Layout, Sample

# Suffix, encoding and size of each picture; all sizes differ and are odd.
_PICTURES = {
    "a_png": (".png", (23, 31), "PNG", {}),
    "b_jpeg": (".jpg", (64, 48), "JPEG", {"quality": 92, "subsampling": 2}),
    "c_grey_png": (".png", (40, 40), "PNG", {}),
}


def _samples(num_classes: int) -> dict[str, Sample]:
    """Pictures with noise as masks: every class and the ignore index, so that hardly any two neighbours are equal."""
    samples = {}
    for seed, (stem, (suffix, (height, width), kind, options)) in enumerate(_PICTURES.items()):
        picture = scene(seed, height, width)[0]
        drawn = np.random.default_rng(seed).integers(0, num_classes + 1, (height, width))
        ids = np.where(drawn == num_classes, 255, drawn).astype(np.uint8)
        pixels = picture[..., 1] if "grey" in stem else picture
        samples[stem] = Sample(suffix, encode(pixels, kind, **options), ids)
    return samples


def _assert_given(packed: PackedData, samples: Mapping[str, Sample], loader: str) -> None:
    seen = []
    for batch in (b for group in evaluate(packed, config(loader=loader, normalize="unit")) for b in group):
        for i, key in enumerate(batch.keys):
            stem = key.split("__")[-1]
            sample = samples[stem]
            assert np.array_equal(batch.targets[i].numpy(), sample.ids), f"{key}: another mask"
            picture = np.asarray(Image.open(io.BytesIO(sample.image)).convert("RGB"))
            pixels = (batch.images[i].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
            if loader == "dali" and sample.suffix == ".jpg":  # its decoder differs from PIL's
                assert pixels.shape == picture.shape
                assert np.abs(pixels.astype(int) - picture).mean() <= 2
            else:
                assert np.array_equal(pixels, picture), f"{key}: other pixels"
            seen.append(stem)
    assert sorted(seen) == sorted(samples)


def _pack(source: Source, out: Path) -> PackedData:
    return PackedData(open_storage(out), pack(source, out).manifest)


@pytest.fixture(scope="module", params=LAYOUTS.values(), ids=LAYOUTS)
def packed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PackedData, dict[str, Sample]]:
    """A data set in each layout, and what was written into it."""
    layout: Layout = request.param
    root = tmp_path_factory.mktemp("layout")
    samples = _samples(layout.num_classes)
    return _pack(layout.write(root / "raw", samples), root / "out"), samples


@pytest.mark.parametrize("loader", ["torch", "dali"])
def test_both_loaders_give_the_pixels_and_ids_of_the_files(
    packed: tuple[PackedData, dict[str, Sample]], loader: str
) -> None:
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    _assert_given(*packed, loader)


def test_so_do_dalis_own_operators(
    packed: tuple[PackedData, dict[str, Sample]], monkeypatch: pytest.MonkeyPatch
) -> None:
    dali = pytest.importorskip("dist_seg.data.loading.dali")
    monkeypatch.setattr(dali, "_places_by_itself", lambda device: True)  # on the CPU, the graph meant for GPUs
    _assert_given(*packed, "dali")


def test_shards_hold_the_files_of_the_images_byte_for_byte(packed: tuple[PackedData, dict[str, Sample]]) -> None:
    data, samples = packed
    found = {}
    for shard in data.manifest.split("train").shards:
        with tarfile.open(fileobj=io.BytesIO(data.storage.read(shard.name))) as tar:
            for member in tar:
                stem, _, suffix = member.name.split("__")[-1].partition(".")
                found[stem, suffix] = tar.extractfile(member).read()  # type: ignore[union-attr]  # all members are files
    assert {key: member for key, member in found.items() if key[1] != "seg.png"} == {
        (stem, sample.suffix[1:]): sample.image for stem, sample in samples.items()
    }
    for stem, sample in samples.items():
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(found[stem, "seg.png"]))), sample.ids)


def test_the_manifest_counts_the_pixels_of_every_class(packed: tuple[PackedData, dict[str, Sample]]) -> None:
    data, samples = packed
    counts = sum(np.bincount(sample.ids.ravel(), minlength=256) for sample in samples.values())
    split = data.manifest.split("train")
    assert list(split.class_pixels) == counts[: len(data.manifest.class_names)].tolist()  # type: ignore[index]
    assert split.ignored_pixels == counts[255]  # type: ignore[index]


@pytest.mark.parametrize("loader", ["torch", "dali"])
def test_so_it_is_with_what_is_drawn_here(tmp_path: Path, loader: str) -> None:
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    source = SyntheticSource(num_train=3, num_val=0, height=48, width=64)
    drawn = {}
    for ref in source.samples():
        raw = source.load(ref)
        suffix = f".{Image.open(io.BytesIO(raw.image)).format}".lower().replace("jpeg", "jpg")
        drawn[ref.key] = Sample(suffix, raw.image, raw.mask.astype(np.uint8))
    _assert_given(_pack(source, tmp_path / "out"), drawn, loader)
