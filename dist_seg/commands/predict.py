"""`dist-seg predict`: masks and overlays of pictures, and instances as COCO's results, with a run's model."""

import argparse
import json
import sys
from pathlib import Path
from typing import cast

from dist_seg.data.view.pixel_values import layout_of_data
from dist_seg.distributed.collectives import gather_json, on_every_rank, on_main
from dist_seg.distributed.process_group import process_group
from dist_seg.distributed.world import World, detect_world, set_threads
from dist_seg.errors import ConfigError, UserError
from dist_seg.metrics.instances import gather_images
from dist_seg.predict.coco_results import annotated_ids, coco_results, running_ids
from dist_seg.predict.outputs import Outputs
from dist_seg.predict.pictures import (
    LEGEND_NAME,
    RESULTS_NAME,
    Picture,
    draw_legend,
    find_pictures,
    output_files,
    predict_pictures,
)
from dist_seg.predict.segment import segmenter
from dist_seg.runs.folder import open_run_folder, pick_checkpoint
from dist_seg.runs.model import TrainedModel, load_trained
from dist_seg.runtime.memory import keep_freed_memory
from dist_seg.runtime.precision import make_deterministic
from dist_seg.runtime.progress_bar import progress
from dist_seg.tasks.instance import InstanceTask
from dist_seg.tasks.multilabel import MultiLabelTask

_TIMEOUT_S = 24 * 3600.0
"""Ranks wait for the slowest at the end; how long it takes is not known before."""


def run_predict(options: argparse.Namespace) -> int:
    """The command, on this rank: 1 if a picture could not be read."""
    keep_freed_memory()
    if options.window is not None and options.window < 64:
        raise ConfigError(f"--window {options.window}: must be at least 64 pixels")
    if options.min_score is not None and not 0 <= options.min_score <= 1:
        raise ConfigError(f"--min-score {options.min_score}: must lie between 0 and 1")
    world = detect_world()
    set_threads(world, None)
    with process_group(world, _TIMEOUT_S):
        # Chosen once: a run that is still training may commit a newer checkpoint between two ranks' looks, and the
        # first outputs may lie among the pictures before the last rank has looked.
        checkpoint = str(on_main(lambda: _pick(options)))
        pictures, passed_over = _agreed_pictures(options.input, options.out)
        trained = on_every_rank(lambda: load_trained(checkpoint, options.weights, world.device))
        segment, ids = on_every_rank(
            lambda: (segmenter(trained, world, options), _image_ids(trained, pictures, options))
        )
        make_deterministic(trained.config, world.device)
        array = layout_of_data(trained.config.data)
        own = pictures[world.rank :: world.size]
        outputs = on_every_rank(lambda: _open_outputs(trained, own, options.out, world))
        with progress(len(own), "predict", show=world.is_main) as bar:
            summary = on_every_rank(
                lambda: predict_pictures(own, outputs, segment, array=array, on_picture=bar.advance)
            )
        gathered = cast(list[list[object]], gather_json([summary.written, list(summary.failed)]))
        found = gather_images(summary.found)
    failed = [reason for _, reasons in gathered for reason in cast(list[str], reasons)]
    if world.is_main:
        if trained.config.task == "instance":
            classes = trained.classes
            category_ids = classes.category_ids or tuple(range(1, len(classes.names) + 1))
            results = coco_results(found, ids, options.input, category_ids)
            outputs.write(options.out / RESULTS_NAME, json.dumps(results).encode())
        else:
            draw_legend(outputs, trained.classes.names, trained.classes.palette)
        for reason in failed:
            print(reason, file=sys.stderr)
        others = f", {passed_over} files that are no pictures passed over" if passed_over else ""
        unread = f", {len(failed)} unreadable" if failed else ""
        objects = f", {sum(len(image.predictions) for image in found)} instances in {RESULTS_NAME}" if found else ""
        written = sum(cast(int, count) for count, _ in gathered)
        print(f"{written} pictures segmented{objects}{unread}{others}: {options.out}")
    return 1 if failed else 0


def _pick(options: argparse.Namespace) -> str:
    return pick_checkpoint(open_run_folder(options.run_dir, must_exist=True), options.checkpoint)


def _agreed_pictures(root: Path, out: Path) -> tuple[list[Picture], int]:
    """What rank 0 finds, on every rank. A collective."""

    def find() -> object:
        pictures, passed_over = find_pictures(root, out)
        return [[(str(picture.file), str(picture.stem)) for picture in pictures], passed_over]

    found, passed_over = cast(tuple[list[tuple[str, str]], int], on_main(find))
    return [Picture(file=Path(file), stem=Path(stem)) for file, stem in found], passed_over


def _open_outputs(trained: TrainedModel, own: list[Picture], out: Path, world: World) -> Outputs:
    """Looks at what this rank is to write."""
    files = list(output_files(own, out, layers=isinstance(trained.task, MultiLabelTask)))
    if world.is_main:
        files.append(out / (RESULTS_NAME if isinstance(trained.task, InstanceTask) else LEGEND_NAME))
    return Outputs.open(out, files, world.rank)


def _image_ids(trained: TrainedModel, pictures: list[Picture], options: argparse.Namespace) -> dict[Path, int]:
    files = [picture.file for picture in pictures]
    if options.images is None:
        return running_ids(files)
    if trained.config.task != "instance":
        raise ConfigError(
            f"--images: gives ids to the results of instances, and this run's task is {trained.config.task}"
        )
    ids = annotated_ids(files, options.input, options.images)
    results = options.out / RESULTS_NAME
    if results.exists() and results.samefile(options.images):
        raise UserError(f"--out {options.out}: {results} is what --images names and would be overwritten; give another")
    return ids
