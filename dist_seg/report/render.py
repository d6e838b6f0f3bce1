"""The report of a finished run: its result, and its worst and best pictures predicted again."""

import io
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dist_seg.data.codecs.targets import decode_sample_image
from dist_seg.data.loading.loader import eval_batches
from dist_seg.data.plan.plan import EvalPlan
from dist_seg.data.shards.bad_shards import BadShardError
from dist_seg.data.view.data_view import DataView
from dist_seg.data.view.open import load_view
from dist_seg.data.view.pixel_values import check_images, shown
from dist_seg.data.view.reader import ShardReader
from dist_seg.distributed.world import World
from dist_seg.errors import DataError
from dist_seg.masks.drawing import contact_sheet, overlay
from dist_seg.report.page import write_report
from dist_seg.report.pictures import ReportPicture
from dist_seg.report.result import ExtremeImage, Result, extremes
from dist_seg.runs.folder import RunFolder, config_of_checkpoint, pick_checkpoint
from dist_seg.runs.model import TrainedModel, load_trained
from dist_seg.runtime.documents import decode
from dist_seg.runtime.memory import is_out_of_memory
from dist_seg.runtime.precision import autocast, dtype_of, resolve_precision
from dist_seg.storage.files import path_errors, write_whole
from dist_seg.tasks.build import build_task
from dist_seg.tasks.classes import class_info, with_classes

_log = logging.getLogger(__name__)
_NUM_PICTURES = 4


def render_report(folder: RunFolder, world: World) -> Path:
    """Writes a run's report from its event log, its result and its checkpoint; for one process.

    Where the memory is too small to predict the pictures, the report is drawn without them and says so. Raises
    UserError for a run or data that cannot be used, and if the report cannot be written.
    """
    result = _read_result(folder)
    step, weights = result.checkpoint.step, result.checkpoint.weights
    checkpoint = pick_checkpoint(folder, "last" if step is None else str(step))
    config = config_of_checkpoint(checkpoint)
    view = replace(load_view(config.data), num_threads=1)
    with path_errors(folder.config_file, "cannot be read"):
        config_yaml = folder.config_file.read_text(encoding="utf-8")
    notes = []
    try:
        trained = load_trained(checkpoint, weights, world.device)
        view = _of_the_model(trained, view)
        split = result.split or config.data.scored_split
        pictures = _pictures(extremes(result, _NUM_PICTURES), trained, view, split, world)
        sheet = _encoded(_draw_sheet(pictures, trained))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        pictures = []
        notes.append("There was not enough memory to predict the pictures: they are not shown.")
        _log.warning("%s: drawn without pictures: %s", folder.report_file, error)
    else:
        write_whole(folder.pictures_file, sheet)
    classes = build_task(config, class_info(view)).score_classes
    return write_report(folder.path, result, pictures, classes, config_yaml, notes)


def _read_result(folder: RunFolder) -> Result:
    file, remedy = folder.result_file, "Start the run again to finish it"
    if not file.is_file():
        raise DataError(f"{file}: missing; the run is not complete. {remedy}")
    with path_errors(file, "cannot be read", DataError):
        content = file.read_bytes()
    try:
        return decode(content, Result, str(file))
    except DataError as error:
        raise DataError(f"{error}. {remedy}") from error


def _of_the_model(trained: TrainedModel, view: DataView) -> DataView:
    """The data with the model's classes in the model's order."""
    check_images(trained.config.data, view, view.url)
    classes = trained.classes
    if sorted(view.class_names) != sorted(classes.names):
        raise DataError(
            f"{view.url}: its classes are not those that the model was trained for; it was packed again after the run"
        )
    return with_classes(view, classes)


def _pictures(
    wanted: Sequence[ExtremeImage], trained: TrainedModel, view: DataView, split: str, world: World
) -> list[ReportPicture]:
    if not wanted:
        return []
    reader = ShardReader(view, split)
    slots = _slots_of({image.key for image in wanted}, reader)
    counts = reader.shard_samples
    plan = EvalPlan(counts, batch=1)
    numbers = [slots[image.key] for image in wanted]
    precision = resolve_precision(trained.config.train.precision, world.device)
    pictures = []
    groups = eval_batches(trained.config, view, split, plan, numbers, world.device)
    for scored, number, group in zip(wanted, numbers, groups, strict=True):
        batch = group[0]
        with autocast(precision, world.device):
            images = batch.images.to(dtype_of(precision))
            prediction = trained.task.predict(trained.model, images, batch.targets.shape[-2:])
        place = plan.batch(number)[0]
        image = shown(decode_sample_image(reader.read(place.shard, place.index)), trained.config.data)
        drawing = trained.task.draw(image, prediction, batch)
        pictures.append(
            ReportPicture(kind=scored.kind, key=scored.key, score=scored.miou, image=image, drawing=drawing)
        )
    return pictures


def _draw_sheet(pictures: Sequence[ReportPicture], trained: TrainedModel) -> Image.Image:
    """Image, truth and prediction of every picture, for those who want a file rather than a page."""
    classes = trained.task.score_classes

    def painted(picture: ReportPicture, view: NDArray[np.integer] | Image.Image) -> NDArray[np.uint8]:
        if isinstance(view, Image.Image):
            return np.asarray(view)
        return overlay(picture.image, view, classes.palette, classes.ignore_index, alpha=0.7)

    return contact_sheet(
        [[p.image, painted(p, p.drawing.truth), painted(p, p.drawing.prediction)] for p in pictures],
        [f"{p.kind}: {p.key}, mIoU {p.score:.3f} (image, truth, prediction)" for p in pictures],
        # Objects have colours of their own.
        legend=() if trained.config.task == "instance" else list(zip(classes.names, classes.palette, strict=True)),
        title=f"step {trained.step}, {trained.weights} weights",
        columns=2,
    )


def _slots_of(keys: set[str], reader: ShardReader) -> dict[str, int]:
    """The places of some samples in the split, found by walking the indexes."""
    found: dict[str, int] = {}
    slot = 0
    for shard, count in enumerate(reader.shard_samples):
        try:
            for index in range(count):
                key = reader.info(shard, index).key
                if key in keys:
                    found[key] = slot + index
        except BadShardError as error:
            _log.warning("%s; it is passed over", error)
        slot += count
        if len(found) == len(keys):
            break
    missing = keys - set(found)
    if missing:
        raise DataError(f"the data has no sample {sorted(missing)[0]!r} any more; it was packed again after the run")
    return found


def _encoded(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()
