"""Shared by the tests of the loaders: small packed data sets, and the comparison of two loaders' batches."""

import io
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dist_seg.config.schema import AugmentConfig, Config, DataConfig, EvalConfig, TrainConfig
from dist_seg.data.loading.batch import Batch
from dist_seg.data.loading.loader import eval_batches, train_batches
from dist_seg.data.plan.plan import EvalPlan, TrainPlan
from dist_seg.data.shards.manifest import Manifest, Split
from dist_seg.data.shards.sidecar import INSTANCE_ROLES, SEMANTIC_ROLES
from dist_seg.data.shards.writer import EncodedMembers, write_shard
from dist_seg.data.view.data_view import DataView, whole_view
from dist_seg.data.view.open import load_view
from dist_seg.data.view.pixel_values import IMAGENET_STD
from dist_seg.storage.object_store import Storage, open_storage

CPU = torch.device("cpu")
NUM_CLASSES = 12
"""The number of CamVid's classes, including void."""

_STILL = AugmentConfig(crop_height=96, crop_width=128, scale_min=1.0, scale_max=1.0, flip_probability=0.0)
AUGMENTATIONS = {
    "crop": _STILL,
    "downscale": replace(_STILL, scale_min=0.3, scale_max=0.9),
    # Real pictures of 360x480 become smaller than the crop, and lie on padding.
    "pad": replace(_STILL, scale_min=0.1, scale_max=0.2, flip_probability=0.5),
    "upscale": replace(_STILL, scale_min=1.1, scale_max=2.5),
    "flip": replace(_STILL, flip_probability=1.0),
    "rotate": replace(_STILL, rotate_deg=40.0),
    "rotate_and_scale": replace(_STILL, rotate_deg=15.0, scale_min=0.4, scale_max=2.0),
    "brightness": replace(_STILL, brightness=0.4),
    "contrast": replace(_STILL, contrast=0.4),
    "saturation": replace(_STILL, saturation=0.6),
    "hue": replace(_STILL, hue_deg=25.0),
    "blur": replace(_STILL, blur_sigma_max=2.0, blur_probability=0.8),
    "all_but_rotation": replace(
        _STILL, scale_min=0.4, scale_max=2.2, flip_probability=0.5, brightness=0.3, contrast=0.3, saturation=0.3,
        hue_deg=10.0, blur_sigma_max=1.5,
    ),
    "all": replace(
        _STILL, scale_min=0.4, scale_max=2.2, flip_probability=0.5, brightness=0.3, contrast=0.3, saturation=0.3,
        hue_deg=10.0, blur_sigma_max=1.5, rotate_deg=20.0, rotate_probability=0.7,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class PackedData:
    """A packed data set on disk."""

    storage: Storage
    manifest: Manifest | DataView
    """What was packed, or a run's view of it."""

    @property
    def view(self) -> DataView:
        return self.manifest if isinstance(self.manifest, DataView) else whole_view(self.storage, self.manifest)

    def view_with(self, **fields: object) -> DataView:
        """The view with other threads or bad shards."""
        return replace(self.view, **fields)  # type: ignore[arg-type]

    def train_plan(self, *, global_batch: int = 4, micro_batch: int = 4, seed: int = 0) -> TrainPlan:
        samples = self.manifest.split("train").shard_samples
        return TrainPlan(samples, seed=seed, global_batch=global_batch, micro_batch=micro_batch, shuffle_window=8192)

    def eval_plan(self, *, batch: int, split: str = "train") -> EvalPlan:
        return EvalPlan(self.manifest.split(split).shard_samples, batch=batch)


def opened(shards: Path, **data: object) -> PackedData:
    """Packed data as a configuration with these fields of `data` sees it."""
    found = load_view(DataConfig(shards=str(shards), **data))  # type: ignore[arg-type]
    return PackedData(found.storage, found)


def write_dataset(folder: Path, samples: Sequence[EncodedMembers], *, per_shard: int = 5) -> PackedData:
    """Writes samples into one split `train`, unchecked: also samples that packing would refuse."""
    folder.mkdir(exist_ok=True)
    instances = samples[0].annotations is not None
    task = "instance" if instances else "multilabel" if samples[0].target_suffix == "multi.png" else "semantic"
    roles = INSTANCE_ROLES if instances else SEMANTIC_ROLES
    shards = []
    for start in range(0, len(samples), per_shard):
        name = f"train-{start // per_shard:06d}.tar"
        shards.append(write_shard(folder, name, iter(samples[start : start + per_shard]), roles))
    manifest = Manifest(
        task=task,
        class_names=tuple(f"class{i}" for i in range(NUM_CLASSES)),
        palette=((0, 0, 0),) * NUM_CLASSES,
        splits={"train": Split(shards=tuple(shards), class_pixels=(1,) * NUM_CLASSES, ignored_pixels=0)},
    )
    (folder / "manifest.json").write_text(manifest.to_json())
    return PackedData(open_storage(folder), manifest)


def camvid_samples(shared_data: Path, count: int) -> list[EncodedMembers]:
    """Real pictures of 360x480 pixels, spread over the sequences."""
    images = sorted((shared_data / "camvid" / "train").iterdir())
    chosen = images[:: max(1, len(images) // count)][:count]
    return [
        EncodedMembers(
            key=image.stem,
            height=360,
            width=480,
            image=image.read_bytes(),
            image_suffix="jpg",
            target=(shared_data / "camvid" / "trainannot" / f"{image.stem}.png").read_bytes(),
        )
        for image in chosen
    ]


def scene(seed: int, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A smooth picture (H, W, 3) with edges and texture, and a mask (H, W) of blocks of class ids."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    ids = rng.integers(0, NUM_CLASSES, (max(2, height // 12), max(2, width // 12)), dtype=np.uint8)
    mask = np.asarray(Image.fromarray(ids).resize((width, height), Image.Resampling.NEAREST))
    noise = rng.normal(0, 4, (height, width, 1))
    return np.clip(smooth + 6 * mask[..., None] - 30 + noise, 0, 255).astype(np.uint8), np.array(mask)


def encode(picture: NDArray[np.uint8], kind: str, **options: int | bool) -> bytes:
    """The bytes of a JPEG or PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, **options)
    return buffer.getvalue()


def scene_sample(seed: int, *, height: int = 120, width: int = 150, form: str = "jpeg420") -> EncodedMembers:
    """form: jpeg420, jpeg444, progressive, grey_jpeg, png or grey_png."""
    picture, mask = scene(seed, height, width)
    grey = picture[..., 1]
    match form:
        case "jpeg420":
            image = encode(picture, "JPEG", quality=92, subsampling=2)
        case "jpeg444":
            image = encode(picture, "JPEG", quality=95, subsampling=0)
        case "progressive":
            image = encode(picture, "JPEG", quality=92, progressive=True)
        case "grey_jpeg":
            image = encode(grey, "JPEG", quality=92)
        case "png":
            image = encode(picture, "PNG")
        case _:
            image = encode(grey, "PNG")
    return EncodedMembers(
        key=f"{form}-{seed:04d}",
        height=height,
        width=width,
        image=image,
        image_suffix="png" if form.endswith("png") else "jpg",
        target=encode(mask, "PNG"),
    )


def with_pixels(png: bytes, compressed: bytes) -> bytes:
    """The PNG with other contents in its first IDAT chunk, and correct checksums."""
    start = png.index(b"IDAT") - 4
    (length,) = struct.unpack_from(">I", png, start)
    body = b"IDAT" + compressed
    chunk = struct.pack(">I", len(compressed)) + body + struct.pack(">I", zlib.crc32(body))
    return png[:start] + chunk + png[start + 12 + length :]


def config(augment: AugmentConfig = _STILL, *, loader: str = "torch", **data: object) -> Config:
    """The loader, the augmentation and further fields of `data`."""
    assert loader in ("auto", "dali", "torch")
    return Config(
        augment=augment,
        data=replace(DataConfig(val_split="train"), loader=loader, **data),
        train=TrainConfig(seed=3),
        eval=EvalConfig(batch=3),
    )


def train(
    data: PackedData,
    cfg: Config,
    units: Iterable[tuple[int, int]],
    *,
    device: torch.device = CPU,
    num_threads: int = 1,
    global_batch: int = 4,
    micro_batch: int = 4,
) -> list[Batch]:
    plan = data.train_plan(global_batch=global_batch, micro_batch=micro_batch, seed=cfg.train.seed)
    if cfg.data.loader == "torch":
        num_threads = 0  # no processes
    return list(train_batches(cfg, data.view_with(num_threads=num_threads), plan, units, device))


def evaluate(
    data: PackedData,
    cfg: Config,
    *,
    batch: int = 3,
    device: torch.device = CPU,
    indices: Sequence[int] | None = None,
    split: str = "train",
) -> list[list[Batch]]:
    plan = data.eval_plan(batch=batch, split=split)
    chosen = range(plan.num_batches) if indices is None else indices
    num_threads = 0 if cfg.data.loader == "torch" else 1
    return list(eval_batches(cfg, data.view_with(num_threads=num_threads), split, plan, chosen, device))


def assert_same(reference: Sequence[Batch], other: Sequence[Batch], cfg: Config) -> None:
    """Keys and digests are equal, masks on 99.5% of the pixels, and images within 2 of 256 grey levels on average."""
    assert [batch.keys for batch in reference] == [batch.keys for batch in other]
    assert [batch.digest for batch in reference] == [batch.digest for batch in other]
    assert [batch.bad for batch in reference] == [batch.bad for batch in other]
    levels = 255 * torch.tensor(cfg.data.std or IMAGENET_STD).view(3, 1, 1)
    for a, b in zip(reference, other, strict=True):
        targets, images = b.targets.cpu(), b.images.cpu()
        assert a.images.dtype == b.images.dtype == torch.float32
        assert a.targets.dtype == b.targets.dtype
        assert (a.images.shape, a.targets.shape) == (images.shape, targets.shape)
        for i, key in enumerate(a.keys):
            equal = (a.targets[i] == targets[i]).float().mean().item()
            assert equal >= 0.995, f"{key}: only {equal:.4%} of the mask's pixels are equal"
            difference = ((a.images[i] - images[i]).abs() * levels).mean().item()
            assert difference <= 2.0, f"{key}: {difference:.2f} grey levels apart"
