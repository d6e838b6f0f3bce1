"""Verifying packed instances: counts of objects that are not the annotations', annotations that are none."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dist_seg.data.codecs.annotations import ImageAnnotations, ObjectAnnotation
from dist_seg.data.formats.coco.instances import open_coco
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.raw.source import RawReading
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.shards.sidecar import INSTANCE_ROLES, Sidecar
from dist_seg.data.shards.verify import verify
from dist_seg.data.shards.verify_objects import PassingObjects
from dist_seg.data.shards.writer import EncodedMembers, write_shard
from dist_seg.masks.rle import encode_masks
from dist_seg.storage.object_store import open_storage

from ..coco_data import annotation, square, write_coco

_SHARD = "train-000001"


@pytest.fixture
def shards(instance_shards: Path, tmp_path: Path) -> Path:
    shutil.copytree(instance_shards, tmp_path / "data")
    return tmp_path / "data"


def _found(root: Path) -> list[str]:
    return [str(problem) for problem in verify(root)]


def _change(shards: Path, change: Callable[[dict[str, dict[str, object]]], None]) -> None:
    """Change the training split in a manifest whose hash fits all the same, as a faulty writer would."""
    path = shards / "manifest.json"
    document = json.loads(path.read_text())
    change(document["splits"]["train"])
    path.write_text(json.dumps(document))
    path.write_text(load_manifest(open_storage(shards)).to_json())


def test_nothing_is_wrong_with_what_was_packed(shards: Path) -> None:
    assert verify(shards) == []


def test_crowds_overlaps_and_annotations_left_out_are_no_problem(tmp_path: Path) -> None:
    entries = [annotation(i, segmentation=[square(2, 3, 5)], iscrowd=int(i == 0)) for i in range(5)]
    write_coco(tmp_path, [*entries, annotation(9, bbox=[0, 0, 0, 0])])
    pack(open_coco(tmp_path, reading=RawReading(skip_bad=True)), tmp_path / "out", PackOptions(skip_bad=True))
    assert verify(tmp_path / "out") == []


@pytest.mark.parametrize("suffix", ["inst.png", "json"])
def test_a_flipped_byte_is_traced_to_its_member(shards: Path, suffix: str) -> None:
    sidecar = Sidecar.parse((shards / f"{_SHARD}.samples").read_bytes())
    member = sidecar.member(2, "annotations" if suffix == "json" else "target")
    data = bytearray((shards / f"{_SHARD}.tar").read_bytes())
    data[member.offset + member.length // 2] ^= 0x10
    (shards / f"{_SHARD}.tar").write_bytes(data)
    assert _found(shards) == [f"{_SHARD}.tar: {sidecar.key(2)}.{suffix} is damaged (crc32c)"]


def test_a_wrong_number_of_objects_names_the_class(shards: Path) -> None:
    def change(split: dict[str, dict[str, object]]) -> None:
        split["objects"]["class_objects"][1] += 1  # type: ignore[index]  # of JSON

    _change(shards, change)
    assert _found(shards) == [
        "manifest.json: split train: counts 25 objects of class square, but its annotations have 24"
    ]


def test_a_wrong_number_of_pixels_names_the_class(shards: Path) -> None:
    def change(split: dict[str, dict[str, object]]) -> None:
        split["class_pixels"][0] -= 3  # type: ignore[index, operator]  # of JSON

    _change(shards, change)
    (problem,) = _found(shards)
    assert "split train: counts" in problem and "pixels of class disk, but its annotations have" in problem


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("crowd_objects", 3),
        ("max_objects", 77),
        ("overfull_objects", 1),
        ("hidden_pixels", 9),
        ("sides", [1.5, 2.5, 3.5, 4.5, 5.5]),
    ],
)
def test_a_wrong_count_is_named(shards: Path, name: str, value: object) -> None:
    def change(split: dict[str, dict[str, object]]) -> None:
        split["objects"][name] = value

    _change(shards, change)
    (problem,) = _found(shards)
    assert problem.startswith(f"manifest.json: split train: {name} is ")


def test_sides_of_areas_as_annotated_which_manifests_had_once_are_good_enough(shards: Path) -> None:
    def change(split: dict[str, dict[str, object]]) -> None:
        split["objects"]["sides"] = [side * 1.1 for side in split["objects"]["sides"]]  # type: ignore[attr-defined]

    _change(shards, change)
    assert _found(shards) == []


_RLE = encode_masks(np.ones((1, 4, 6), bool))[0][0]
_OBJECT = ObjectAnnotation(id=8, class_id=0, crowd=False, area=24, bbox=(0, 0, 6, 4), rle=_RLE, pixels=24, layer=0)


def _image(**changes: object) -> bytes:
    fields: dict[str, object] = {"image_id": 1, "file_name": "x", "height": 4, "width": 6, "objects": (_OBJECT,)}
    return ImageAnnotations(**{**fields, **changes}).to_json()  # type: ignore[arg-type]  # fields of their own types


def _object(**changes: object) -> bytes:
    fields = {
        name: getattr(_OBJECT, name) for name in ("id", "class_id", "crowd", "area", "bbox", "rle", "pixels", "layer")
    }
    return _image(objects=(ObjectAnnotation(**{**fields, **changes}),))


def _passed(folder: Path, documents: list[bytes], piece: int) -> PassingObjects:
    samples = [
        EncodedMembers(
            key=f"k{i}", height=4, width=6, image=b"i" * 700, image_suffix="png", target=b"t", annotations=document
        )
        for i, document in enumerate(documents)
    ]
    write_shard(folder, "train-000000.tar", iter(samples), INSTANCE_ROLES)
    passing = PassingObjects(Sidecar.parse((folder / "train-000000.samples").read_bytes()), num_classes=2)
    data = (folder / "train-000000.tar").read_bytes()
    for offset in range(0, len(data), piece):
        passing.feed(offset, data[offset : offset + piece])
    return passing


@pytest.mark.parametrize("piece", [1, 100, 1000, 10**6])
def test_annotations_are_read_whole_whatever_the_pieces(tmp_path: Path, piece: int) -> None:
    objects, pixels = _passed(tmp_path, [_image(), _image(objects=()), _image()], piece).counts()
    assert (objects.class_objects, objects.max_objects, pixels) == ((2, 0), 1, (48, 0))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"{}", "k1: json: not annotations as dist-seg packs them"),
        (_image(height=5), "k1: json: annotates an image of 6x5, the image has 6x4"),
        (_object(class_id=2), "k1: json: object 8 has class 2 and layer 0"),
        (_object(rle="u[U"), "k1: json: the mask of an object"),
        (_object(layer=3), "k1: json: object 8 has class 0 and layer 3"),
    ],
)
def test_annotations_that_are_none_are_named(tmp_path: Path, document: bytes, message: str) -> None:
    (problem,) = _passed(tmp_path, [_image(), document], 1000).problems
    assert problem.startswith(message)
