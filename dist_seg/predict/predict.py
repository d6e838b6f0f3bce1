"""Segments pictures in files with a run's model: for the command, and for calls from Python."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dist_seg.data.view.pixel_values import layout_of_data
from dist_seg.distributed.collectives import gather_json, on_every_rank, on_main
from dist_seg.distributed.process_group import process_group
from dist_seg.distributed.world import World
from dist_seg.errors import ConfigError, UserError
from dist_seg.metrics.instances import ImageInstances, gather_images
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
from dist_seg.predict.segment import Segmenter, build_segmenter
from dist_seg.runs.folder import open_run_folder, pick_checkpoint
from dist_seg.runs.model import TrainedModel, load_trained
from dist_seg.runtime.documents import convert
from dist_seg.runtime.precision import make_deterministic
from dist_seg.runtime.progress_bar import progress

_TIMEOUT_S = 24 * 3600.0
"""At the end the ranks wait for the slowest one, for a time that is not known beforehand."""
_LEAST_WINDOW = 64


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """The pictures to segment, the model, and where the results go. Raises ConfigError for values out of range."""

    run_dir: Path
    checkpoint: str = "last"
    """`best`, `last` or a step."""
    weights: Literal["ema", "raw"] | None = None
    """None: the moving average if the run kept one."""
    input: Path
    """A picture, or a folder of them."""
    out: Path
    window: int | None = None
    """Side in pixels of the windows of large pictures; None chooses it."""
    min_score: float | None = None
    """Instances only: those with a lower score are left out of masks and overlays, but not of `predictions.json`. None:
    `eval.merge_threshold`."""
    images: Path | None = None
    """Instances only: COCO annotations that give the pictures their ids. None counts from 1."""

    def __post_init__(self) -> None:
        if self.window is not None and self.window < _LEAST_WINDOW:
            raise ConfigError(f"--window {self.window}: must be at least {_LEAST_WINDOW} pixels")
        if self.min_score is not None and not 0 <= self.min_score <= 1:
            raise ConfigError(f"--min-score {self.min_score}: must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class PredictSummary:
    """The results for the pictures of all ranks."""

    written: int
    """Pictures segmented."""
    instances: int | None
    """Objects found; None for other tasks."""
    failed: tuple[str, ...]
    """Files that could not be read, each with the reason."""
    passed_over: int
    """Files that were skipped because they are not pictures."""


def predict(options: PredictOptions, world: World) -> PredictSummary:
    """Segments the pictures and writes masks, overlays and, for instances, COCO's results. A collective.

    Pictures that cannot be read are named in the summary; the others are segmented. Raises UserError for a run,
    pictures or an output folder that cannot be used.
    """
    with process_group(world, _TIMEOUT_S):
        # Rank 0 chooses the checkpoint and the pictures for all ranks: a run that is still training may commit a newer
        # checkpoint before the last rank looks, and the first outputs may be among the pictures by then.
        checkpoint = str(on_main(lambda: _pick(options)))
        pictures, passed_over = _agreed_pictures(options.input, options.out)
        trained = on_every_rank(lambda: load_trained(checkpoint, options.weights, world.device))
        segmenter, ids = on_every_rank(
            lambda: (
                build_segmenter(trained, world.device, window=options.window, min_score=options.min_score),
                _image_ids(trained, pictures, options),
            )
        )
        make_deterministic(trained.config, world.device)
        array = layout_of_data(trained.config.data)
        own = pictures[world.rank :: world.size]
        outputs = on_every_rank(lambda: _open_outputs(segmenter, own, options.out, world))
        with progress(len(own), "predict", show=world.is_main) as bar:
            summary = on_every_rank(
                lambda: predict_pictures(own, outputs, segmenter.segment, array=array, on_picture=bar.advance)
            )
        gathered = convert(
            gather_json([summary.written, list(summary.failed)]), list[tuple[int, list[str]]], "the ranks' summaries"
        )
        found = gather_images(summary.found)
    if world.is_main:
        _write_results(segmenter, trained, found, ids, options, outputs)
    return PredictSummary(
        written=sum(written for written, _ in gathered),
        instances=sum(len(image.predictions) for image in found) if segmenter.kind == "objects" else None,
        failed=tuple(reason for _, reasons in gathered for reason in reasons),
        passed_over=passed_over,
    )


def _pick(options: PredictOptions) -> str:
    return pick_checkpoint(open_run_folder(options.run_dir, must_exist=True), options.checkpoint)


def _agreed_pictures(root: Path, out: Path) -> tuple[list[Picture], int]:
    """The pictures that rank 0 finds, on every rank. A collective."""

    def find() -> object:
        pictures, passed_over = find_pictures(root, out)
        return [[(str(picture.file), str(picture.stem)) for picture in pictures], passed_over]

    found, passed_over = convert(on_main(find), tuple[list[tuple[str, str]], int], "rank 0's pictures")
    return [Picture(file=Path(file), stem=Path(stem)) for file, stem in found], passed_over


def _image_ids(trained: TrainedModel, pictures: Sequence[Picture], options: PredictOptions) -> dict[Path, int]:
    files = [picture.file for picture in pictures]
    if options.images is None:
        return running_ids(files)
    if trained.config.task != "instance":
        raise ConfigError(
            f"--images: only gives ids to the results of instances, and this run's task is {trained.config.task}"
        )
    ids = annotated_ids(files, options.input, options.images)
    results = options.out / RESULTS_NAME
    if results.exists() and results.samefile(options.images):
        raise UserError(f"--out {options.out}: {results} is what --images names and would be overwritten; give another")
    return ids


def _open_outputs(segmenter: Segmenter, own: Sequence[Picture], out: Path, world: World) -> Outputs:
    """The output folder, once this rank has checked the files that it will write."""
    files = list(output_files(own, out, layers=segmenter.kind == "label_layers"))
    if world.is_main:
        files.append(out / (RESULTS_NAME if segmenter.kind == "objects" else LEGEND_NAME))
    return Outputs.open(out, files, world.rank)


def _write_results(
    segmenter: Segmenter,
    trained: TrainedModel,
    found: Sequence[ImageInstances],
    ids: dict[Path, int],
    options: PredictOptions,
    outputs: Outputs,
) -> None:
    """Writes the file for all pictures together: instances in COCO's format, or the legend of the classes."""
    classes = trained.classes
    if segmenter.kind == "objects":
        category_ids = classes.category_ids or tuple(range(1, len(classes.names) + 1))
        results = coco_results(found, ids, options.input, category_ids)
        outputs.write(options.out / RESULTS_NAME, json.dumps(results).encode())
    else:
        draw_legend(outputs, classes.names, classes.palette)
