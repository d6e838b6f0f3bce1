"""Packing instances: the same bytes however it is done, everything counted, nothing lost when it is cut off."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
from PIL import Image

from dist_seg.data.codecs.annotations import ImageAnnotations
from dist_seg.data.codecs.object_layers import RawObject, decode_object_layers
from dist_seg.data.formats.coco.instances import open_coco
from dist_seg.data.formats.synthetic import SyntheticInstances, SyntheticSource
from dist_seg.data.packing.folder import PackState
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.raw.source import RawInstances, RawReading, RawSample, SampleRef
from dist_seg.data.shards.manifest import ObjectCounts
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.shards.verify import verify
from dist_seg.data.view.data_view import whole_view
from dist_seg.data.view.reader import ShardReader
from dist_seg.errors import DataError
from dist_seg.masks.rle import decode_mask, encode_masks
from dist_seg.storage.object_store import open_storage

from ..coco_data import HEIGHT, WIDTH, annotation, image_entry, square, write_coco
from ..raw_data import encoded, picture


@dataclass(frozen=True)
class BoxSource:
    """Images of 20x30 with a box of 4x5 pixels for each class named: `{"a": (0, 1, 1)}` has three, side by side."""

    images: dict[str, tuple[int, ...]]
    crowds: frozenset[str] = frozenset()
    wrong: dict[str, object] = field(default_factory=dict)
    """What is given instead of a sample."""
    task: ClassVar[Literal["instance"]] = "instance"
    class_names: ClassVar[tuple[str, ...]] = ("a", "b")
    category_ids: ClassVar[tuple[int, ...]] = (5, 9)
    palette: ClassVar[tuple[tuple[int, int, int], ...]] = ((0, 0, 0), (1, 1, 1))
    ignore_index: ClassVar[int] = 255

    def samples(self) -> Sequence[SampleRef]:
        return [SampleRef(key=key, split="train", where=f"{key}.png") for key in self.images]

    def load(self, sample: SampleRef) -> RawInstances:
        if sample.key in self.wrong:
            return self.wrong[sample.key]  # type: ignore[return-value]  # what readers may give
        masks = np.zeros((len(self.images[sample.key]), HEIGHT, WIDTH), bool)
        for i, mask in enumerate(masks):
            mask[2:6, 5 * i : 5 * i + 5] = True
        classes = self.images[sample.key]
        objects = (
            RawObject(id=i, class_id=classes[i], crowd=sample.key in self.crowds, rle=rle)
            for i, (rle, _) in enumerate(encode_masks(masks))
        )
        image = encoded(Image.fromarray(picture(HEIGHT, WIDTH)), "PNG")
        return RawInstances(
            image=image, objects=tuple(objects), height=HEIGHT, width=WIDTH, image_id=1, file_name=sample.where
        )


_SCENES = SyntheticInstances(scenes=SyntheticSource(num_train=12, num_val=4, height=32, width=40))


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _counts(folder: Path, split: str = "train") -> ObjectCounts:
    counts = load_manifest(open_storage(folder)).splits[split].objects
    assert counts is not None
    return counts


def _annotations(folder: Path) -> dict[str, ImageAnnotations]:
    """Of every sample, through the reader that training uses."""
    storage = open_storage(folder)
    reader = ShardReader(whole_view(storage, load_manifest(storage)), "train")
    samples = [reader.read(shard, i) for shard, count in enumerate(reader.shard_samples) for i in range(count)]
    return {sample.key: sample.annotations for sample in samples if sample.annotations is not None}


def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path) -> None:
    for workers in (1, 2):
        pack(_SCENES, tmp_path / str(workers), PackOptions(workers=workers, shard_bytes=10_000))
    assert _contents(tmp_path / "1") == _contents(tmp_path / "2")


def test_annotations_read_back_are_those_of_the_file(tmp_path: Path) -> None:
    images = [image_entry(1, "sub/ä.jpg"), image_entry(33), image_entry(4)]
    entries = [annotation(7, 33), annotation(8, 1, category_id=90), annotation(9, 33, iscrowd=1)]
    write_coco(tmp_path, entries, images=images)
    pack(open_coco(tmp_path), tmp_path / "out", PackOptions(workers=2, shard_bytes=3000))
    found = _annotations(tmp_path / "out")
    assert {key: a.image_id for key, a in found.items()} == {"sub__ä": 1, "33": 33, "4": 4}
    assert {key: a.file_name for key, a in found.items()} == {"sub__ä": "sub/ä.jpg", "33": "33.jpg", "4": "4.jpg"}
    assert [(o.id, o.class_id, o.crowd) for o in found["33"].objects] == [(7, 0, False), (9, 0, True)]
    assert [(o.id, o.class_id, o.bbox) for o in found["sub__ä"].objects] == [(8, 1, (2.0, 3.0, 5.0, 5.0))]
    assert found["4"].objects == ()


def test_objects_and_pixels_are_counted_by_class(tmp_path: Path) -> None:
    result = pack(BoxSource({"x": (0, 1, 1), "y": (), "z": (1,)}), tmp_path)
    split = result.manifest.splits["train"]
    assert (split.class_pixels, split.ignored_pixels) == ((20, 60), 0)
    assert _counts(tmp_path) == ObjectCounts(
        class_objects=(1, 3),
        crowd_objects=0,
        max_objects=3,
        sides=_counts(tmp_path).sides,
        overfull_objects=0,
        hidden_pixels=0,
        skipped_annotations=0,
    )
    assert all(abs(side - 20**0.5) < 20**0.5 / 12 for side in _counts(tmp_path).sides)


def test_sides_are_those_of_the_masks_whatever_area_is_annotated(tmp_path: Path) -> None:
    write_coco(tmp_path, [annotation(i, segmentation=[square(2, 3, 12)], area=i % 2 * 1e9) for i in range(3)])
    pack(open_coco(tmp_path), tmp_path / "out")
    assert all(abs(side - 12) < 1 for side in _counts(tmp_path / "out").sides)
    assert [o.area for o in _annotations(tmp_path / "out")["1"].objects] == [0, 1e9, 0]  # for COCO's scores


def test_crowds_are_counted_apart(tmp_path: Path) -> None:
    result = pack(BoxSource({"x": (0,), "y": (1, 1)}, crowds=frozenset({"y"})), tmp_path)
    counts = _counts(tmp_path)
    assert (counts.class_objects, counts.crowd_objects, counts.max_objects) == ((1, 0), 2, 1)
    assert result.manifest.splits["train"].class_pixels == (20, 0)


def test_overlaps_beyond_the_layers_are_counted(tmp_path: Path) -> None:
    write_coco(tmp_path, [annotation(i, segmentation=[square(2, 3, 5)]) for i in range(5)])
    pack(open_coco(tmp_path), tmp_path / "out")
    counts = _counts(tmp_path / "out")
    assert (counts.overfull_objects, counts.hidden_pixels) == (2, 50)


def test_packing_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = 0

    def cut_off(state: PackState, shard: object) -> None:
        nonlocal recorded
        recorded += 1
        if recorded == 3:
            raise KeyboardInterrupt
        real(state, shard)  # type: ignore[arg-type]  # a shard's record

    real = PackState.record
    with monkeypatch.context() as patched:
        patched.setattr(PackState, "record", cut_off)
        with pytest.raises(KeyboardInterrupt):
            pack(_SCENES, tmp_path / "out", PackOptions(shard_bytes=10_000))
    assert pack(_SCENES, tmp_path / "out", PackOptions(shard_bytes=10_000)).kept_shards == 2
    pack(_SCENES, tmp_path / "whole", PackOptions(shard_bytes=10_000))
    assert _contents(tmp_path / "out") == _contents(tmp_path / "whole")


def test_packing_again_keeps_what_is_the_same_wherever_it_stands_in_the_file(tmp_path: Path) -> None:
    entries = [annotation(1), annotation(2, 2)]
    images = [image_entry(1), image_entry(2)]
    write_coco(tmp_path, entries, images=images)
    pack(open_coco(tmp_path), tmp_path / "out")
    file = tmp_path / "annotations" / "instances_train2017.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "info": "moved by a few bytes", "annotations": entries[::-1]}))
    assert pack(open_coco(tmp_path), tmp_path / "out").written_shards == 0


def test_packing_again_after_a_change_is_refused_and_with_leave_replaces(tmp_path: Path) -> None:
    file = write_coco(tmp_path, [annotation(1), annotation(2)])
    pack(open_coco(tmp_path), tmp_path / "out")
    file.write_text(file.read_text().replace('"area": 25.0', '"area": 24.0', 1))
    with pytest.raises(DataError, match=r"source has changed.*--overwrite"):
        pack(open_coco(tmp_path), tmp_path / "out")
    pack(open_coco(tmp_path), tmp_path / "out", overwrite=True)
    assert [o.area for o in _annotations(tmp_path / "out")["1"].objects] == [24.0, 25.0]


def test_a_real_data_set_is_read_back_object_by_object(shared_data: Path, tmp_path: Path) -> None:
    pack(open_coco(shared_data / "coco100"), tmp_path, PackOptions(workers=2, shard_bytes=8_000_000))
    assert verify(tmp_path) == []
    storage = open_storage(tmp_path)
    reader = ShardReader(whole_view(storage, load_manifest(storage)), "train")
    for shard, count in enumerate(reader.shard_samples):
        for i in range(count):
            sample = reader.read(shard, i)
            assert sample.annotations is not None
            layers = decode_object_layers(sample.target, sample.height)
            for number, found in enumerate(sample.annotations.objects, 1):
                exact = decode_mask(found.rle, sample.height, sample.width)
                visible = layers[found.layer] == number
                assert not (visible & ~exact).any()
                assert exact.sum() - visible.sum() == found.hidden
    counts = _counts(tmp_path)
    assert (counts.total, counts.crowd_objects, counts.skipped_annotations) == (740, 6, 0)


def test_annotations_left_out_are_refused_again_without_leave(tmp_path: Path) -> None:
    write_coco(tmp_path, [annotation(1), annotation(2, bbox=[0, 0, 0, 0])])
    lenient = RawReading(skip_bad=True)
    pack(open_coco(tmp_path, reading=lenient), tmp_path / "out", PackOptions(skip_bad=True))
    assert pack(open_coco(tmp_path, reading=lenient), tmp_path / "out", PackOptions(skip_bad=True)).written_shards == 0
    with pytest.raises(DataError, match=r"annotation 2 of 1\.jpg"):
        pack(open_coco(tmp_path), tmp_path / "out")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (RawSample(image=b"", mask=np.zeros((2, 2), np.uint8)), "x.png: the reader gave a RawSample"),
        (
            RawInstances(
                image=encoded(Image.fromarray(picture(4, 5)), "PNG"),
                objects=(RawObject(id=8, class_id=2, crowd=False, rle=""),),
                height=4,
                width=5,
                image_id=1,
                file_name="f",
            ),
            "x.png: object 8 has class 2; the classes are 0 to 1",
        ),
    ],
)
def test_what_a_reader_gave_wrongly_is_named(tmp_path: Path, given: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pack(BoxSource({"x": ()}, wrong={"x": given}), tmp_path)


def test_a_reader_of_an_unknown_task_is_refused(tmp_path: Path) -> None:
    class Misspelt(BoxSource):
        task = "instances"  # type: ignore[assignment]  # a reader may be anything

    with pytest.raises(DataError, match="the reader's task is 'instances', must be semantic, multilabel or instance"):
        pack(Misspelt({"x": ()}), tmp_path)  # type: ignore[arg-type]  # the same
