"""Samples with one thing wrong, through packing, verify and training.

Every one is refused or replaced, and then named; or it does no harm, which is shown: what is trained on is what any
viewer shows of the raw files, or what was packed. A few here, a thousand with the marker `soak`.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dist_seg.data.codecs.class_ids import decode_class_ids
from dist_seg.data.codecs.decode import decode_image
from dist_seg.data.formats.folder import open_folder
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import PackResult, pack
from dist_seg.data.plan.plan import TrainPlan, micro_batch_at
from dist_seg.data.raw.source import RawReading
from dist_seg.data.raw.splitting import Dividing
from dist_seg.data.shards.manifest import Manifest
from dist_seg.data.shards.sidecar import Sidecar
from dist_seg.data.shards.verify import verify
from dist_seg.data.view.data_view import whole_view
from dist_seg.data.view.reader import ShardReader
from dist_seg.storage.object_store import open_storage
from tests.loader_cases import AUGMENTATIONS, NUM_CLASSES, PackedData, config, scene_sample, train, write_dataset
from tests.mutations import MUTATIONS, RawPair, flipped, holed, noise, raw_pair

SEED = 20261125
COUNTS = [2 * len(MUTATIONS), pytest.param(1000, marks=pytest.mark.soak)]
MICRO_BATCH = 4


def write_mutants(root: Path, count: int) -> list[str]:
    """`images/`, `masks/` and a list of classes; the stems, each with the name of what is wrong."""
    rng = np.random.default_rng(SEED)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(f"class{i}" for i in range(NUM_CLASSES)))
    stems = []
    for number in range(count):
        name = list(MUTATIONS)[number % len(MUTATIONS)]
        pair = MUTATIONS[name](rng, raw_pair(number), raw_pair(number + 1))
        stems.append(f"{number:04d}-{name}")
        (root / "images" / f"{stems[-1]}.{pair.image_suffix}").write_bytes(pair.image)
        (root / "masks" / f"{stems[-1]}.{pair.mask_suffix}").write_bytes(pair.mask)
    return stems


def packed_samples(out: Path, manifest: Manifest) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Image and mask of every sample."""
    reader = ShardReader(whole_view(open_storage(out), manifest), "train")
    places = ((shard, i) for shard, count in enumerate(reader.shard_samples) for i in range(count))
    samples = (reader.read(*place) for place in places)
    return {sample.key: (decode_image(sample.image), decode_class_ids(sample.target)) for sample in samples}


def shown(file: Path) -> NDArray[np.uint8]:
    """What a viewer shows: upright RGB."""
    with Image.open(file) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def written_ids(file: Path) -> NDArray[np.integer]:
    """The numbers that a mask holds."""
    with Image.open(file) as mask:
        values = np.asarray(mask.convert("L") if mask.mode == "LA" else mask).astype(np.int32)
    return values if values.ndim == 2 else values[..., 0]


@pytest.fixture(scope="module", params=COUNTS)
def mutants(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str], PackResult]:
    """The raw folder, its stems, and what packing with `--skip-bad` made of them, into `out` below it."""
    root = tmp_path_factory.mktemp("mutants")
    stems = write_mutants(root, request.param)
    source = open_folder(root / "images", root / "masks", dividing=Dividing(val=0.0), reading=RawReading(skip_bad=True))
    return root, stems, pack(source, root / "out", PackOptions(skip_bad=True, shard_bytes=200_000))


Mutants = tuple[Path, list[str], PackResult]


def test_every_mutant_is_packed_or_named_and_none_is_both(mutants: Mutants) -> None:
    root, stems, result = mutants
    refused = [refusal.key for refusal in result.skipped]
    packed = list(packed_samples(root / "out", result.manifest))
    assert Counter(refused + packed) == Counter(stems)
    assert result.manifest.splits["train"].skipped_samples == len(refused)
    for refusal in result.skipped:
        assert refusal.key in refusal.reason, f"{refusal.reason} names no file"


def test_what_was_packed_is_what_a_viewer_shows(mutants: Mutants) -> None:
    root, _, result = mutants
    files = {path.stem: path for path in (root / "images").iterdir()}
    masks = {path.stem: path for path in (root / "masks").iterdir()}
    for key, (image, mask) in packed_samples(root / "out", result.manifest).items():
        seen = shown(files[key]).astype(np.int16)
        assert image.shape == seen.shape, key
        # Turned by its EXIF a JPEG is written anew; everything else is to the bit.
        allowed = 3.0 if "turned" in key else 0.0
        assert np.abs(seen - image).mean() <= allowed, key
        assert np.array_equal(written_ids(masks[key]), mask), key


def test_the_histogram_is_that_of_what_was_packed(mutants: Mutants) -> None:
    root, _, result = mutants
    ids = np.concatenate([mask.ravel() for _, mask in packed_samples(root / "out", result.manifest).values()])
    counts = np.bincount(ids, minlength=256)
    split = result.manifest.splits["train"]
    assert split.class_pixels == tuple(counts[:NUM_CLASSES])
    assert split.ignored_pixels == counts[255]
    assert sum(split.class_pixels) + split.ignored_pixels == len(ids)


def test_verify_finds_nothing_wrong_with_it(mutants: Mutants) -> None:
    assert verify(mutants[0] / "out") == []


@pytest.mark.parametrize("name", ["image_cmyk", "image_tiff", "image_webp", "image_turned", "mask_rgb", "mask_palette"])
def test_what_is_only_unusual_is_not_refused(mutants: Mutants, name: str) -> None:
    _, stems, result = mutants
    refused = {refusal.key for refusal in result.skipped}
    mine = [stem for stem in stems if stem.endswith(name)]
    assert mine
    assert not refused.issuperset(mine)


@pytest.mark.parametrize(
    "name", ["image_empty", "mask_empty", "image_noise", "mask_noise", "mask_jpeg", "mask_colors", "mask_transposed"]
)
def test_what_cannot_be_right_is_refused(mutants: Mutants, name: str) -> None:
    _, stems, result = mutants
    refused = {refusal.key for refusal in result.skipped}
    assert refused.issuperset(stem for stem in stems if stem.endswith(name))


@pytest.mark.parametrize("loader", ["torch", "dali"])
def test_an_epoch_over_what_was_packed_delivers_every_sample(mutants: Mutants, loader: str) -> None:
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    root, _, result = mutants
    data = PackedData(open_storage(root / "out"), result.manifest)
    steps = result.manifest.split("train").num_samples // MICRO_BATCH
    batches = train(data, config(AUGMENTATIONS["all"], loader=loader), [(step, 0) for step in range(steps)])
    keys = [key for batch in batches for key in batch.keys]
    assert len(set(keys)) == steps * MICRO_BATCH
    assert not [bad for batch in batches for bad in batch.bad]


@pytest.fixture(scope="module", params=[12, pytest.param(334, marks=pytest.mark.soak)])
def damaged(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PackedData, set[str], Path]:
    """Shards of six samples, of which one was damaged since: the data, and the keys of the damaged ones."""
    folder = tmp_path_factory.mktemp("damaged")
    clean = [scene_sample(i, height=40, width=56, form=("jpeg420", "png")[i % 2]) for i in range(6 * request.param)]
    data = write_dataset(folder, clean, per_shard=6)
    rng = np.random.default_rng(SEED)
    keys = set()
    for shard in data.manifest.split("train").shards:
        sidecar = Sidecar.parse((folder / shard.sidecar_name).read_bytes())
        index, role = int(rng.integers(0, 6)), str(rng.choice(["image", "target"]))
        member = sidecar.member(index, role)
        tar = bytearray((folder / shard.name).read_bytes())
        before = bytes(tar[member.offset : member.offset + member.length])
        change = (flipped, holed, noise)[int(rng.integers(0, 3))]
        after = change(before, rng)
        tar[member.offset : member.offset + member.length] = after
        (folder / shard.name).write_bytes(tar)
        if after != before:
            keys.add(sidecar.key(index))
    return data, keys, folder


Damaged = tuple[PackedData, set[str], Path]


@pytest.mark.parametrize("loader", ["torch", "dali"])
def test_what_was_damaged_since_is_replaced_and_named(damaged: Damaged, loader: str) -> None:
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    data, keys, _ = damaged
    total = data.manifest.split("train").num_samples
    units = [(step, 0) for step in range(total // MICRO_BATCH)]
    batches = train(data, config(loader=loader), units)
    delivered = [key for batch in batches for key in batch.keys]
    named = {bad.key for batch in batches for bad in batch.bad}
    planned = _planned(data.train_plan(seed=3), data, len(units))
    assert len(delivered) == len(units) * MICRO_BATCH
    assert named == keys & planned
    assert not keys & set(delivered)
    assert set(delivered) >= planned - keys


def test_verify_names_it(damaged: Damaged) -> None:
    _, keys, folder = damaged
    problems = verify(folder)
    assert {key for key in keys if any(f"{key}." in problem.reason for problem in problems)} == keys
    assert len(problems) == len(keys)


@pytest.fixture(scope="module", params=[66, pytest.param(1000, marks=pytest.mark.soak)])
def foreign(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PackedData, dict[str, RawPair]]:
    """Mutants in shards whose checksums are right, as who does not look could have packed them."""
    rng = np.random.default_rng(SEED)
    kinds = [name for name in MUTATIONS if name not in ("image_tiff", "image_webp", "mask_jpeg", "image_for_mask")]
    samples, pairs = [], {}
    for number in range(request.param):
        name = kinds[number % len(kinds)]
        pair = MUTATIONS[name](rng, raw_pair(number), raw_pair(number + 1))
        sample = scene_sample(number, height=40, width=56)
        key = f"{number:04d}-{name}"
        pairs[key] = pair
        samples.append(
            type(sample)(
                key=key,
                height=40,
                width=56,
                image=pair.image,
                image_suffix="png" if pair.image_suffix == "png" else "jpg",
                target=pair.mask,
            )
        )
        samples.append(scene_sample(5000 + number, height=40, width=56))
    return write_dataset(tmp_path_factory.mktemp("foreign"), samples, per_shard=20), pairs


Foreign = tuple[PackedData, dict[str, RawPair]]


@pytest.mark.parametrize("loader", ["torch", "dali"])
def test_what_nobody_looked_at_is_replaced_and_named_or_is_what_its_files_show(foreign: Foreign, loader: str) -> None:
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    data, pairs = foreign
    whole = config(AUGMENTATIONS["crop"].__class__(**_whole(40, 56)), loader=loader, normalize="unit")
    units = [(step, 0) for step in range(data.manifest.split("train").num_samples // MICRO_BATCH)]
    batches = train(data, whole, units)
    delivered = [key for batch in batches for key in batch.keys]
    named = {bad.key: bad.reason for batch in batches for bad in batch.bad}
    assert len(delivered) == len(units) * MICRO_BATCH
    planned = _planned(data.train_plan(seed=3), data, len(units))
    assert not named.keys() & set(delivered)
    assert planned <= named.keys() | set(delivered)
    assert all(reason for reason in named.values())
    for batch in batches:
        for key, image, target in zip(batch.keys, batch.images, batch.targets, strict=True):
            if key not in pairs:
                continue
            seen = decode_image(pairs[key].image).astype(np.int16)
            fed = np.rint(image.permute(1, 2, 0).numpy() * 255)
            assert np.abs(seen - fed).mean() <= 2.0, key
            ids = decode_class_ids(pairs[key].mask)
            assert np.array_equal(ids, target.numpy()), key
            assert ((ids < NUM_CLASSES) | (ids == 255)).all(), key


def test_both_loaders_name_the_same(foreign: Foreign) -> None:
    pytest.importorskip("nvidia.dali")
    data, _ = foreign
    units = [(step, 0) for step in range(data.manifest.split("train").num_samples // MICRO_BATCH)]
    named = [
        [(bad.key, bad.reason) for batch in train(data, config(loader=loader), units) for bad in batch.bad]
        for loader in ("torch", "dali")
    ]
    assert named[0] == named[1]
    assert named[0]


def _whole(height: int, width: int) -> dict[str, object]:
    return {
        "crop_height": height,
        "crop_width": width,
        "scale_min": 1.0,
        "scale_max": 1.0,
        "flip_probability": 0.0,
    }


def _planned(plan: TrainPlan, data: PackedData, steps: int) -> set[str]:
    reader = ShardReader(data.view, "train")
    planned: Sequence = [sample for step in range(steps) for sample in micro_batch_at(plan, step, 0)]
    return {reader.info(sample.shard, sample.index).key for sample in planned}
