import base64
import dataclasses
import html
import html.parser
import io
import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dist_seg.checkpoint.state import CheckpointMeta, TrainingState
from dist_seg.config.load import load_config, to_tree, to_yaml
from dist_seg.data.view.open import load_view
from dist_seg.data.view.reader import ShardReader
from dist_seg.distributed.world import World
from dist_seg.errors import DataError, UserError
from dist_seg.report import render
from dist_seg.report.page import write_report
from dist_seg.report.pictures import ReportPicture, error_map, panels
from dist_seg.report.plots import Curve, curve_svg, smoothed
from dist_seg.report.render import render_report
from dist_seg.report.result import (
    KeyedScore,
    PerImage,
    Result,
    cells,
    class_rows,
    extremes,
    finite,
    interval,
)
from dist_seg.runs.folder import RunFolder
from dist_seg.runtime.documents import convert
from dist_seg.tasks.build import build_task
from dist_seg.tasks.classes import ClassInfo, class_info, manifest_meta
from dist_seg.tasks.task import Drawing, PixelErrors, class_errors
from dist_seg.telemetry.events import (
    BadSampleFound,
    BadShardFound,
    CheckpointFailed,
    EvalDone,
    Event,
    NonFiniteStep,
    RunEnded,
    RunStarted,
    StepDone,
)
from dist_seg.telemetry.jsonl import JsonLinesSink

CLASS_NAMES = ("sky", "<b>road</b> & co", "unicorn")
PALETTE = ((10, 20, 30), (200, 0, 0), (0, 200, 0))
CLASSES = ClassInfo(names=CLASS_NAMES, palette=PALETTE, ignore_index=255)
RESULT: dict[str, object] = {
    "split": "val",
    "miou": 0.68349,
    "miou_interval": [0.6612, 0.7051],
    "iou": {"sky": 0.9, "<b>road</b> & co": 0.46698, "unicorn": None},
    "dice": {"sky": 0.95, "<b>road</b> & co": 0.64, "unicorn": None},
    "class_accuracy": {"sky": 0.97, "<b>road</b> & co": 0.5, "unicorn": None},
    "pixel_accuracy": 0.9123,
    "mean_accuracy": 0.735,
    "frequency_weighted_iou": 0.85,
    "mean_dice": 0.795,
    "absent_classes": ["unicorn"],
    "confusion_matrix": [[90, 10, 0], [5, 5, 0], [0, 0, 0]],
    "images": 101,
    "left_out": [{"key": "0016E5_1", "shard": "val-000000.tar", "reason": "half a <JPEG>"}],
    "checkpoint": {"step": 800, "weights": "ema"},
    "manifest_hash": "0123abcd",
}


def step(number_of_step: int, loss: float = 1.0, skipped: bool = False) -> StepDone:
    return StepDone(
        step=number_of_step,
        epoch=0,
        loss=loss,
        parts={},
        lr=0.1,
        grad_norm=loss,
        skipped=skipped,
        samples=1,
        step_s=1.0,
        data_wait_s=0.1,
        forward_s=0.3,
        backward_s=0.4,
        optimizer_s=0.1,
    )


def start(at_step: int = 0) -> RunStarted:
    return RunStarted(
        step=at_step,
        max_steps=8,
        steps_per_epoch=4,
        world_size=2,
        global_batch=2,
        micro_batch=1,
        device="cpu",
        class_names=CLASS_NAMES,
        manifest_hash="0123abcd",
        versions={"torch": "2.14.1"},
        startup_s=1.0,
        startup={"imports": 0.75, "process_group": 0.25},
        engine="deepspeed, ZeRO-2",
    )


def end(at_step: int, outcome: str = "complete", reason: str = "") -> RunEnded:
    return RunEnded(step=at_step, outcome=outcome, reason=reason, wall_s=10.0, seconds={"forward": 7.5, "startup": 2.5})


def log(run_dir: Path, events: Sequence[Event], rank: int = 0) -> None:
    sink = JsonLinesSink(run_dir, rank=rank)
    for event in events:
        sink.emit(event)
    sink.close()


def picture(kind: str = "worst", key: str = "a/1") -> ReportPicture:
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, (6, 8))
    return ReportPicture(
        kind=kind,  # type: ignore[arg-type]
        key=key,
        score=0.25,
        image=random.integers(0, 256, (6, 8, 3)).astype(np.uint8),
        drawing=drawing_of(truth, 1 - truth),
    )


def drawing_of(truth: NDArray[np.integer], prediction: NDArray[np.integer]) -> Drawing:
    return Drawing(truth=truth, prediction=prediction, errors=class_errors(truth, prediction, 255))


def page_of(
    run_dir: Path,
    result: dict[str, object] = RESULT,
    pictures: Sequence[ReportPicture] = (),
    config_yaml: str = "optim:\n  lr: 0.01\n",
) -> str:
    path = write_report(run_dir, convert(result, Result, "result.json"), pictures, CLASSES, config_yaml)
    return path.read_text(encoding="utf-8")


@pytest.fixture
def full_page(tmp_path: Path) -> str:
    evaluation = EvalDone(step=2, split="val", weights="ema", metrics={"miou": 0.5}, images=3, eval_s=1.0)
    log(tmp_path, [start(), step(1), step(2), evaluation, step(3), end(3)])
    return page_of(tmp_path, pictures=[picture("worst"), picture("best", "b/<2>")])


class Reader(html.parser.HTMLParser):
    """Checks that tags are closed in the order in which they were opened; collects links and ids."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in {"src", "href", "xlink:href", "srcset", "data", "action"}:
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def test_the_page_is_one_well_formed_document(full_page: str) -> None:
    reader = read(full_page)
    assert {"html", "body", "svg", "table", "img", "details"} <= reader.tags


def test_the_page_holds_everything_that_it_shows(full_page: str) -> None:
    reader = read(full_page)
    assert all(link.startswith(("data:image/", "#")) for link in reader.links)
    assert sum(link.startswith("data:") for link in reader.links) == 8
    assert "script" not in reader.tags
    assert not re.findall(r"url\((?!#)", full_page)


def test_no_two_elements_share_an_id(full_page: str) -> None:
    ids = read(full_page).ids
    assert len(set(ids)) == len(ids)


def test_the_result_comes_first(full_page: str) -> None:
    shown = full_page[full_page.index("<body>") :]
    assert 0 < shown.index("0.683") < shown.index("Curves") < shown.index("Classes")
    assert "0.661 to 0.705" in shown
    assert "step 800" in shown


@pytest.mark.parametrize("text", ["<b>road</b> & co", "half a <JPEG>", "b/<2>"])
def test_names_are_shown_as_text(full_page: str, text: str) -> None:
    assert html.escape(text) in full_page
    assert text not in full_page


def test_the_config_is_shown_as_text(tmp_path: Path) -> None:
    page = page_of(tmp_path, config_yaml="run:\n  dir: '</pre><script>alert(1)</script>'\n")
    assert "script" not in read(page).tags


def test_a_class_that_nothing_has_is_marked_absent(full_page: str) -> None:
    row = full_page[full_page.index('<tr class="absent">') :]
    assert "unicorn" in row[: row.index("</tr>")]
    assert full_page.count('<tr class="absent">') == 1
    assert "The means leave out 1 of 3 classes, which occur neither" in full_page


def test_pixels_of_labels_are_counted_one_label_at_a_time() -> None:
    counts = {"true_positives": 30, "false_negatives": 10, "false_positives": 5, "true_negatives": 155}
    others = {"true_positives": 0, "false_negatives": 150, "false_positives": 0, "true_negatives": 50}
    document = {"iou": {"wet": 30 / 45, "road": 0.0}, "label_counts": {"wet": counts, "road": others}}
    wet, road = class_rows(convert(document, Result, "result.json"), ["wet", "road"], ["#000000"] * 2)
    assert (wet.truth_pixels, wet.share) == (40, 0.2)
    assert (road.truth_pixels, road.share) == (150, 0.75)  # Together they may be more than all pixels.
    damaged = {**document, "label_counts": {"wet": {**counts, "true_positives": "30"}}}
    with pytest.raises(DataError, match=r"label_counts\.wet\.true_positives is '30'"):
        convert(damaged, Result, "result.json")
    rows = class_rows(Result(iou={"wet": 0.5, "road": None}), ["wet", "road"], ["#000000"] * 2)
    assert [row.truth_pixels for row in rows] == [None, None]


def test_the_last_start_up_is_shown_by_part_and_the_engine_among_the_facts(full_page: str) -> None:
    assert "Last start-up: imports 0.8 s, process group 0.2 s." in full_page
    assert "deepspeed, ZeRO-2" in full_page


def test_the_time_is_shown_with_the_goodput(full_page: str) -> None:
    assert "75.0% of 10 s was spent training" in full_page


def test_bad_shards_are_listed_once_with_their_reason(tmp_path: Path) -> None:
    bad = BadShardFound(step=0, shard="train-000003.tar", reason="is <missing>", samples=12)
    log(tmp_path, [start(), bad, step(1), start(), bad, step(1)])
    text = page_of(tmp_path)
    assert text.count("train-000003.tar") == 1
    assert "Bad shards in training: 1" in text
    assert "all 12" in text
    assert "is &lt;missing&gt;" in text


def test_bad_samples_of_all_ranks_are_listed_once(tmp_path: Path) -> None:
    first = BadSampleFound(step=1, key="key-one", shard="train-000001.tar", reason="garbage")
    second = BadSampleFound(step=1, key="key-two", shard="train-000001.tar", reason="wrong crc")
    log(tmp_path, [start(), first, first])
    log(tmp_path, [start(), second, first], rank=1)
    page = page_of(tmp_path)
    assert "Bad samples in training: 2" in page
    assert (page.count("key-one"), page.count("key-two")) == (1, 1)


def test_failed_checkpoints_are_named_the_first_three_and_the_rest_counted(tmp_path: Path) -> None:
    failures = [CheckpointFailed(step=number, reason=f"full <disk> {number}") for number in range(1, 6)]
    log(tmp_path, [start(), *failures, end(6)])
    page = page_of(tmp_path, config_yaml="")
    shown = [f"No checkpoint was written at step {n}: full &lt;disk&gt; {n}" in page for n in range(1, 6)]
    assert shown == [True, True, True, False, False]
    assert "2 more checkpoints could not be written." in page


def test_a_run_without_a_log_still_has_a_report(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    assert "has no event log" in page
    assert "<h2>Curves</h2>" not in page


def test_a_run_that_was_killed_is_said_to_be(tmp_path: Path) -> None:
    log(tmp_path, [start(), step(1)])
    assert "did not log its end" in page_of(tmp_path)


def test_the_reason_of_a_failed_run_is_named(tmp_path: Path) -> None:
    log(tmp_path, [start(), step(1), end(1, "failed", "rank 1 ran out of memory")])
    assert "The training failed: rank 1 ran out of memory." in page_of(tmp_path)


def test_numbers_that_are_not_finite_leave_gaps(tmp_path: Path) -> None:
    bad = NonFiniteStep(step=2, loss=math.nan, grad_norm=math.inf, keys=("a",))
    log(tmp_path, [start(), step(1), step(2, math.nan, skipped=True), bad, step(3, math.inf), end(3)])
    page = page_of(tmp_path, RESULT | {"miou": math.nan, "miou_interval": [math.nan, math.nan]})
    assert "Red marks: 1 skipped step." in page
    assert "nan" not in page.lower().replace("&#", "")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"confusion_matrix": [[None, 10, 0], [5, "x", 0], [0, 0, 0]]}, r"confusion_matrix\[0\]\[0\]"),
        ({"confusion_matrix": [[-90, 90, 0], [5, 5, 0], [0, 0, 0]]}, r"confusion_matrix\[0\]\[0\] is -90"),
        ({"iou": None}, "iou is None"),
        ({"class_accuracy": 3}, "class_accuracy is 3: expected object, got int"),
        ({"dice": []}, r"dice is \[\]"),
        ({"dice": {"sky": "0.5"}}, r"dice\.sky is '0.5'"),
        ({"left_out": [None, "text"]}, r"left_out\[0\] is None"),
        ({"left_out": ["text"]}, r"left_out\[0\] is 'text'"),
        ({"checkpoint": None}, "checkpoint is None"),
        ({"miou_interval": ["low", 1]}, r"miou_interval\[0\] is 'low'"),
        ({"miou_interval": [True, 0.5]}, r"miou_interval\[0\] is True"),
        ({"miou": True}, "miou is True"),
        ({"miou": "0.5"}, "miou is '0.5'"),
        ({"miou": [0.5]}, r"miou is \[0.5\]"),
        ({"per_image": {"worst": [{"miou": 0.1}]}}, r"per_image\.worst\[0\]\.key is missing"),
        ({"per_image": {"worst": ["c"]}}, r"per_image\.worst\[0\] is 'c'"),
        ({"per_image": {"best": None}}, r"per_image\.best is None"),
    ],
)
def test_a_field_of_another_kind_is_refused_by_its_name(
    tmp_path: Path, damage: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=f"^result.json: {message}"):
        page_of(tmp_path, RESULT | damage)


def test_a_matrix_of_another_size_is_not_shown(tmp_path: Path) -> None:
    page = page_of(tmp_path, RESULT | {"confusion_matrix": [[1, 2], [3, 4]]})
    assert "<h2>Confusion matrix</h2>" not in page
    read(page)


def test_images_without_a_score_are_not_among_the_extremes() -> None:
    entries = (KeyedScore(key="b", miou=None), KeyedScore(key="c", miou=math.nan), KeyedScore(key="a", miou=0.5))
    assert [image.key for image in extremes(Result(per_image=PerImage(worst=entries)), 4)] == ["a"]
    assert extremes(Result(), 4) == []


def test_a_result_with_missing_fields_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    page = page_of(tmp_path, {"miou": 0.5})
    assert "0.500" in page
    assert "<h2>Confusion matrix</h2>" not in page
    read(page)


def test_the_report_replaces_the_old_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    page_of(tmp_path)
    page_of(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_error_map_is_red_where_wrong_white_where_ignored_and_grey_elsewhere() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    shown = error_map(image, class_errors(np.array([[0, 1, 255]]), np.array([[0, 0, 0]]), 255))
    right, wrong, ignored = shown[0]
    assert list(right) == [150, 150, 150]
    assert wrong[0] > 180 > 110 > wrong[1]
    assert list(ignored) == [255, 255, 255]


def test_pictures_of_different_sizes_are_refused() -> None:
    good = picture()
    drawing = good.drawing
    assert isinstance(drawing.truth, np.ndarray)
    short_errors = PixelErrors(wrong=drawing.errors.wrong[:-1], ignored=drawing.errors.ignored[:-1])
    for changed in (
        dataclasses.replace(drawing, truth=drawing.truth[:-1]),
        dataclasses.replace(drawing, errors=short_errors),
    ):
        bad = ReportPicture(kind="worst", key="k", score=0.0, image=good.image, drawing=changed)
        with pytest.raises(ValueError, match="k: image, truth and prediction differ in size"):
            panels(bad, PALETTE, 255)


def test_a_large_picture_is_shrunk_with_its_proportions() -> None:
    image = np.zeros((600, 1200, 3), np.uint8)
    truth = np.zeros((600, 1200), np.int64)
    large = ReportPicture(kind="best", key="k", score=1.0, image=image, drawing=drawing_of(truth, truth))
    assert {(panel.width, panel.height) for panel in panels(large, PALETTE, 255)} == {(640, 320)}


def test_a_long_curve_is_drawn_with_few_points() -> None:
    short, long = (
        curve_svg(Curve(title="t", steps=range(count), values=np.linspace(1, 0, count).tolist()))
        for count in (400, 100_000)
    )
    assert len(long) < 1.5 * len(short)


def test_a_curve_without_a_finite_value_is_not_drawn() -> None:
    assert curve_svg(Curve(title="t", steps=[1, 2], values=[math.nan, math.inf])) == ""


def test_the_colours_of_a_curve_are_the_pages() -> None:
    svg = curve_svg(Curve(title="t", steps=[1, 2], values=[1.0, 2.0]))
    assert "var(--accent)" in svg
    assert "#0102" not in svg


def test_smoothing_leaves_a_constant_and_a_straight_middle_alone() -> None:
    np.testing.assert_allclose(smoothed(np.full(100, 3.0)), 3.0)
    np.testing.assert_allclose(smoothed(np.arange(100.0))[10:90], np.arange(100.0)[10:90])


def test_cells_carry_shares_of_their_row() -> None:
    found = [(cell.row, cell.column, cell.share, cell.count) for cell in cells([[3, 1], [0, 0]])]
    assert found == [(0, 0, 0.75, 3), (0, 1, 0.25, 1)]


def test_class_rows_count_the_pixels_of_the_truth() -> None:
    rows = class_rows(convert(RESULT, Result, "result.json"), CLASS_NAMES, ("#000", "#111", "#222"))
    assert [row.truth_pixels for row in rows] == [100, 10, 0]
    assert rows[0].share == pytest.approx(100 / 110)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_is_absent(value: float | None) -> None:
    assert finite(value) is None
    assert interval((value, 0.5)) is None
    assert interval((0.5, value)) is None
    assert interval(None) is None


INSTANCES: dict[str, object] = {
    **RESULT,
    "mask_ap": 0.412,
    "mask_ap_interval": [0.38, 0.44],
    "box_ap": 0.437,
    "coco": {
        "max_detections": 500,
        "segm": {"ap": 0.412, "ap50": 0.7111, "ap_large": None, "class_ap": {"car": 0.5222, "<i>van</i>": None}},
        "bbox": {"ap": 0.437, "class_ap": {"car": 0.5333, "<i>van</i>": None}},
    },
}


def test_a_result_of_instances_begins_with_the_mask_ap_and_lists_it_by_class(tmp_path: Path) -> None:
    evaluation = EvalDone(
        step=2, split="val", weights="ema", metrics={"mask_ap": 0.4, "miou": 0.5}, images=3, eval_s=1.0
    )
    log(tmp_path, [start(), step(1), step(2), evaluation, step(3), end(3)])
    page = page_of(tmp_path, INSTANCES)
    assert page.index("mask AP, split val") < page.index("0.412") < page.index("95% interval 0.380 to 0.440")
    assert all(number in page for number in ("0.711", "0.522", "0.533", "0.437", "0.683"))
    assert "validation mask AP" in page and "validation mIoU" not in page
    assert "<i>van</i>" not in page


def test_objects_that_are_drawn_are_shown_instead_of_colours_of_classes() -> None:
    red, blue = Image.new("RGB", (16, 12), (255, 0, 0)), Image.new("RGB", (16, 12), (0, 0, 255))
    plain = picture()
    shown = dataclasses.replace(plain, drawing=dataclasses.replace(plain.drawing, truth=red, prediction=blue))
    _, truth, prediction, _ = panels(shown, PALETTE, 255)
    for panel, color in ((truth, (255, 0, 0)), (prediction, (0, 0, 255))):
        drawn = Image.open(io.BytesIO(base64.b64decode(panel.uri.partition(",")[2])))
        assert drawn.size == (16, 12)
        assert np.abs(np.asarray(drawn, np.int64) - color).max() <= 2


@pytest.fixture(scope="module")
def trained(synthetic_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A folder with a checkpoint of random weights and the result of scoring two images with it."""
    folder = RunFolder(path=tmp_path_factory.mktemp("report") / "run")
    small = ["model.encoder=resnet18", "model.weights=null", "model.aspp_channels=8", "model.decoder_channels=8"]
    config = load_config(
        [], ["task=semantic", f"data.shards={synthetic_shards}", "data.loader=torch", "data.num_threads=0", *small]
    )
    view = load_view(config.data)
    model = build_task(config, class_info(view)).build_model()
    meta = CheckpointMeta(step=5, config=to_tree(config), manifest=manifest_meta(view), world_size=1)
    weights = model.state_dict()
    folder.checkpoints.save(TrainingState(meta=meta, model=weights, ema=weights, optimizer={}))
    folder.write_text("config.yaml", to_yaml(config))
    keys = [ShardReader(view, "val").info(0, i).key for i in (0, 1)]
    images = [{"key": key, "miou": 0.5} for key in keys]
    scored = {"step": 5, "weights": "ema"}
    folder.write_json(
        "result.json",
        {"checkpoint": scored, "split": "val", "miou": 0.5, "per_image": {"worst": images, "best": images}},
    )
    return folder


@pytest.fixture
def run(trained: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy that a test may damage."""
    return RunFolder(path=shutil.copytree(trained.path, tmp_path / "run"))


def test_pictures_are_predicted_and_laid_out_on_a_sheet(run: RunFolder) -> None:
    page = render_report(run, World()).read_text()
    assert page.count("<figure") == 4
    assert run.pictures_file.is_file()


@pytest.mark.parametrize("missing", ["checkpoint", "split", "per_image", "miou"])
def test_a_field_that_the_result_lacks_does_not_stop_the_report(run: RunFolder, missing: str) -> None:
    result = json.loads(run.result_file.read_text())
    run.write_json("result.json", {name: value for name, value in result.items() if name != missing})
    assert render_report(run, World()).is_file()


@pytest.mark.parametrize("content", ["", "[]", '{"miou": '])
def test_an_unreadable_result_is_named(run: RunFolder, content: str) -> None:
    run.result_file.write_text(content)
    with pytest.raises(DataError, match=r"result\.json: .*Start the run again"):
        render_report(run, World())


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("[enforce] can't allocate memory")],
)
def test_without_memory_for_the_pictures_the_report_is_drawn_and_says_so(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(render, "load_trained", fail)
    page = render_report(run, World()).read_text()
    assert "not enough memory to predict the pictures" in page
    assert "<figure" not in page


def test_another_failure_of_the_pictures_is_not_taken_for_a_lack_of_memory(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(render, "load_trained", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        render_report(run, World())


@pytest.mark.parametrize("name", ["report.html", "pictures.png"])
def test_an_output_that_cannot_be_written_is_named(run: RunFolder, name: str) -> None:
    (run.path / name).mkdir()
    with pytest.raises(UserError, match=f"{name}: cannot be written"):
        render_report(run, World())
