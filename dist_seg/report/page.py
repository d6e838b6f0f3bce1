"""The report of a run: one HTML file, made from the run's event logs and its result, that needs no network."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from dist_seg import __version__
from dist_seg.masks.palette import Rgb
from dist_seg.report.pictures import Panel, ReportPicture, panels
from dist_seg.report.plots import Curve, curve_svg
from dist_seg.report.result import (
    CocoResult,
    LeftOut,
    Result,
    ap_rows,
    cells,
    class_rows,
    finite,
    interval,
    matrix,
)
from dist_seg.runtime.plural import count_of
from dist_seg.runtime.progress_bar import duration
from dist_seg.storage.files import write_whole
from dist_seg.tasks.classes import ClassInfo
from dist_seg.telemetry.accounting import PARTS, TimeAccount, time_account
from dist_seg.telemetry.events import (
    BadSampleFound,
    BadShardFound,
    CheckpointFailed,
    EvalDone,
    RunStarted,
    StepDone,
)
from dist_seg.telemetry.jsonl import Record, logged_ranks, read_log, without_superseded

_ABSENT = "\N{EN DASH}"
_FAILED_SAVES_SHOWN = 3
_PART_LABELS = {
    "data_wait": "data wait",
    "optimizer": "optimiser",
    "startup": "start-up",
    "lost": "steps lost to restarts",
    "down": "down",
}


@dataclass(frozen=True, kw_only=True)
class _Tile:
    label: str
    value: str
    plain: bool = False
    alarm: bool = False


@dataclass(frozen=True, kw_only=True)
class _Chart:
    title: str
    svg: Markup


@dataclass(frozen=True, kw_only=True)
class _TimePart:
    name: str
    label: str
    share: float
    time: str


@dataclass(frozen=True, kw_only=True)
class _Picture:
    key: str
    score: float
    panels: list[Panel]


def write_report(
    run_dir: Path,
    result: Result,
    pictures: Sequence[ReportPicture],
    classes: ClassInfo,
    config_yaml: str,
    notes: Sequence[str] = (),
) -> Path:
    """Writes `run_dir`/report.html and returns its path.

    notes: what the reader should know first. Curves and times come from the run's event logs and are left out if there
    are none. The file appears whole or not at all; raises UserError if it cannot be written.
    """
    log = read_log(run_dir)
    page = (
        _environment()
        .get_template("page.html.j2")
        .render(
            _run_part(run_dir, log, [*notes, *_failed_saves(log)])
            | _result_part(result, classes)
            | {
                "pictures": _picture_groups(pictures, classes.palette, classes.ignore_index),
                "fact_lists": [("Data", _data(result, log)), ("Environment", _environment_facts(log))],
                "sample_lists": [
                    ("Left out of the score", result.left_out),
                    ("Bad samples in training", _bad_samples(run_dir, log)),
                    ("Bad shards in training", _bad_shards(log)),
                ],
                "config_yaml": config_yaml,
            }
        )
    )
    return write_whole(run_dir / "report.html", page)


def _environment() -> jinja2.Environment:
    def load(name: str) -> str:
        return resources.files("dist_seg.report").joinpath(name).read_text("utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(load),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["score"] = _score
    environment.filters["percent"] = _percent
    return environment


def _score(value: float | None) -> str:
    return _ABSENT if finite(value) is None else f"{value:.3f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _result_part(result: Result, classes: ClassInfo) -> dict[str, object]:
    rows = class_rows(result, classes.names, ["#{:02x}{:02x}{:02x}".format(*color) for color in classes.palette])
    score, bounds, label = result.miou, result.miou_interval, "mean IoU"
    tiles = _pixel_tiles(result)
    if result.coco is not None:
        score, bounds, label = result.mask_ap, result.mask_ap_interval, "mask AP"
        tiles = _instance_tiles(result, result.coco) + tiles
    return {
        "split": result.split,
        "score_label": label,
        "score": finite(score),
        "interval": interval(bounds),
        "tiles": tiles,
        "class_aps": ap_rows(result),
        "classes": rows,
        "num_absent": sum(row.absent for row in rows),
        "cells": list(cells(matrix(result, len(classes.names)))),
    }


def _instance_tiles(result: Result, coco: CocoResult) -> list[_Tile]:
    """COCO's numbers except the mask AP, which the page shows in large type."""
    masks, boxes = coco.segm, coco.bbox
    most = "" if coco.max_detections is None else f", {coco.max_detections} per image"
    rows = [
        ("mask AP50", masks.ap50),
        ("mask AP75", masks.ap75),
        ("mask AP, small", masks.ap_small),
        ("mask AP, medium", masks.ap_medium),
        ("mask AP, large", masks.ap_large),
        (f"mask AR{most}", masks.ar_max),
        ("box AP", boxes.ap),
        ("box AP50", boxes.ap50),
        ("mean IoU of classes", result.miou),
    ]
    return [_Tile(label=label, value=_score(value)) for label, value in rows]


def _pixel_tiles(result: Result) -> list[_Tile]:
    step, weights = result.checkpoint.step, result.checkpoint.weights
    num_left_out = len(result.left_out)
    return [
        _Tile(label="pixel accuracy", value=_score(result.pixel_accuracy)),
        _Tile(label="mean accuracy", value=_score(result.mean_accuracy)),
        _Tile(label="mean Dice", value=_score(result.mean_dice)),
        _Tile(label="frequency-weighted IoU", value=_score(result.frequency_weighted_iou)),
        _Tile(label="images", value=_ABSENT if result.images is None else str(result.images)),
        _Tile(label="left out", value=str(num_left_out), alarm=num_left_out > 0),
        _Tile(label="checkpoint", value=f"step {_ABSENT if step is None else step}", plain=True),
        _Tile(label="weights", value=weights or _ABSENT, plain=True),
    ]


def _run_part(run_dir: Path, log: Sequence[Record], notes: Sequence[str]) -> dict[str, object]:
    account = time_account(log)
    events = without_superseded(log)
    restarts = [r.event.step for r in events if isinstance(r.event, RunStarted) and r.event.step > 0]
    skipped = [r.event.step for r in events if isinstance(r.event, StepDone) and r.event.skipped]
    remarks = ["Dotted lines: the run was resumed."] if restarts else []
    remarks += [f"Red marks: {count_of(len(skipped), 'skipped step')}."] if skipped else []
    now = datetime.datetime.now().astimezone()
    return {
        "title": run_dir.resolve().name,
        "subtitle": f"dist-seg {__version__}, {now:%Y-%m-%d %H:%M %Z}",
        "notes": [*_notes(account), *notes],
        "charts": _charts(events, restarts, skipped),
        "chart_note": " ".join(remarks),
        "time_parts": _time_parts(account),
        "goodput": _percent(account.goodput),
        "wall": duration(account.wall_s),
        "starts": account.starts,
        "startup": _last_startup(events),
    }


def _last_startup(events: Sequence[Record]) -> str:
    """The parts of the last start-up in one line; empty for a log of an earlier version."""
    parts = next((r.event.startup for r in reversed(events) if isinstance(r.event, RunStarted)), {})
    return ", ".join(f"{part.replace('_', ' ')} {seconds:.1f} s" for part, seconds in parts.items())


def _notes(account: TimeAccount) -> list[str]:
    if not account.starts:
        return ["The run has no event log, so curves and times are not shown."]
    match account.outcome:
        case "complete":
            return []
        case "unknown":
            return ["The training did not log its end: it was killed or is still running."]
        case outcome:
            ended = "The training failed" if outcome == "failed" else f"The training was {outcome}"
            return [f"{ended}: {account.reason}." if account.reason else f"{ended}."]


def _charts(events: Sequence[Record], restarts: Sequence[int], skipped: Sequence[int]) -> list[_Chart]:
    steps = [r.event for r in events if isinstance(r.event, StepDone)]
    evaluations = [r.event for r in events if isinstance(r.event, EvalDone)]
    score, label = "miou", "mIoU"
    if any("mask_ap" in event.metrics for event in evaluations):
        score, label = "mask_ap", "mask AP"
    evaluations = [event for event in evaluations if score in event.metrics]
    at = [event.step for event in steps]
    curves = [
        Curve(
            title="training loss",
            steps=at,
            values=[event.loss for event in steps],
            smooth=True,
            marked_steps=skipped,
            restarts=restarts,
        ),
        Curve(
            title=f"validation {label}",
            steps=[event.step for event in evaluations],
            values=[event.metrics[score] for event in evaluations],
            points=True,
            restarts=restarts,
        ),
        Curve(title="learning rate", steps=at, values=[event.lr for event in steps], restarts=restarts),
        Curve(
            title="gradient norm",
            steps=at,
            values=[event.grad_norm for event in steps],
            smooth=True,
            restarts=restarts,
        ),
    ]
    drawn = [(curve.title, curve_svg(curve)) for curve in curves]
    return [_Chart(title=title, svg=Markup(svg)) for title, svg in drawn if svg]


def _time_parts(account: TimeAccount) -> list[_TimePart]:
    if account.wall_s <= 0:
        return []
    return [
        _TimePart(
            name=part,
            label=_PART_LABELS.get(part, part),
            share=account.seconds[part] / account.wall_s,
            time=duration(account.seconds[part]),
        )
        for part in PARTS
        if part not in ("lost", "down") or account.seconds[part] > 0
    ]


def _picture_groups(
    pictures: Sequence[ReportPicture], palette: Sequence[Rgb], ignore_index: int
) -> list[tuple[str, list[_Picture]]]:
    groups = []
    for kind, heading in (("worst", "Worst predictions"), ("best", "Best predictions")):
        chosen = [
            _Picture(key=picture.key, score=picture.score, panels=panels(picture, palette, ignore_index))
            for picture in pictures
            if picture.kind == kind
        ]
        if chosen:
            groups.append((heading, chosen))
    return groups


def _data(result: Result, log: Sequence[Record]) -> list[tuple[str, str]]:
    started = _last_start(log)
    lines = [("manifest (evaluation)", result.manifest_hash or _ABSENT)]
    if started:
        lines += [
            ("manifest (training)", started.manifest_hash),
            ("classes", str(len(started.class_names))),
            ("global batch", str(started.global_batch)),
            ("micro-batch", str(started.micro_batch)),
            ("steps per epoch", str(started.steps_per_epoch)),
            ("steps", str(started.max_steps)),
        ]
    return lines


def _environment_facts(log: Sequence[Record]) -> list[tuple[str, str]]:
    started = _last_start(log)
    if not started:
        return []
    engine = [] if started.engine == "ddp" else [("engine", started.engine)]
    return [("device", started.device), ("ranks", str(started.world_size)), *engine, *started.versions.items()]


def _last_start(log: Sequence[Record]) -> RunStarted | None:
    return next((r.event for r in reversed(log) if isinstance(r.event, RunStarted)), None)


def _failed_saves(log: Sequence[Record]) -> list[str]:
    """A line for each of the first checkpoints that could not be written, and the number of the others."""
    failed = [record.event for record in log if isinstance(record.event, CheckpointFailed)]
    lines = [f"No checkpoint was written at step {e.step}: {e.reason}" for e in failed[:_FAILED_SAVES_SHOWN]]
    more = len(failed) - len(lines)
    return [*lines, f"{count_of(more, 'more checkpoint')} could not be written."] if more else lines


def _bad_shards(log: Sequence[Record]) -> list[LeftOut]:
    """Every bad shard once, with the number of its samples as the key."""
    events = {r.event.shard: r.event for r in log if isinstance(r.event, BadShardFound)}
    return [
        LeftOut(key=f"all {event.samples}", shard=shard, reason=event.reason) for shard, event in sorted(events.items())
    ]


def _bad_samples(run_dir: Path, log: Sequence[Record]) -> list[LeftOut]:
    """The bad samples of all ranks, each once."""
    found: dict[tuple[str, str], LeftOut] = {}
    for rank in logged_ranks(run_dir):
        for record in log if rank == 0 else read_log(run_dir, rank):
            if isinstance(record.event, BadSampleFound):
                event = record.event
                found[event.shard, event.key] = LeftOut(key=event.key, shard=event.shard, reason=event.reason)
    return [found[name] for name in sorted(found)]
