"""Instance scores: the same document on every rank at 1, 2 and 3 ranks, with the numbers of pycocotools."""

from pathlib import Path

import pytest

from dist_seg.distributed.world import World
from dist_seg.metrics.ap_interval import ap_interval
from dist_seg.metrics.coco import score_images
from dist_seg.metrics.instances import gather_images
from tests.distributed.ranks import ending, run_ranks
from tests.unit.metrics.instance_scenes import scenes
from tests.unit.metrics.pycocotools_scores import differences, summary

pytestmark = pytest.mark.distributed

CLASSES = ("cell", "debris", "tissue")
CASES = [7, 2, 1, 0]
"""Images; none of these numbers is one that 2 and 3 divide, and some leave ranks without any."""
LIMIT = 300


def score_cases(world: World, piece_bytes: int) -> list[dict[str, object]]:
    documents = []
    for num_images in CASES:
        images = scenes(num_images, seed=num_images, num_classes=len(CLASSES), num_scores=3)
        own = images[world.rank :: world.size][::-1]  # the order of arrival must not matter
        gathered = gather_images(own, piece_bytes=piece_bytes)
        scores = score_images(gathered, CLASSES, max_detections=LIMIT)
        ends = ap_interval(gathered, scores.mask_overlaps, max_detections=LIMIT, num_resamples=20, seed=0)
        documents.append({**scores.document(), "images": len(gathered), "interval": [repr(end) for end in ends]})
    return documents


def gather_twice(world: World) -> dict[str, object]:
    return ending(lambda: gather_images(scenes(1, seed=0, num_classes=1)))


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, object]]]:
    """Of every rank of every run, those of all cases."""
    folder = tmp_path_factory.mktemp("scores")
    runs = [
        run_ranks(f"{__name__}:score_cases", size, folder, piece_bytes=piece_bytes)
        for size, piece_bytes in ((1, 10_000_000), (2, 10_000_000), (3, 8_000))
    ]
    return [rank for run in runs for rank in run]  # type: ignore[misc]  # JSON of what score_cases returns


@pytest.mark.parametrize("case", range(len(CASES)))
def test_document_is_the_same_on_every_rank_and_number_of_ranks(
    documents: list[list[dict[str, object]]], case: int
) -> None:
    found = [cases[case] for cases in documents]
    assert len(found) == 1 + 2 + 3
    assert all(document == found[0] for document in found)
    assert found[0]["images"] == CASES[case]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_numbers_are_those_of_pycocotools_in_one_process(
    documents: list[list[dict[str, object]]], case: int, iou_type: str
) -> None:
    images = scenes(CASES[case], seed=CASES[case], num_classes=len(CLASSES), num_scores=3)
    expected = summary(images, len(CLASSES), iou_type, LIMIT)
    expected["class_ap"] = dict(zip(CLASSES, expected["class_ap"].values(), strict=True))  # type: ignore[attr-defined]
    for cases in documents:
        assert differences(cases[case][iou_type], expected) == []


def test_image_on_two_ranks_is_noticed_by_both(tmp_path: Path) -> None:
    for end in run_ranks(f"{__name__}:gather_twice", 2, tmp_path):
        assert "image-000 was scored twice" in end["text"]  # type: ignore[index]  # as `ending` returns it
