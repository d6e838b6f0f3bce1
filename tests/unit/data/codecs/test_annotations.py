import json
from dataclasses import replace

import pytest

from dist_seg.data.codecs.annotations import ImageAnnotations, ObjectAnnotation, parse_annotations
from dist_seg.data.codecs.headers import UndecodableError

ANNOTATIONS = ImageAnnotations(
    image_id=7,
    file_name="sub/ä.png",
    height=4,
    width=6,
    objects=(
        ObjectAnnotation(
            id=3, class_id=0, crowd=False, area=2.5, bbox=(1.0, 0.5, 2.0, 1.0), rle="04", pixels=4, layer=0
        ),
        ObjectAnnotation(
            id=9, class_id=1, crowd=True, area=9.0, bbox=(0, 0, 3, 3), rle="12", pixels=2, layer=2, hidden=4
        ),
    ),
)


def test_what_was_written_is_read() -> None:
    assert parse_annotations(ANNOTATIONS.to_json()) == ANNOTATIONS


def test_what_only_pythons_decoder_reads_is_read_too() -> None:
    found = replace(ANNOTATIONS.objects[0], area=float("inf"))
    written = replace(ANNOTATIONS, file_name="\udcff.png", objects=(found,))
    assert parse_annotations(written.to_json()) == written


def test_an_object_has_the_fields_of_coco() -> None:
    entry = json.loads(ANNOTATIONS.to_json())["annotations"][0]
    assert entry["segmentation"] == {"size": [4, 6], "counts": "04"}
    assert (entry["category_id"], entry["iscrowd"], entry["bbox"]) == (0, 0, [1.0, 0.5, 2.0, 1.0])


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b"\xff", ANNOTATIONS.to_json().replace(b'"layer":0', b'"layer":"a"')]
)
def test_anything_else_is_undecodable(data: bytes) -> None:
    with pytest.raises(UndecodableError, match="json: not annotations as dist-seg packs them"):
        parse_annotations(data)
