"""`dist-seg report`: the result of a run as one HTML page, with its worst and best pictures predicted again."""

import argparse
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dist_seg.data.loader import eval_batches
from dist_seg.data.manifest import Manifest, load_manifest
from dist_seg.data.plan import EvalPlan
from dist_seg.data.reader import ShardReader
from dist_seg.drawing import contact_sheet, overlay
from dist_seg.engine.restore import TrainedModel, load_trained
from dist_seg.engine.run_folder import RunFolder, open_run_folder, pick_checkpoint
from dist_seg.errors import DataError
from dist_seg.report import write_report
from dist_seg.report_pictures import ReportPicture
from dist_seg.runtime.precision import autocast, dtype_of, resolve_precision
from dist_seg.runtime.storage import Storage, open_storage
from dist_seg.runtime.world import World, detect_world

_NUM_PICTURES = 4


def run_report(options: argparse.Namespace) -> int:
    """The command."""
    print(render_report(open_run_folder(options.run_dir, must_exist=True), detect_world()))
    return 0


def render_report(folder: RunFolder, world: World) -> Path:
    """Writes a run's report from its event log, its result and its checkpoint; for one process."""
    if not folder.result_file.is_file():
        raise DataError(f"{folder.result_file}: missing; the run is not complete. Start it again to finish it")
    result = cast(Mapping[str, object], json.loads(folder.result_file.read_text()))
    checkpoint = cast(Mapping[str, object], result["checkpoint"])
    weights = cast(Literal["ema", "raw"], checkpoint["weights"])
    trained = load_trained(pick_checkpoint(folder, str(checkpoint["step"])), weights, world.device)
    assert trained.config.data.shards is not None
    storage = open_storage(trained.config.data.shards)
    manifest = load_manifest(storage)
    split = str(result["split"])
    pictures = _pictures(result, trained, storage, manifest, split, world)
    _draw_sheet(pictures, trained).save(folder.pictures_file)
    return write_report(
        folder.path,
        result,
        pictures,
        trained.classes.names,
        trained.classes.palette,
        trained.classes.ignore_index,
        folder.config_file.read_text(),
    )


def _pictures(
    result: Mapping[str, object], trained: TrainedModel, storage: Storage, manifest: Manifest, split: str, world: World
) -> list[ReportPicture]:
    per_image = cast(Mapping[str, Sequence[Mapping[str, object]]], result["per_image"])
    wanted: list[tuple[Literal["worst", "best"], str, float]] = [
        (kind, str(entry["key"]), cast(float, entry["miou"]))
        for kind in ("worst", "best")
        for entry in per_image[kind][:_NUM_PICTURES]
    ]
    reader = ShardReader(storage, manifest, split)
    slots = _slots_of({key for _, key, _ in wanted}, reader)
    counts = reader.shard_samples
    plan = EvalPlan(counts, batch=1)
    numbers = [slots[key] for _, key, _ in wanted]
    precision = resolve_precision(trained.config.train.precision, world.device)
    pictures = []
    groups = eval_batches(trained.config, manifest, storage, split, plan, numbers, world.device, 1)
    for (kind, key, score), number, group in zip(wanted, numbers, groups, strict=True):
        batch = group[0]
        with autocast(precision, world.device):
            images = batch.images.to(dtype_of(precision))
            prediction = trained.task.predict(trained.model, images, batch.targets.shape[-2:])
        place = plan.batch(number)[0]
        pictures.append(
            ReportPicture(
                kind=kind,
                key=key,
                score=score,
                image=_rgb(reader.read(place.shard, place.index).image),
                truth=batch.targets[0].cpu().numpy(),
                prediction=prediction[0].cpu().numpy(),
            )
        )
    return pictures


def _draw_sheet(pictures: Sequence[ReportPicture], trained: TrainedModel) -> Image.Image:
    """Image, truth and prediction of every picture, for those who want a file rather than a page."""
    classes = trained.classes

    def painted(picture: ReportPicture, mask: NDArray[np.integer]) -> NDArray[np.uint8]:
        return overlay(picture.image, mask, classes.palette, classes.ignore_index, alpha=0.7)

    return contact_sheet(
        [[p.image, painted(p, p.truth), painted(p, p.prediction)] for p in pictures],
        [f"{p.kind}: {p.key}, mIoU {p.score:.3f} (image, truth, prediction)" for p in pictures],
        legend=list(zip(classes.names, classes.palette, strict=True)),
        title=f"step {trained.step}, {trained.weights} weights",
        columns=2,
    )


def _slots_of(keys: set[str], reader: ShardReader) -> dict[str, int]:
    """The places of some samples in the split, found by walking the indexes."""
    found: dict[str, int] = {}
    slot = 0
    for shard, count in enumerate(reader.shard_samples):
        for index in range(count):
            key = reader.info(shard, index).key
            if key in keys:
                found[key] = slot
            slot += 1
        if len(found) == len(keys):
            break
    missing = keys - set(found)
    if missing:
        raise DataError(f"the data has no sample {sorted(missing)[0]!r} any more; it was packed anew since the run")
    return found


def _rgb(encoded: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert("RGB"))
